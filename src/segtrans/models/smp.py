"""Models of segmentation_models_pytorch: every architecture on every encoder, or a folder it saved."""

import json
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import segmentation_models_pytorch as smp
import timm
from torch import nn

from segtrans.errors import DataError, UsageError, first_line, unknown
from segtrans.models.base import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, SegModel
from segtrans.models.checkpoint import RANDOM, load_weights
from segtrans.paths import at_home

Colour = tuple[float, float, float]

HALF: tuple[Colour, Colour] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
DPN: tuple[Colour, Colour] = (124 / 255, 117 / 255, 104 / 255), (0.2348, 0.2348, 0.2348)
NORMALISATION = {"dpn": DPN, "inception": HALF, "xception": HALF, "timm-tf_efficientnet_lite": HALF}
"""Mean and std of the encoders, by the start of their names, that were not trained with ImageNet's: smp keeps them
on a server."""

UNFIT = (ValueError, TypeError, NotImplementedError, AssertionError, LookupError, AttributeError)
"""What encoders raise where a network cannot be built on them, or not with the stride that it asks for."""

FURTHER_STRIDE = {"dpt": 2, "pan": 8}
"""Image sides must be multiples of the encoder's output stride, and of what the decoder shrinks its map by."""


def load(name: str, weights: str | None, classes: int | None) -> SegModel:
    """``ARCHITECTURE/ENCODER`` with the weights of a file or random ones, or a folder made by ``save_pretrained``."""
    folder = at_home(name)
    if (folder / "config.json").is_file() or name.startswith(("/", ".", "~")):
        return _load_folder(folder, weights, classes)
    architecture, slash, encoder = name.partition("/")
    if not slash or not encoder:
        raise UsageError(f"smp model {name!r} is neither ARCHITECTURE/ENCODER nor a folder with config.json")
    if weights is None or classes is None:
        raise UsageError(
            f"smp ships no trained segmentation weights; write smp:{name}?weights=FILE&classes=N, or weights={RANDOM}"
        )
    return _build(architecture, encoder, {"classes": classes}, None if weights == RANDOM else Path(weights), name)


def _load_folder(folder: Path, weights: str | None, classes: int | None) -> SegModel:
    if classes is not None:
        raise UsageError(f"{folder}: the folder says how many classes its model has; leave classes={classes} out")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        options = {k: v for k, v in config.items() if not k.startswith("_")}
        architecture, encoder = str(config["_model_class"]).lower(), str(options.pop("encoder_name"))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{folder / 'config.json'}: no configuration of an smp model ({error!r})") from None
    if (channels := options.get("in_channels", 3)) != 3:
        raise UsageError(f"{folder}: the model takes images of {channels} channels; allowed are 3")
    # An activation would turn logits into probabilities.
    options |= {"activation": None}
    file = folder / "model.safetensors" if weights is None else Path(weights)
    return _build(architecture, encoder, options, None if weights == RANDOM else file, folder.resolve().name)


def _build(architecture: str, encoder: str, options: dict[str, Any], file: Path | None, name: str) -> SegModel:
    if architecture not in smp.MODEL_ARCHITECTURES_MAPPING:
        raise unknown("smp architecture", architecture, smp.MODEL_ARCHITECTURES_MAPPING)
    # A folder's weights replace the encoder's, but were trained as these had been.
    mean, std, fixed = encoder_settings(encoder, options.pop("encoder_weights", None))

    def create(**more: Any) -> nn.Module:
        with warnings.catch_warnings():
            # smp advises against its `timm-` encoders, but a checkpoint leaves no choice among encoders.
            warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
            return smp.create_model(architecture, encoder, encoder_weights=None, **(options | more))

    try:
        network, size = _any_size(create, options.get("img_size", fixed)) if fixed else (create(), None)
    except UNFIT as error:
        raise UsageError(f"smp cannot put {architecture} on encoder {encoder} ({first_line(error)})") from None
    if file is not None:
        load_weights(network, at_home(file))
    stride = cast(int, cast(Any, network).encoder.output_stride)
    multiple = 1 if size else stride * FURTHER_STRIDE.get(architecture, 1)
    preprocessing = Preprocessing(mean=mean, std=std, fixed_size=size, multiple=multiple)
    classes = options.get("classes", 1)
    backbone = encoder.removeprefix("tu-")
    return SegModel(network, classes, preprocessing=preprocessing, name=name, backbone=backbone)


def _any_size(
    create: Callable[..., nn.Module], size: int | tuple[int, int]
) -> tuple[nn.Module, tuple[int, int] | None]:
    """A network on a timm transformer of fixed size, made to accept any size if the transformer can, else that size."""
    try:
        return create(dynamic_img_size=True), None
    except TypeError:
        return create(), (size, size) if isinstance(size, int) else (size[0], size[1])


def encoder_settings(encoder: str, weights: str | None = None) -> tuple[Colour, Colour, tuple[int, int] | None]:
    """Mean, std and, where an encoder has one, the fixed input size, of an encoder with smp's weights of that name;
    nothing is downloaded.

    Raises:
        UsageError: no encoder of that name.
    """
    name = encoder.removeprefix("tu-")
    if encoder == name and encoder in smp.encoders.encoders:
        special = next((v for start, v in NORMALISATION.items() if encoder.startswith(start)), None)
        return *(HALF if weights == "advprop" else special or (IMAGENET_MEAN, IMAGENET_STD)), None
    if encoder == name or not timm.is_model(name):
        names = [*smp.encoders.encoders, *(f"tu-{n}" for n in timm.list_models())]
        # A thousand names are no help, so only those that come close are offered.
        raise unknown(
            "smp encoder", encoder, get_close_matches(encoder, names) or ["resnet50", "tu-convnext_tiny", "…"]
        )
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return IMAGENET_MEAN, IMAGENET_STD, None
    fixed = config.input_size[1:] if config.fixed_input_size else None
    return cast(Colour, config.mean), cast(Colour, config.std), fixed

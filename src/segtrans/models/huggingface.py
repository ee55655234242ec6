"""Semantic segmentation models of Hugging Face transformers, from a local folder or the hub."""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError

from segtrans.errors import DataError, MissingError, SegtransError, UsageError, first_line, optional, unknown
from segtrans.models.base import Preprocessing, SegModel
from segtrans.models.checkpoint import RANDOM, load_weights, may_lack
from segtrans.paths import at_home

MASK_CLASSIFIERS = ("eomt", "eomt_dinov3", "mask2former", "maskformer")
"""Model types that return masks with a class each, which SegModel turns into logits per pixel."""

FIXED_SIZE = ("beit", "data2vec-vision", "dpt", "eomt", "eomt_dinov3")
"""Model types whose transformer or decoder takes square images of ``config.image_size`` only."""

EXPECTED = (OSError, ValueError, RuntimeError, ImportError, SafetensorError, AttributeError, KeyError, TypeError)
"""What transformers raises for files that are missing, damaged or, the last three, of another structure."""

DEEPEST_STRIDE = 32
PROCESSORS = ("preprocessor_config.json", "processor_config.json")

USUAL = {
    "segformer": {
        (32, 8): "mit_b0",
        (64, 8): "mit_b1",
        (64, 16): "mit_b2",
        (64, 28): "mit_b3",
        (64, 41): "mit_b4",
        (64, 52): "mit_b5",
    },
    "swin": {(96, 12): "swin_tiny", (96, 24): "swin_small", (128, 24): "swin_base", (192, 24): "swin_large"},
    "convnext": {
        (96, 18): "convnext_tiny",
        (96, 36): "convnext_small",
        (128, 36): "convnext_base",
        (192, 36): "convnext_large",
    },
}
"""What encoders are usually called, by their type, then by first width and number of blocks."""


def load(name: str, weights: str | None = None) -> SegModel:
    """The model in the folder ``name``, or of that id on the hub, with its own weights, a file's or random ones."""
    transformers = _transformers()
    folder = at_home(name)
    local = folder.is_dir()
    if not local and name.startswith(("/", ".", "~")):
        raise DataError(f"{name}: no such folder")
    place = str(folder) if local else name
    try:
        # Never run code that comes with a model, and never ask whether to.
        config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        auto = _auto_class(transformers, config.model_type)
        if (channels := getattr(_encoder(config), "num_channels", 3)) != 3:
            raise UsageError(f"{name}: the model takes images of {channels} channels; allowed are 3")
        if weights is None:
            network = _pretrained(transformers, auto, place, local)
        else:
            network = auto.from_config(config, dtype=torch.float32)
        preprocessing = _preprocessing(transformers, place, config)
    except SegtransError:
        raise
    except EXPECTED as error:
        reason = first_line(error)
        if local:
            raise DataError(f"{name}: not a model that can be loaded ({reason})") from None
        raise MissingError(
            f"{name!r} is no folder here and could not be had from the Hugging Face hub ({reason})"
        ) from None
    if weights not in (None, RANDOM):
        load_weights(network, at_home(weights))
    classes = [config.id2label.get(i, f"class {i}") for i in range(config.num_labels)]
    return SegModel(
        network,
        classes,
        preprocessing=preprocessing,
        name=folder.resolve().name if local else name,
        backbone=_backbone(config),
    )


def _transformers() -> ModuleType:
    with optional("a model named hf:…", "hf"):
        import transformers
    return transformers


def _auto_class(transformers: ModuleType, kind: str) -> Any:
    if kind in MASK_CLASSIFIERS:
        return transformers.AutoModelForUniversalSegmentation
    if kind == "oneformer":
        raise UsageError("OneFormer needs a text beside the image, which attacks on images cannot give it")
    known = transformers.models.auto.modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
    if kind not in known:
        raise unknown("type of semantic segmentation model", kind, (*known, *MASK_CLASSIFIERS))
    return transformers.AutoModelForSemanticSegmentation


def _pretrained(transformers: ModuleType, auto: Any, place: str, local: bool) -> Any:
    with _no_bars(transformers.utils.logging) if local else nullcontext():
        network, report = auto.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(key for key in report["missing_keys"] if not may_lack(key))
    if missing:
        raise DataError(
            f"{place}: this checkpoint lacks {len(missing)} weights of its architecture, the first is {missing[0]!r}"
        )
    return network


@contextmanager
def _no_bars(logging: ModuleType) -> Generator[None]:
    """No progress bar for reading a local file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _preprocessing(transformers: ModuleType, place: str, config: Any) -> Preprocessing:
    found = transformers.utils.cached_file
    if any(found(place, file, _raise_exceptions_for_missing_entries=False) for file in PROCESSORS):
        processor = transformers.AutoImageProcessor.from_pretrained(place, config=config, trust_remote_code=False)
    else:
        # A checkpoint saved without its processor was trained with the defaults of its type.
        choices = transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING[type(config)]
        processor = choices["torchvision"]()
    # The processor computes (255 x · factor - mean) / std for x in [0, 1].
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)

    def colour(values: Any) -> Any:
        return tuple(v / scale for v in ([values] * 3 if isinstance(values, int | float) else values))

    return Preprocessing(
        mean=colour(mean),
        std=colour(std),
        bgr=bool(getattr(processor, "do_flip_channel_order", False)),
        **_sides(config),
    )


def _sides(config: Any) -> dict[str, Any]:
    """What a model wants of the height and width of its input."""
    if config.model_type in FIXED_SIZE:
        size = config.image_size
        return {"fixed_size": (size, size) if isinstance(size, int) else (size[0], size[1])}
    if config.model_type == "mobilenet_v2" and config.tf_padding:
        # TensorFlow's padding and aligned corners make the grid of features meet the corners of an image of 16k + 1.
        return {"multiple": config.output_stride, "remainder": 1, "align_corners": True}
    patch = getattr(_encoder(config), "patch_size", 1)
    # Encoders with several scales halve the image five times; plain transformers only need whole patches.
    return {"multiple": patch if isinstance(patch, int) and DEEPEST_STRIDE % patch else DEEPEST_STRIDE}


def _encoder(config: Any) -> Any:
    """The configuration of a model's encoder, which may be the model's own."""
    return getattr(config, "backbone_config", None) or config


def _backbone(config: Any) -> str:
    """The encoder's name: the usual one where it has one, else its type, width and number of blocks."""
    inner = _encoder(config)
    # MaskFormer's Swin is everybody's.
    kind = inner.model_type.removeprefix("maskformer-")
    if kind == "timm_backbone":
        return inner.backbone
    if kind == "mobilenet_v2":
        return f"{kind}_{round(100 * inner.depth_multiplier):03}"
    attributes = ("embed_dim", "hidden_size", "width_multiplier")
    widths = getattr(inner, "hidden_sizes", None) or [getattr(inner, a) for a in attributes if hasattr(inner, a)]
    blocks = sum(getattr(inner, "depths", None) or [getattr(inner, "num_hidden_layers", 0)])
    if kind == "resnet":
        return f"resnet{blocks * (3 if inner.layer_type == 'bottleneck' else 2) + 2}"
    if name := USUAL.get(kind, {}).get((widths[0], blocks)):
        return name
    return f"{kind}-{widths[0]}x{blocks}" if blocks else f"{kind}-{widths[0]}"

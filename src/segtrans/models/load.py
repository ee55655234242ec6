"""Models by name: ``smp:unet/resnet18?weights=unet.pth&classes=21`` and the like."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, cast

import torch

from segtrans.devices import pick_device
from segtrans.errors import DataError, ModelError, UsageError, check_whole, unknown
from segtrans.models import huggingface, onnx, program
from segtrans.models.base import SegModel, check_class_count
from segtrans.models.checkpoint import RANDOM, load_weights
from segtrans.models.ensemble import Ensemble
from segtrans.models.layout import lay_out
from segtrans.paths import at_home
from segtrans.plugins import Names
from segtrans.spec import spelled_options, typed_options


# Imported when first used: with the libraries that they stand on, these take seconds.
def _torchvision(name: str, weights: str | None = None, classes: int | None = None) -> SegModel:
    from segtrans.models.torchvision import load

    return load(name, weights, classes)


def _smp(name: str, weights: str | None = None, classes: int | None = None) -> SegModel:
    from segtrans.models.smp import load

    return load(name, weights, classes)


def _fcn(name: str, weights: str | None = None, classes: int | None = None) -> SegModel:
    from segtrans.models.fcn import load

    return load(name, weights, classes)


def _zoo(name: str, weights: str | None = None) -> SegModel:
    from segtrans.zoo import load_zoo

    model = load_zoo(name)
    if weights is not None:
        load_weights(model.network, at_home(weights))
    return model


def _file(path: str, arch: str | None = None, classes: int | None = None) -> SegModel:
    if arch is None:
        raise UsageError(f"file:{path} needs its architecture, such as ?arch=torchvision:deeplabv3_resnet50&classes=19")
    source, name, options = _parse(arch)
    options["weights"] = path
    if classes is not None:
        options["classes"] = str(classes)
    return _load(source, name, options)


def _ensemble(fuse: Literal["logits", "probabilities", "loss"], specs: str) -> SegModel:
    # Commas also occur in label maps; one that parts two models is followed by a source and a colon.
    models = [_load(*_parse(spec)) for spec in re.split(r",(?=[a-z][\w.-]*:)", specs)]
    return cast(SegModel, Ensemble(models, fuse))


ENSEMBLES: dict[str, Callable[..., SegModel]] = {
    "loss": partial(_ensemble, "loss"),
    "mean": partial(_ensemble, "logits"),
    "probabilities": partial(_ensemble, "probabilities"),
}
"""Sources whose name is a list of models, which have options of their own."""


SOURCES: Names[Callable[..., SegModel]] = Names(
    "model source",
    "segtrans.models",
    {
        "fcn": _fcn,
        "file": _file,
        "hf": huggingface.load,
        "onnx": onnx.load,
        "program": program.load_program,
        "script": program.load_script,
        "smp": _smp,
        "torchvision": _torchvision,
        "zoo": _zoo,
        **ENSEMBLES,
    },
)
"""A source takes a name and options typed ``str``, ``int`` (from 1) or ``Path``, each or None."""

LIBRARIES = ("fcn", "hf", "smp", "torchvision", "zoo")
"""Sources of networks that libraries define, which our tests know to run in any layout of memory; others may not."""


def load_model(spec: str, device: str | torch.device = "cpu") -> SegModel:
    """The model that ``spec`` spells: ``SOURCE:NAME``, then options as ``?KEY=VALUE&KEY=VALUE``.

    ==============================  ==========================================================================
    ``torchvision:NAME``            torchvision's models and weights; ``weights=FILE|random``, ``classes=N``
    ``smp:ARCHITECTURE/ENCODER``    segmentation_models_pytorch; ``weights=FILE|random``, ``classes=N``
    ``smp:FOLDER``                  a model saved with smp's ``save_pretrained``
    ``fcn:ENCODER``                 torchvision's FCN head on smp's encoder; ``weights=FILE|random``, ``classes=N``
    ``hf:FOLDER`` or ``hf:ID``      Hugging Face transformers; ``weights=FILE|random``
    ``zoo:NAME``                    the models that come with segtrans; ``weights=FILE``
    ``file:PATH``                   weights for the architecture ``arch=SPEC``; ``classes=N``
    ``onnx:FILE``                   an ONNX file, as a target only; ``classes=N``, ``multiple=N``
    ``program:FILE``                a program that torch.export saved (trust it); ``classes=N``, ``multiple=N``
    ``script:FILE``                 TorchScript (trust it); ``classes=N``, ``multiple=N``
    ``mean:SPEC,SPEC``              an ensemble: the mean of several models' logits
    ``probabilities:SPEC,SPEC``     an ensemble: the mean of their probabilities
    ``loss:SPEC,SPEC``              an ensemble: the mean of their objectives, for attacks
    ==============================  ==========================================================================

    Every source but ensembles also takes ``mean=R,G,B`` and ``std=R,G,B`` on the [0, 1] scale, and ``label_map``: for
    each class of the network the data set's class, ``-`` to drop it, as in ``0,1,-,2``; or a JSON file with such a list
    (``null`` drops) or with an object of class names and the data set's classes, which drops all others. Where the data
    set has classes beyond the last one named there, ``data_classes=N`` says how many it has.

    Random weights are the same each time, and the global random state is left as it was.

    Raises:
        UsageError: an unknown source, name, option or device, or a value that cannot be used.
        DataError: a file or folder that is missing, unreadable, unsafe or does not fit.
        MissingError: an optional library or a device is not here, or weights cannot be downloaded.
    """
    device = pick_device(device) if isinstance(device, str) else device
    model = _load(*_parse(spec)).to(device)
    return model.to(memory_format=torch.contiguous_format) if device.type == "cuda" else model


def _parse(spec: str) -> tuple[str, str, dict[str, str]]:
    source, _, rest = spec.partition(":")
    if source not in SOURCES:
        raise unknown("model source", source, SOURCES)
    name, _, query = (rest, "", "") if source in ENSEMBLES else rest.partition("?")
    if not name:
        raise UsageError(f"model {spec!r} has no name; expected {source}:NAME")
    return source, name, spelled_options(query, f"model {source}:{name}")


def _load(source: str, name: str, options: dict[str, str]) -> SegModel:
    make, of = SOURCES[source], f"model {source}:{name}"
    own, anywhere = _options(make), _options(_adjust)
    values = typed_options(options, {**anywhere, **own}, of)
    for key, value in values.items():
        if isinstance(value, int):
            check_whole(key, value, 1)
            if key == "classes":
                check_class_count(value)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed accelerators too, which fork_rng was told to leave alone.
        torch.default_generator.manual_seed(0)
        model = make(name, **{key: value for key, value in values.items() if key in own})
    if not isinstance(cast(Any, model), SegModel) and source not in ENSEMBLES:
        kind = type(model).__name__
        raise ModelError(f"model source {source!r} made a {kind}; expected a SegModel, as segtrans.models.wrap makes")
    model.name = _title(model.name, source, options.get("weights"))
    if source in LIBRARIES:
        lay_out(model.network)
    _adjust(model, **{key: value for key, value in values.items() if key in anywhere})
    return model


def _options(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Parameters after the first."""
    return dict([*signature(function).parameters.items()][1:])


def _title(name: str, source: str, weights: str | None) -> str:
    """A short name that tells models of one architecture with different weights apart."""
    if weights is None or source == "file":
        return name
    return f"{name}[{weights if weights == RANDOM else Path(weights).stem}]"


def _adjust(
    model: SegModel,
    data_classes: int | None = None,
    label_map: str | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> None:
    """The options of every source but ensembles, whose models have their own."""
    colours = {key: _colour(key, text) for key, text in (("mean", mean), ("std", std)) if text is not None}
    if colours:
        model.prepare(replace(model.preprocessing, **colours))
    if label_map is not None:
        model.relabel(_label_map(label_map, model.network_classes), data_classes)
    elif data_classes is not None:
        model.relabel(model.label_map, data_classes)


def _colour(key: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise UsageError(f"{key} is {text!r}; expected three numbers, as in 0.485,0.456,0.406") from None


def _label_map(text: str, classes: Sequence[str]) -> list[int | None]:
    if not text.endswith(".json"):
        entries = text.split(",")
        if not all(entry == "-" or entry.isdecimal() for entry in entries):
            raise UsageError(f"label_map is {text!r}; expected whole numbers and '-', as in 0,1,-,2, or a .json file")
        return [None if entry == "-" else int(entry) for entry in entries]
    try:
        document = json.loads(at_home(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{text}: not a readable label map ({error})") from None
    if isinstance(document, dict):
        targets = cast(dict[str, Any], document)
        for name in targets:
            if name not in classes:
                raise unknown(f"class in {text}", name, classes)
        document = [targets.get(name) for name in classes]
    if not isinstance(document, list) or not all(e is None or type(e) is int for e in cast(list[Any], document)):
        raise DataError(f"{text}: expected a list of whole numbers and null, or an object of class names and numbers")
    return cast(list[int | None], document)

"""Layers inside a surrogate: how they are named, found and listened to."""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from segtrans.errors import ModelError, UsageError, unknown
from segtrans.hooks import hooked
from segtrans.models.ensemble import members_of
from segtrans.residuals import residuals

# A model is walked through once per size of its images, which decides what counts as depth. Only names are kept, since
# a module that is its own layer would never be forgotten.
_DEPTHS: WeakKeyDictionary[nn.Module, dict[torch.Size, list[str]]] = WeakKeyDictionary()

COARSEST = 32
"""Maps with fewer than one position per this many pixels along a side do not count as depth: they are what pooling
branches and squeeze-and-excitation make."""


class _EnoughError(Exception):
    """Ends a forward pass of which only an inner layer was wanted."""


def forward_with(
    layer: nn.Module, model: Callable[[Tensor], Tensor], images: Tensor, *, stop: bool
) -> tuple[Tensor, Tensor]:
    """Logits of ``images`` and the map (N, C, h, w) that ``layer``, a part of ``model``, returns; with ``stop`` the
    pass ends there and the logits are empty.

    A layer that runs several times in one pass is listened to the first time.

    Raises:
        ModelError: the layer does not run, or does not return exactly one map per image.
    """
    heard: list[Any] = []

    def listen(module: nn.Module, inputs: Any, output: Any) -> Any:
        if heard:
            return None
        # Under autocast a layer returns another type than images have, in which features are too coarse to compare.
        # What follows goes on from ours, so that gradients reach it.
        heard.append(output.to(images.dtype) if isinstance(output, Tensor) else output)
        if stop:
            raise _EnoughError
        # Whatever follows may work in place (ReLU does), which must not reach what was heard.
        return heard[0].to(output.dtype, copy=True) if isinstance(output, Tensor) else None

    logits = torch.empty(0)
    with suppress(_EnoughError), layer.register_forward_hook(listen):
        logits = model(images)
    if not heard:
        raise ModelError(f"layer {type(layer).__name__} has no part in the surrogate's output, so it has no features")
    return logits, _only_map(layer, heard[0], len(images)).to(images.dtype)


def _only_map(layer: nn.Module, output: Any, count: int) -> Tensor:
    maps = [t for t in _tensors(output) if t.ndim == 4 and len(t) == count]
    if len(maps) != 1:
        shapes = ", ".join(str(tuple(t.shape)) for t in _tensors(output)) or type(output).__name__
        raise ModelError(
            f"layer {type(layer).__name__} returns {shapes}; name a layer that returns one map ({count}, C, h, w)"
        )
    return maps[0]


def _tensors(output: Any) -> list[Tensor]:
    """The tensors that a module returned, alone or in a tuple, a list or a dictionary."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = [*cast(Mapping[Any, Any], output).values()]
    parts = cast(Iterable[Any], output) if isinstance(output, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def find_layer(model: nn.Module, layer: str | float, sample: Tensor) -> nn.Module:
    """The module of that name, or the one at that share of the model's depth.

    A name may leave out what wraps a network: ``layer3`` is found as ``network.encoder.layer3``; of several modules
    that end in the name it is the one that fewest others contain. Depth is counted in modules that have weights and
    return maps (N, C, h, w), in the order in which they run on ``sample`` (1, 3, H, W): 0.5 is the one in the middle,
    0 the first, 1 the last. For one inside a residual block, or inside a module of the same class that has no skip, the
    block itself stands, whose features are what the next block sees.

    Raises:
        UsageError: the share is not from 0 to 1.
        ModelError: no module has the name, several could be meant, no module returns maps, or the model is an ensemble.
    """
    if len(members_of(model)) > 1:
        raise ModelError(f"{type(model).__name__} is an ensemble; layers belong to one of its members")
    if isinstance(layer, str):
        return _named(model, layer)
    if not 0 <= layer <= 1:
        raise UsageError(f"layer is {layer}; allowed are names of modules and shares of the depth from 0 to 1")
    known = _DEPTHS.setdefault(model, {})
    names = known.get(sample.shape[-2:])
    if names is None:
        weighted = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
        with _noted(model, sample, weighted) as order:
            kinds = {type(residual.block) for residual in residuals(model, sample)} - {nn.Sequential}
        blocks = {module for module in model.modules() if type(module) in kinds}
        names = known[sample.shape[-2:]] = [_around(model, name, blocks) for name in order]
    if not names:
        raise ModelError("no module of the surrogate returns feature maps (N, C, h, w)")
    return model.get_submodule(names[round(layer * (len(names) - 1))])


def _around(model: nn.Module, name: str, blocks: Collection[nn.Module]) -> str:
    """The name of the innermost of ``blocks`` that holds a module, or the module's own."""
    path = name.split(".")
    inside = (".".join(path[:end]) for end in range(len(path), 0, -1))
    return next((outer for outer in inside if model.get_submodule(outer) in blocks), name)


def _named(model: nn.Module, layer: str) -> nn.Module:
    modules = {name: module for name, module in model.named_modules() if name}
    if layer in modules:
        return modules[layer]
    matches = sorted((name for name in modules if name.endswith(f".{layer}")), key=_levels)
    if not matches:
        # A network has hundreds of modules; only those of its uppermost levels are listed.
        raise ModelError(str(unknown("layer", layer, [name for name in modules if _levels(name) < 3])))
    if len(matches) > 1 and _levels(matches[0]) == _levels(matches[1]):
        raise ModelError(f"layer {layer!r} could be {matches[0]!r} or {matches[1]!r}; give the full name")
    return modules[matches[0]]


def _levels(name: str) -> int:
    return name.count(".")


def in_order(model: nn.Module, sample: Tensor, modules: Iterable[nn.Module]) -> list[str]:
    """Names of those of ``modules`` that return maps, in the order in which they first run on ``sample``."""
    with _noted(model, sample, modules) as order, torch.no_grad():
        model(sample)
    return order


@contextmanager
def _noted(model: nn.Module, sample: Tensor, modules: Iterable[nn.Module]) -> Generator[list[str]]:
    """A list that fills with the names of those of ``modules`` that return maps of images like ``sample``, in the order
    in which they first run.
    """
    names = {module: name for name, module in model.named_modules()}
    order: list[str] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if names[module] in order or not isinstance(output, Tensor) or output.ndim != 4:
            return
        if all(COARSEST * o >= s for o, s in zip(output.shape[-2:], sample.shape[-2:], strict=True)):
            order.append(names[module])

    with hooked(module.register_forward_hook(note) for module in modules):
        yield order

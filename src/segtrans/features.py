"""Layers inside a surrogate: how they are named, found and listened to."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from segtrans.errors import ModelError, UsageError, unknown

# A model is walked through once; it is forgotten with the model.
_DEPTHS: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()


class _EnoughError(Exception):
    """Ends a forward pass of which only an inner layer was wanted."""


def forward_with(layer: nn.Module, model: nn.Module, images: Tensor, *, stop: bool) -> tuple[Tensor, Tensor]:
    """Logits of ``images`` and the output of ``layer``; with ``stop`` the pass ends there and the logits are empty."""
    heard: list[Tensor] = []

    def listen(module: nn.Module, inputs: Any, output: Any) -> None:
        heard.append(output)
        if stop:
            raise _EnoughError

    handle = layer.register_forward_hook(listen)
    try:
        logits = model(images)
    except _EnoughError:
        logits = torch.empty(0)
    finally:
        handle.remove()
    if not heard or not isinstance(heard[-1], Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(f"layer {type(layer).__name__} returned no tensor, so it has no features to work on")
    return logits, heard[-1]


def find_layer(model: nn.Module, layer: str | float, sample: Tensor) -> nn.Module:
    """The module of that name, or the one at that share of the model's depth.

    Depth is counted in modules that have weights and return maps (N, C, h, w), in the order in which they run on
    ``sample`` (1, 3, H, W): 0.5 is the one in the middle, 0 the first, 1 the last.

    Raises:
        UsageError: no module has the name, or the share is not from 0 to 1.
        ModelError: no module returns maps.
    """
    if isinstance(layer, str):
        modules = dict(model.named_modules())
        if layer not in modules:
            # Wrapped networks are known by their own names.
            matches = [name for name in modules if name.endswith(f".{layer}")]
            if len(matches) != 1:
                raise unknown("layer", layer, modules)
            layer = matches[0]
        return modules[layer]
    if not 0 <= layer <= 1:
        raise UsageError(f"layer is {layer}; allowed are names of modules and shares of the depth from 0 to 1")
    known = _DEPTHS.get(model)
    if known is None:
        known = _DEPTHS[model] = _in_order(model, sample)
    if not known:
        raise ModelError("no module of the surrogate returns feature maps (N, C, h, w)")
    return known[round(layer * (len(known) - 1))]


def _in_order(model: nn.Module, sample: Tensor) -> list[nn.Module]:
    """Modules with weights of their own that return maps, in the order in which they first run."""
    order: dict[nn.Module, None] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            order.setdefault(module)

    weighted = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    handles = [module.register_forward_hook(note) for module in weighted]
    try:
        with torch.no_grad():
            model(sample)
    finally:
        for handle in handles:
            handle.remove()
    return list(order)

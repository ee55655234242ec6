"""Residual blocks of a network, found by what they compute."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from segtrans.hooks import hooked

SHORTCUTS = ("downsample", "shortcut")
"""What torchvision, timm, smp and transformers call the module on a skip that is more than the identity."""

LARGEST = 60
"""Modules inside a block at most; larger ones are stages and whole networks."""


@dataclass(frozen=True, kw_only=True)
class Residual:
    """A block that adds a branch to what it was given.

    Attributes:
        end: the module that returns what is added.
        shortcut: what the block's input goes through before the addition, if anything.
    """

    block: nn.Module
    end: nn.Module
    shortcut: nn.Module | None


@dataclass(kw_only=True)
class _Open:
    """A block that is running: what it was given, and what its modules have returned so far."""

    block: nn.Module
    given: Tensor
    shortcut: nn.Module | None
    returned: list[tuple[nn.Module, Tensor]] = field(default_factory=list[tuple[nn.Module, Tensor]])


def residuals(network: nn.Module, sample: Tensor) -> list[Residual]:
    """The residual blocks of ``network``, in the order in which they run on images like ``sample`` (1, 3, H, W).

    A block is residual if its output equals, to the last bit and possibly after ReLU, the output of one of the modules
    inside plus its own input, or plus the output of its ``downsample`` or ``shortcut``. That holds for ResNet's blocks
    and for inverted residuals wherever they come from, with or without squeeze-and-excitation at the branch's end;
    it does not hold where branch or sum pass through functions that are no modules.
    """
    blocks = {m for m in network.modules() if 1 < sum(1 for _ in m.modules()) <= LARGEST}
    running: list[_Open] = []
    found: dict[nn.Module, Residual] = {}

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            # A copy, since what follows may work in place.
            running.append(_Open(block=module, given=inputs[0].clone(), shortcut=_shortcut(module)))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        known = running.pop() if running and running[-1].block is module else None
        if not isinstance(output, Tensor):
            return
        if known is not None and (residual := _recognised(known, output)) is not None:
            # The innermost of blocks around the same branch comes first.
            found.setdefault(residual.end, residual)
        # What has another shape cannot be the branch, unless the block's input changes its own on the way.
        waiting = [other for other in running if other.shortcut is not None or other.given.shape == output.shape]
        if waiting:
            copy = output.clone()
            for other in waiting:
                other.returned.append((module, copy))

    # The same image for every batch, without equal neighbours that could make a coincidence.
    image = torch.linspace(0, 1, sample.numel(), dtype=sample.dtype, device=sample.device).view(sample.shape)
    entering = (block.register_forward_pre_hook(enter) for block in blocks)
    leaving = (module.register_forward_hook(leave) for module in network.modules())
    with hooked(entering), hooked(leaving), torch.no_grad():
        network(image)
    return list(found.values())


def _shortcut(block: nn.Module) -> nn.Module | None:
    named = (getattr(block, name, None) for name in SHORTCUTS)
    return next((m for m in named if isinstance(m, nn.Module) and not isinstance(m, nn.Identity)), None)


def _recognised(known: _Open, output: Tensor) -> Residual | None:
    shortcut = known.shortcut
    skips = [known.given] if shortcut is None else [tensor for m, tensor in known.returned if m is shortcut]
    for end, branch in reversed(known.returned):
        for skip in skips:
            if end is shortcut or not branch.shape == skip.shape == output.shape:
                continue
            total = branch + skip
            if torch.equal(total, output) or torch.equal(total.relu(), output):
                return Residual(block=known.block, end=end, shortcut=shortcut)
    return None

"""Changes of the surrogate's backward pass that last for one attack call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from segtrans.errors import ModelError, UsageError, check_number
from segtrans.features import in_order
from segtrans.hooks import hooked
from segtrans.random import MayDraw
from segtrans.residuals import Residual, residuals

if TYPE_CHECKING:
    from segtrans.run import Run


@dataclass(frozen=True, kw_only=True)
class Backward(MayDraw, ABC):
    """Alters how gradients flow through the surrogate while an attack takes its steps. What an objective prepares
    before them, as the weights of features, it does on the surrogate as it is.
    """

    @abstractmethod
    def changed(self, run: Run) -> AbstractContextManager[None]:
        """A context in which ``run.network`` is changed; leaving it restores the network exactly."""


@dataclass(frozen=True, kw_only=True)
class SkipGradient(Backward):
    """Gradients through the branches of residual blocks are multiplied by ``factor``, so that more of what is left
    came along the skips (SGM, Wu et al., ICLR 2020, arXiv 2002.05990).

    Attributes:
        factor: the paper's γ, from 0 to 1; 0.2 is its setting for ResNets.
    """

    factor: float = 0.2

    def __post_init__(self) -> None:
        check_number("SkipGradient factor", self.factor, 0, 1)

    def changed(self, run: Run) -> AbstractContextManager[None]:
        def damped(gradient: Tensor) -> Tensor:
            return self.factor * gradient

        def damp(module: nn.Module, inputs: Any, output: Tensor) -> None:
            # A hook of the tensor and not of the module, which would forbid the addition in place that follows.
            if output.requires_grad:
                output.register_hook(damped)

        return hooked(residual.end.register_forward_hook(damp) for residual in _residuals(self, run))


@dataclass(frozen=True, kw_only=True)
class Ghost(Backward):
    """Every skip of a residual block is multiplied by a random number, drawn for each image, copy and gradient: another
    network each time (Ghost Networks, Li et al., AAAI 2020, arXiv 1812.03413; their dropout, for networks without
    skips, is left out).

    Attributes:
        spread: the numbers are uniform in 1 ± this.
    """

    spread: float = 0.22

    def __post_init__(self) -> None:
        check_number("Ghost spread", self.spread, 0, 1)

    @property
    def draws(self) -> bool:
        return True

    def changed(self, run: Run) -> AbstractContextManager[None]:
        found = [(residual, run.stream()) for residual in _residuals(self, run)]
        return hooked(handle for residual, stream in found for handle in self._hooks(run, residual, stream))

    def _hooks(self, run: Run, residual: Residual, stream: int) -> Iterable[RemovableHandle]:
        given: list[Tensor] = []

        def less_one(like: Tensor) -> Tensor | float:
            """What the skip is multiplied by, minus one."""
            if run.shown is None:
                return 0.0
            if len(run.shown) != len(like):
                raise ModelError("Ghost needs a surrogate that passes its batch on as it is")
            return run.draw(stream, run.shown).uniform(1, 1, 1, low=-self.spread, high=self.spread).to(like)

        def take(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            given[:] = inputs[:1]

        def add(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return output + less_one(output) * given.pop() if given else output

        def multiply(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return output + less_one(output) * output

        if residual.shortcut is not None:
            return [residual.shortcut.register_forward_hook(multiply)]
        # Inside the block the skip is out of reach: what it lacks is added to the branch instead.
        return [residual.block.register_forward_pre_hook(take), residual.end.register_forward_hook(add)]


LINEAR_ABOVE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.Hardswish, nn.SiLU, nn.GELU)
"""Activations that pass large inputs on and hold negative ones back."""


@dataclass(frozen=True, kw_only=True)
class LinearBackward(Backward):
    """Activations of the ReLU family hand gradients on as if they were the identity (LinBP, Guo et al., NeurIPS 2020,
    arXiv 2012.03528; without the rescaling of residual branches that their ResNets get, with the activation after a
    residual sum, which theirs leave as it is, and with those of the segmentation head).

    Attributes:
        start: from which share of the activations on, in the order in which they run; 1 changes none. The authors name
            a layer of each network instead, in ResNet-50 a block early in the third stage, which is about half-way.
    """

    start: float = 0.5

    def __post_init__(self) -> None:
        _check_start(self, self.start)

    def changed(self, run: Run) -> AbstractContextManager[None]:
        changed = _late(run, LINEAR_ABOVE, self.start)
        if changed is None:
            raise ModelError("the surrogate has no activation modules of the ReLU family, which LinearBackward changes")
        return _replaced({module: partial(_with_slope, module.forward, None) for module in changed})


@dataclass(frozen=True, kw_only=True)
class SmoothBackward(Backward):
    """ReLU gets the derivative of SiLU, and max-pooling that of a softmax-weighted mean, so that fewer gradients are
    cut off (BPA, Wang et al., NeurIPS 2023, arXiv 2306.12685; with the ReLU after a residual sum, which theirs leaves
    as it is).

    Attributes:
        start: from which share of the ReLUs on, in the order in which they run; 1 changes none. The authors name a
            layer of each network instead.
        temperature: what a window's values are multiplied by before the softmax; None leaves max-pooling as it is.
    """

    start: float = 0.5
    temperature: float | None = 10.0

    def __post_init__(self) -> None:
        _check_start(self, self.start)
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise UsageError(
                f"SmoothBackward temperature is {self.temperature}; allowed are numbers from 0, and None for none"
            )

    def changed(self, run: Run) -> AbstractContextManager[None]:
        relus = _late(run, (nn.ReLU, nn.ReLU6), self.start)
        pools = [m for m in run.network.modules() if isinstance(m, nn.MaxPool2d) and not m.return_indices]
        if relus is None and not pools:
            raise ModelError("the surrogate has no ReLU and no MaxPool2d modules, which SmoothBackward changes")
        forwards = {module: partial(_with_slope, module.forward, _slope_of_silu) for module in relus or ()}
        if self.temperature is not None:
            forwards |= {pool: partial(_with_soft_pooling, pool, pool.forward, self.temperature) for pool in pools}
        return _replaced(forwards)


def _check_start(part: Backward, start: float) -> None:
    if not 0 <= start <= 1:
        raise UsageError(f"{type(part).__name__} start is {start}; allowed are shares from 0 to 1")


def _networks(run: Run) -> list[nn.Module]:
    """The surrogate, or an ensemble's members."""
    _ = run.network
    return [member for member in run.members if isinstance(member, nn.Module)]


def _residuals(part: Backward, run: Run) -> list[Residual]:
    found = [residual for network in _networks(run) for residual in residuals(network, run.x[:1].clone())]
    if not found:
        raise ModelError(f"the surrogate has no residual blocks that {type(part).__name__} could find")
    return found


def _late(run: Run, kinds: tuple[type[nn.Module], ...], start: float) -> list[nn.Module] | None:
    """Modules of these kinds from a share of them on, in the order in which each network runs them; None if there
    are no such modules at all.
    """
    late: list[nn.Module] = []
    count = 0
    for network in _networks(run):
        names = in_order(network, run.x[:1].clone(), [m for m in network.modules() if isinstance(m, kinds)])
        late += [network.get_submodule(name) for name in names[round(start * len(names)) :]]
        count += len(names)
    return late if count else None


@contextmanager
def _replaced(forwards: dict[nn.Module, Callable[..., Tensor]]) -> Generator[None]:
    """Modules with another ``forward`` of their own for a while; hooks keep working."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, forward in before.items():
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


Slope = Callable[[Tensor], Tensor]


def _with_slope(forward: Callable[[Tensor], Tensor], slope: Slope | None, x: Tensor) -> Tensor:
    return cast(Tensor, _Slope.apply(x, forward, slope))


class _Slope(Function):
    """An activation with another derivative: that of ``slope``, or 1 everywhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Callable[[Tensor], Tensor], slope: Slope | None) -> Tensor:
        # Taken first, since the activation may work in place.
        ctx.slope = None if slope is None else slope(x)
        output = activation(x)
        if output is x:
            ctx.mark_dirty(x)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient if ctx.slope is None else gradient * ctx.slope, None, None


def _slope_of_silu(x: Tensor) -> Tensor:
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


def _with_soft_pooling(pool: nn.MaxPool2d, forward: Callable[..., Any], temperature: float, x: Tensor) -> Tensor:
    return cast(Tensor, _Pooling.apply(x, forward, pool, temperature))


class _Pooling(Function):
    """Max-pooling (B, C, H, W) whose gradient is shared out in every window by a softmax of its values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forward: Callable[[Tensor], Tensor], pool: nn.MaxPool2d, temperature: float
    ) -> Tensor:
        ctx.pool, ctx.temperature = pool, temperature
        ctx.save_for_backward(x)
        return forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        size, step, edge, gap = (_pair(getattr(ctx.pool, n)) for n in ("kernel_size", "stride", "padding", "dilation"))
        # As far as the windows reach, which with ceil_mode is beyond the padding.
        reach = [(o - 1) * s + g * (k - 1) + 1 for o, s, g, k in zip(gradient.shape[-2:], step, gap, size, strict=True)]
        after = [max(r - n - e, 0) for r, n, e in zip(reach, x.shape[-2:], edge, strict=True)]
        planes = ctx.temperature * (x.flatten(0, 1) if x.ndim == 4 else x)[:, None]
        padded = F.pad(planes, (edge[1], after[1], edge[0], after[0]), value=-torch.inf)
        padded = padded[..., : reach[0], : reach[1]]
        windows = F.unfold(padded, size, gap, 0, step)
        shares = windows.softmax(1) * gradient.reshape(len(planes), 1, -1)
        spread = F.fold(shares, (reach[0], reach[1]), size, gap, 0, step)[:, 0]
        rows, cols = x.shape[-2], x.shape[-1]
        spread = F.pad(spread, (0, max(edge[1] + cols - reach[1], 0), 0, max(edge[0] + rows - reach[0], 0)))
        return spread[:, edge[0] : edge[0] + rows, edge[1] : edge[1] + cols].reshape(x.shape), None, None, None


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value

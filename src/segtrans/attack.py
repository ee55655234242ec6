"""The one attack loop. Every attack is an :class:`Attack`, a value composed of parts; nothing inherits from it."""

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import ModelError, NonFiniteError, UsageError, check_whole
from segtrans.gradients import GradientFunction, GradientTransform
from segtrans.objectives import CrossEntropy, Objective
from segtrans.random import Draw, derive, image_keys
from segtrans.threat import LInf, Threat, fraction
from segtrans.transforms import Transform

Model = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) in [0, 1] to logits (N, C, H, W): a :class:`segtrans.models.SegModel` or anything like it."""


class ZeroGradientWarning(UserWarning):
    """The surrogate's gradient was exactly zero for an image throughout, so its perturbation means nothing."""


@dataclass(frozen=True)
class Result:
    """What an attack found.

    Attributes:
        adversarial: (N, 3, H, W), inside budget and box.
        stalled: (N,) true where every gradient was zero.
        failed: (N,) true where the model returned NaN or infinite values; those images are as they were.
        evaluations: gradient evaluations spent per image.
    """

    adversarial: Tensor
    stalled: Tensor
    failed: Tensor
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A gradient attack: what is maximised, on which views of the image, with which gradient, within which budget.

    Attributes:
        threat: the budget.
        objective: maximised on the surrogate.
        transforms: input transformations, in the order of the data's way towards the model.
        gradients: gradient transformations, from the model outwards.
        iterations: steps; 0 stays at the start.
        step_size: length of a step in the budget's norm: a number, ``"2/255"``, ``"eps/4"``, or ``"eps/T"`` for the
            budget divided by the number of iterations.
        random_start: begin at a random point of the budget instead of at the image.
    """

    threat: Threat = field(default_factory=LInf)
    objective: Objective = field(default_factory=CrossEntropy)
    transforms: tuple[Transform, ...] = ()
    gradients: tuple[GradientTransform, ...] = ()
    iterations: int = 10
    step_size: float | str = "eps/4"
    random_start: bool = False

    def __post_init__(self) -> None:
        check_whole("iterations", self.iterations, 0)
        _ = self.step

    @property
    def copies(self) -> int:
        """Transformed copies per gradient."""
        return math.prod(t.copies for t in self.transforms)

    @property
    def evaluations_per_iteration(self) -> int:
        """K: gradient evaluations (forward and backward passes of one image) per iteration."""
        return self.copies * math.prod(g.evaluations for g in self.gradients)

    @property
    def evaluations(self) -> int:
        """Gradient evaluations per image, known without running anything."""
        return self.iterations * self.evaluations_per_iteration

    @property
    def step(self) -> float:
        """The step size as a number."""
        if isinstance(self.step_size, str) and (match := re.fullmatch(r"\s*eps\s*/\s*(T|[\d.]+)\s*", self.step_size)):
            parts = max(1, self.iterations) if match[1] == "T" else fraction(match[1], "step_size")
            if parts == 0:
                raise UsageError(f"step_size is {self.step_size!r}; allowed are divisors above 0")
            return self.threat.radius / parts
        return fraction(self.step_size, "step_size")

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
        """The adversarial images; arguments as in :meth:`perturb`.

        Raises:
            NonFiniteError: the model returned NaN or infinite values for an image.
        Warns:
            ZeroGradientWarning: an image's gradient was zero throughout.
        """
        result = self.perturb(model, x, y, **options)
        if result.failed.any():
            raise NonFiniteError(result.failed.nonzero().flatten().tolist())
        if result.stalled.any():
            places = ", ".join(map(str, result.stalled.nonzero().flatten().tolist()))
            warnings.warn(f"zero gradient for image(s) {places} of the batch", ZeroGradientWarning, stacklevel=2)
        return result.adversarial

    def perturb(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        region: Tensor | None = None,
        seed: int = 0,
        chunk: int = 1,
        on_iteration: Callable[[int], None] | None = None,
    ) -> Result:
        """Attack a batch.

        Args:
            model: the surrogate; its mode, flags and parameters are left alone.
            x: images (N, 3, H, W), floating point in [0, 1].
            y: int64 labels (N, H, W) with 255 = void; None takes the surrogate's own clean prediction.
            region: boolean (H, W) or (N, H, W); pixels where it is false are never touched.
            seed: together with each image's content it decides every random number.
            chunk: how many transformed copies go through the model at once; changes memory and speed, not results.
            on_iteration: called with the iteration's number, from 0, after each.

        Raises:
            UsageError: images or labels of the wrong shape, type or range.
            ModelError: the model's output is not logits at input size.
        """
        run = Run(self, model, x, y, seed, chunk)
        allowed = _region(region, x)
        gradient: GradientFunction = run.gradient
        for transform in self.gradients:
            gradient = transform.wrap(gradient, run)
        adversarial = self.threat.start(run.x, run.draw(0)) if self.random_start else run.x
        adversarial = adversarial.where(allowed, run.x)
        for run.iteration in range(self.iterations):
            direction = self.threat.direction(gradient(adversarial).where(allowed, 0))
            adversarial = self.threat.project(adversarial + run.step * direction, run.x)
            if on_iteration is not None:
                on_iteration(run.iteration)
        return run.result(adversarial)


class Run:
    """One call of an attack: what its parts may look at, and the base gradient they build on.

    Attributes:
        x, y: clean images and labels; iteration, iterations, step: where the loop stands.
    """

    def __init__(self, attack: Attack, model: Model, x: Tensor, y: Tensor | None, seed: int, chunk: int) -> None:
        _check_images(x)
        self.attack, self.model = attack, model
        self.x = x.detach()
        self.iteration, self.iterations, self.step = 0, attack.iterations, attack.step
        self.chunk = max(1, chunk)
        self.evaluations = 0
        self._keys = derive(image_keys(x), seed)
        self._seed = derive(torch.zeros(1, dtype=torch.int64, device=x.device), seed)
        self._gradients_this_iteration = (-1, 0)
        self._finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self._alive = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.y = self._prediction() if y is None else y
        _check_labels(self.y, x)

    def _prediction(self) -> Tensor:
        with torch.no_grad():
            logits = self.model(self.x)
        _check_logits(logits, self.x)
        return logits.argmax(1)

    def draw(self, part: int, copy: Tensor | None = None) -> Draw:
        """The random numbers of part number ``part`` at this iteration; ``copy`` (B,), B a multiple of N, tells copies
        of an image apart.
        """
        index = torch.zeros(len(self.x), dtype=torch.int64, device=self.x.device) if copy is None else copy
        keys = self._keys.repeat(len(index) // len(self.x))
        shared = self._seed
        for address in (part, self.iteration, self._gradients_this_iteration[1]):
            keys, shared = derive(keys, address), derive(shared, address)
        return Draw(derive(keys, index), index, shared, self.x.dtype)

    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of the objective at images ``z`` (N, 3, H, W), averaged over all transformed copies."""
        last, count = self._gradients_this_iteration
        self._gradients_this_iteration = (self.iteration, count + 1 if last == self.iteration else 1)
        n, copies = len(z), self.attack.copies
        total = torch.zeros_like(z)
        for first in range(0, copies, self.chunk):
            index = torch.arange(first, min(first + self.chunk, copies), device=z.device)
            with torch.enable_grad():
                leaf = z.detach().repeat(len(index), 1, 1, 1).requires_grad_()
                losses = self._losses(leaf, index.repeat_interleave(n))
                gradients = _input_gradient(losses, leaf)
            self._finite &= losses.detach().view(-1, n).isfinite().all(0)
            # Copy by copy, so that the sum does not depend on how copies were grouped.
            for part in gradients.split(n):
                total += part
        # NaN logits under void leave the loss finite, but not the gradient.
        self._finite &= total.isfinite().flatten(1).all(1)
        self._alive |= (total != 0).flatten(1).any(1)
        self.evaluations += copies
        return total / copies

    def _losses(self, z: Tensor, copy: Tensor) -> Tensor:
        """The objective, (B,), of a batch that holds some of the copies of every image."""
        labels = self.y.repeat(len(z) // len(self.y), 1, 1)
        remaining = copy
        for number, transform in enumerate(self.attack.transforms, start=1):
            draw = self.draw(number, copy)
            # Several multiplying transformations share out the copy number like digits.
            draw.copy, remaining = remaining % transform.copies, remaining // transform.copies
            z, labels = transform(z, labels, draw)
        logits = self.model(z)
        if self.evaluations == 0:
            _check_logits(logits, z)
            _check_classes(self.y, logits.shape[1])
        return self.attack.objective(logits, labels, self)

    def result(self, adversarial: Tensor) -> Result:
        """The outcome, with images the model failed on put back as they were."""
        finite = self._finite & adversarial.isfinite().flatten(1).all(1)
        stalled = ~self._alive & finite & (self.iterations > 0)
        return Result(
            adversarial=adversarial.where(finite.view(-1, 1, 1, 1), self.x).detach(),
            stalled=stalled,
            failed=~finite,
            evaluations=self.evaluations,
        )


def _input_gradient(losses: Tensor, leaf: Tensor) -> Tensor:
    if losses.requires_grad:
        gradient = cast(Tensor | None, torch.autograd.grad(losses.sum(), leaf, allow_unused=True)[0])
        if gradient is not None:
            return gradient
    raise ModelError("the model's output does not depend on its input differentiably, so it cannot be a surrogate")


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or x.numel() == 0:
        raise UsageError(f"images are {x.dtype} {tuple(x.shape)}; expected floating point (N, 3, H, W) in [0, 1]")
    low, high = x.aminmax()
    if not (low >= 0 and high <= 1):
        raise UsageError(f"images range from {float(low):g} to {float(high):g}; expected values in [0, 1]")


def _check_labels(y: Tensor, x: Tensor) -> None:
    expected = (len(x), *x.shape[-2:])
    if y.dtype != torch.int64 or tuple(y.shape) != expected:
        raise UsageError(f"labels are {y.dtype} {tuple(y.shape)}; expected torch.int64 {expected}")


def _check_classes(y: Tensor, classes: int) -> None:
    wrong = (y != VOID) & ((y < 0) | (y >= classes))
    if wrong.any():
        raise UsageError(
            f"labels contain {int(y[wrong][0])}; the surrogate has {classes} classes, "
            f"so allowed are 0 to {classes - 1} and {VOID} (void)"
        )


def _check_logits(logits: Tensor, z: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[-2:] != z.shape[-2:]:  # pyright: ignore[reportUnnecessaryIsInstance]
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ModelError(
            f"the model returned {shape} for images {tuple(z.shape)}; expected logits (N, C, H, W) at input size, "
            "which segtrans.models.SegModel makes of any network"
        )


def _region(region: Tensor | None, x: Tensor) -> Tensor:
    """The pixels that may change, broadcastable to ``x``."""
    if region is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=x.device)
    sizes = (x.shape[-2:], (1, *x.shape[-2:]), (len(x), *x.shape[-2:]))
    if region.dtype != torch.bool or tuple(region.shape) not in map(tuple, sizes):
        raise UsageError(
            f"region is {region.dtype} {tuple(region.shape)}; "
            f"expected torch.bool (H, W) or (N, H, W) for images {tuple(x.shape)}"
        )
    return region.view(-1, 1, *region.shape[-2:])

"""The one attack loop. Every attack is an :class:`Attack`, a value composed of parts; nothing inherits from it."""

import math
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from segtrans.areas import Area, Everywhere
from segtrans.backward import Backward
from segtrans.errors import NonFiniteError, UsageError, check_choice, check_whole
from segtrans.goals import Goal, Untargeted
from segtrans.gradients import GradientFunction, GradientTransform
from segtrans.objectives import CrossEntropy, Objective
from segtrans.run import Run, passes
from segtrans.steps import Steepest, Step
from segtrans.threat import LInf, Threat, fraction
from segtrans.transforms import Transform

Model = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) in [0, 1] to logits (N, C, H, W): a :class:`segtrans.models.SegModel` or anything like it."""


class ZeroGradientWarning(UserWarning):
    """The surrogate's gradient was exactly zero for an image throughout, or none of its pixels may change, so that its
    perturbation means nothing.
    """


@dataclass(frozen=True)
class Evaluations:
    """Gradient evaluations per image, known without running anything: forward and backward passes of one network.

    Attributes:
        preparation: before the first iteration.
        per_iteration: K.
        total: all of them.
    """

    preparation: int
    per_iteration: int
    total: int


@dataclass(frozen=True)
class Result:
    """What an attack found.

    Attributes:
        adversarial: (N, 3, H, W), inside budget and box.
        stalled: (N,) true where every gradient was zero, or no pixel may change.
        failed: (N,) true where the model returned NaN or infinite values; those images are as they were.
        evaluations: gradient evaluations spent per image, each one forward and backward pass of one network.
    """

    adversarial: Tensor
    stalled: Tensor
    failed: Tensor
    evaluations: int

    def checked(self) -> Tensor:
        """The adversarial images.

        Raises:
            NonFiniteError: the model returned NaN or infinite values for an image.
        Warns:
            ZeroGradientWarning: an image's gradient was zero throughout.
        """
        if self.failed.any():
            raise NonFiniteError(self.failed.nonzero().flatten().tolist())
        if self.stalled.any():
            places = ", ".join(map(str, self.stalled.nonzero().flatten().tolist()))
            problem = f"zero gradient for image(s) {places} of the batch, or no pixel of theirs that may change"
            warnings.warn(problem, ZeroGradientWarning, stacklevel=3)
        return self.adversarial


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A gradient attack: what is maximised, on which views of the image, with which gradient, within which budget.

    Attributes:
        threat: the budget.
        area: where pixels may change.
        goal: which labels the objective is about, and whether it drives the surrogate from them or to them.
        objective: maximised on the surrogate (minimised where the goal is targeted).
        transforms: input transformations, in the order of the data's way towards the model.
        backward: changes of the surrogate's backward pass.
        gradients: gradient transformations, from the model outwards.
        step: the update rule.
        iterations: steps; 0 stays at the start.
        step_size: length of a step in the budget's norm: a number, ``"2/255"``, ``"eps/4"``, or ``"eps/T"`` for the
            budget divided by the number of iterations.
        random_start: begin at a random point of the budget instead of at the image.
        precision: ``"bfloat16"`` has the surrogate multiply in that type (torch.autocast) where images are float32,
            which is faster on processors that know it, and another attack, since rounding changes signs of the
            gradient. Targets are scored in float32 all the same.
    """

    threat: Threat = field(default_factory=LInf)
    area: Area = field(default_factory=Everywhere)
    goal: Goal = field(default_factory=Untargeted)
    objective: Objective = field(default_factory=CrossEntropy)
    transforms: tuple[Transform, ...] = ()
    backward: tuple[Backward, ...] = ()
    gradients: tuple[GradientTransform, ...] = ()
    step: Step = field(default_factory=Steepest)
    iterations: int = 10
    step_size: float | str = "eps/4"
    random_start: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_whole("iterations", self.iterations, 0)
        for name in ("transforms", "backward", "gradients"):
            if not isinstance(parts := getattr(self, name), tuple | list):
                raise UsageError(f"{name} is {parts!r}; allowed are tuples of such parts")
            object.__setattr__(self, name, tuple(cast(Sequence[Any], parts)))
        if self.alpha > 1 and isinstance(self.threat, LInf):
            raise UsageError(f"step_size is {self.step_size}; images are in [0, 1], so write 2/255 for two grey levels")
        if len(apart := [type(g).__name__ for g in self.gradients if g.apart]) > 1:
            raise UsageError(f"{' and '.join(apart)} ask an ensemble's members one by one; allowed is one such part")
        check_choice("precision", self.precision, ("float32", "bfloat16"))
        if (self.step.uses_remaining or self.step.uses_tracked) and not self.objective.uses_logits:
            step, objective = type(self.step).__name__, type(self.objective).__name__
            raise UsageError(f"step {step} goes by predictions, but objective {objective} ends before there are any")
        elsewhere = [type(part).__name__ for part in self.gradients if part.elsewhere]
        if self.step.uses_remaining and elsewhere:
            step = type(self.step).__name__
            raise UsageError(f"step {step} goes by predictions at the image itself, and {elsewhere[0]} asks elsewhere")

    @property
    def attacks(self) -> tuple["Attack", ...]:
        """Itself: what asks several attacks for their parts need not know that this is one."""
        return (self,)

    @property
    def copies(self) -> int:
        """Transformed copies per gradient."""
        return math.prod(t.copies for t in self.transforms)

    @property
    def evaluations_per_iteration(self) -> int:
        """K: gradient evaluations (forward and backward passes of one image) per iteration on a single surrogate."""
        return self.evaluations_on(1).per_iteration

    @property
    def preparation(self) -> int:
        """Gradient evaluations before the first iteration."""
        return self.objective.preparation

    @property
    def evaluations(self) -> int:
        """Gradient evaluations per image on a single surrogate, known without running anything."""
        return self.evaluations_on(1).total

    def evaluations_on(self, members: int) -> Evaluations:
        """Gradient evaluations per image on an ensemble of so many members, each of which counts for itself."""
        each = _cost(self.gradients, members, self.copies * passes(self.transforms))
        return Evaluations(self.preparation, each, self.preparation + self.iterations * each)

    @property
    def shared(self) -> bool:
        """Whether the images of a batch share a perturbation, so that one's result depends on the others."""
        return self.step.shared

    @property
    def draws(self) -> bool:
        """Whether it may ask for random numbers; where not, every seed finds the same."""
        parts = (self.goal, self.objective, self.step, *self.backward, *self.gradients)
        return self.random_start or bool(self.transforms) or any(part.draws for part in parts)

    @property
    def alpha(self) -> float:
        """The step size as a number."""
        if isinstance(self.step_size, str) and (match := re.fullmatch(r"\s*eps\s*/\s*(T|[\d.]+)\s*", self.step_size)):
            parts = max(1, self.iterations) if match[1] == "T" else fraction(match[1], "step_size")
            if parts == 0:
                raise UsageError(f"step_size is {self.step_size!r}; allowed are divisors above 0")
            return self.threat.radius / parts
        return fraction(self.step_size, "step_size")

    def configured(
        self,
        *,
        eps: float | str | None = None,
        iterations: int | None = None,
        step_size: float | str | None = None,
    ) -> "Attack":
        """This attack under a common protocol; None keeps its own setting.

        The budget and the step size are set where the budget is an L-inf ball smaller than the box, iterations and step
        size where there is more than one iteration.
        """
        attack = self
        common = isinstance(attack.threat, LInf) and attack.threat.radius < 1
        if eps is not None and common:
            attack = replace(attack, threat=LInf(eps))
        if iterations is not None and attack.iterations > 1:
            attack = replace(attack, iterations=iterations)
        if step_size is not None and attack.iterations > 1 and common:
            attack = replace(attack, step_size=step_size)
        return attack

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
        """The adversarial images, or the error and the warning of :meth:`Result.checked`; arguments as in
        :meth:`perturb`.
        """
        return self.perturb(model, x, y, **options).checked()

    def perturb(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        region: Tensor | None = None,
        weights: Tensor | None = None,
        start: Tensor | None = None,
        seed: int = 0,
        chunk: int | None = None,
        on_iteration: Callable[[int], None] | None = None,
    ) -> Result:
        """Attack a batch.

        Args:
            model: the surrogate; its mode, flags and parameters are left alone.
            x: images (N, 3, H, W), floating point in [0, 1].
            y: int64 labels (N, H, W) with 255 = void; None takes the surrogate's own clean prediction.
            region: boolean (H, W) or (N, H, W); pixels where it is false are never touched.
            weights: (N, M) how much the objective of each of an ensemble's M members counts, per image; by default what
                the ensemble averages decides.
            start: (N, 3, H, W) where to begin, moved into budget and box; by default the image, or a random start.
            seed: together with each image's content it decides every random number.
            chunk: how many images, transformed copies counted, go through the model at once; by default as many as
                ``x`` holds. It changes memory and speed, not results.
            on_iteration: called with the iteration's number, from 0, after each.

        Raises:
            UsageError: images, labels, weights or a start of the wrong shape, type or range.
            ModelError: the model's output is not logits at input size, or lacks what a part of the attack needs.
        """
        with ExitStack() as changes:
            # A caller's own is not part of the attack; the surrogate has the attack's precision.
            changes.enter_context(torch.autocast(x.device.type, enabled=False))
            run = Run(self, model, x, y, region=region, weights=weights, seed=seed, chunk=chunk)
            for change in self.backward:
                changes.enter_context(change.changed(run))
            step, gradient = self.step.bind(run), self._gradient(run)
            if start is not None:
                adversarial = self.threat.project(_checked_start(start, run.x), run.x)
            else:
                adversarial = self.threat.start(run.x, run.draw(0)) if self.random_start else run.x
            adversarial = run.confined(adversarial, run.x)
            for run.iteration in range(self.iterations):
                adversarial = step(adversarial, run.confined(gradient(adversarial), 0))
                adversarial = run.confined(adversarial, run.x)
                if on_iteration is not None:
                    on_iteration(run.iteration)
            return Result(*run.outcome(adversarial), evaluations=run.evaluations)

    def _gradient(self, run: Run) -> GradientFunction:
        gradient: GradientFunction = run.gradient
        for transform in self.gradients:
            gradient = transform.wrap(gradient, run)
        return gradient


def _checked_start(start: Tensor, x: Tensor) -> Tensor:
    if start.dtype != x.dtype or start.shape != x.shape:
        raise UsageError(
            f"start is {start.dtype} {tuple(start.shape)}; expected as the images are, {x.dtype} {tuple(x.shape)}"
        )
    if not start.isfinite().all():
        raise UsageError("start has values that are NaN or infinite; allowed are finite ones")
    return start.detach()


def _cost(gradients: tuple[GradientTransform, ...], members: int, copies: int) -> int:
    """Gradient evaluations of one call of the last of ``gradients`` on an ensemble, with so many per plain gradient."""
    if not gradients:
        return members * copies
    *inner, outer = gradients
    asked = 1 if outer.apart else members
    calls = outer.evaluations_on(members) * _cost(tuple(inner), asked, copies)
    return calls + (outer.plain * _cost(tuple(inner), asked, 1) if outer.plain else 0)

"""Gradients that take in what lies around a point: averages over neighbours, and what they say about the point itself.

Distances are in multiples of the budget's radius, so that they do not depend on the attack's step size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.errors import check_number, check_whole
from segtrans.gradients.base import GradientFunction, GradientTransform, normalise
from segtrans.lengths import safe_divide

if TYPE_CHECKING:
    from segtrans.random import Draw
    from segtrans.run import Run


def _noise(run: Run, draw: Draw, radius: float | Tensor) -> Tensor:
    """Uniform noise (N, 3, H, W) on the pixels that may change.

    In L-inf every value is within ``radius`` budgets. In any norm the noise fills the cube whose corners lie on the
    ball of that radius.
    """
    noise = draw.uniform(*run.x.shape[1:], low=-1, high=1) * (radius * draw.reach)
    return noise.where(run.allowed, 0)


@dataclass(frozen=True, kw_only=True)
class _Neighbours(GradientTransform):
    """Looks at ``samples`` random neighbours within ``radius`` budgets; with none, or none elsewhere, it is neutral."""

    samples: int = 20
    radius: float = 1.5

    def __post_init__(self) -> None:
        check_whole(f"{type(self).__name__} samples", self.samples, 0)
        check_number(f"{type(self).__name__} radius", self.radius, 0)

    @property
    def draws(self) -> bool:
        return True

    @property
    def evaluations(self) -> int:
        return 1 + self._samples

    @property
    def _samples(self) -> int:
        return self.samples if self.radius else 0

    def _mean(self, gradient: GradientFunction, z: Tensor, run: Run, stream: int) -> Tensor:
        """The mean gradient of the neighbours of ``z``."""
        draw, total = run.draw(stream), torch.zeros_like(z)
        for _ in range(self._samples):
            total = total + gradient(z + _noise(run, draw, self.radius))
        return total / self._samples


@dataclass(frozen=True, kw_only=True)
class Variance(_Neighbours):
    """Adds the last iteration's gradient variance, v = mean of ∇ at neighbours of z − ∇(z), to this iteration's
    gradient (VMI-FGSM, Wang & He, CVPR 2021, arXiv 2103.15571).

    With Nesterov's look-ahead, as the authors' VNI-FGSM has it, only the gradient itself is taken ahead; neighbours
    stay around z. Variance followed by Nesterov is another method, whose neighbours move along.

    Attributes:
        samples: neighbours.
        radius: how far away they are at most, in budgets.
        ahead: decay of the momentum that follows, to take the gradient ahead along it; 0 takes it at z.
    """

    ahead: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Variance ahead", self.ahead, 0)

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        stream = run.stream()
        variance, velocity = torch.zeros_like(run.x), torch.zeros_like(run.x)

        def tuned(z: Tensor) -> Tensor:
            nonlocal variance, velocity
            look = self.ahead * run.alpha * run.confined(run.threat.ahead(velocity), 0) if self.ahead else 0
            own = gradient(z + look)
            value = own + variance
            velocity = self.ahead * velocity + normalise(value)
            if self._samples:
                variance = self._mean(gradient, z, run, stream) - own
            return value

        return tuned


@dataclass(frozen=True, kw_only=True)
class Relevance(_Neighbours):
    """Mixes the gradient with the mean gradient ḡ of neighbours by their cosine s: s·∇ + (1−s)·ḡ (GRA, Zhu et al.,
    ICCV 2023). Its decay indicator is a step of its own, :class:`segtrans.steps.Damped`.

    Attributes:
        samples: neighbours.
        radius: how far away they are at most, in budgets.
    """

    radius: float = 3.5

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        stream = run.stream()

        def relevant(z: Tensor) -> Tensor:
            own = gradient(z)
            if not self._samples:
                return own
            mean = self._mean(gradient, z, run, stream)
            share = _cosine(own, mean)
            return share * own + (1 - share) * mean

        return relevant


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine per image, (N, 1, 1, 1); zero where either is zero."""
    # Squares of raw gradients can underflow.
    one, other = normalise(one), normalise(other)
    dot, *squares = ((a * b).sum((1, 2, 3), keepdim=True) for a, b in ((one, other), (one, one), (other, other)))
    return safe_divide(dot, squares[0].sqrt() * squares[1].sqrt())


@dataclass(frozen=True, kw_only=True)
class Flatness(_Neighbours):
    """Mean over neighbours of (1−balance)·∇ + balance·∇′, where ∇′ is taken one step back against ∇: this penalises the
    norm of the gradient (PGN, Ge et al., NeurIPS 2023, arXiv 2306.05225).

    The paper steps back by its step size, a tenth of the budget; ours keeps that length whatever the attack's step.

    Attributes:
        samples: neighbours; 0 takes the gradient itself.
        radius: how far away they are at most, in budgets.
        balance: weight of the gradient a step back; 0 leaves it out.
        back: length of the step back, in budgets.
    """

    radius: float = 3.0
    balance: float = 0.5
    back: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Flatness balance", self.balance, 0, 1)
        check_number("Flatness back", self.back, 0)

    @property
    def evaluations(self) -> int:
        return max(1, self.samples * (2 if self.balance else 1))

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        if self.samples == 0:
            return gradient
        stream = run.stream()

        def flat(z: Tensor) -> Tensor:
            draw, total = run.draw(stream), torch.zeros_like(z)
            for _ in range(self.samples):
                near = z + _noise(run, draw, self.radius)
                here = gradient(near)
                if self.balance:
                    away = run.confined(run.threat.ahead(normalise(here)), 0)
                    back = near - self.back * run.threat.radius * away
                    here = (1 - self.balance) * here + self.balance * gradient(back)
                total = total + here
            return total / self.samples

        return flat


@dataclass(frozen=True, kw_only=True)
class Neighbourhood(_Neighbours):
    """Mean of the gradient of z itself and of all transformed copies of neighbours at random distances: with
    transformations, what OPS calls operator and perturbation sampling (Guo et al., CVPR 2025).

    The gradient of z comes from the untransformed image and counts once, as each copy of a neighbour does. OPS draws a
    pool of offsets once for all images and iterations; here every image draws its own, anew.

    Attributes:
        samples: neighbours.
        radius: how far away the farthest are at most, in budgets.
        shells: how many distances there are, evenly spaced up to ``radius`` and equally likely.
    """

    radius: float = 3.0
    shells: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("Neighbourhood shells", self.shells, 1)

    @property
    def evaluations(self) -> int:
        return self._samples or 1

    @property
    def plain(self) -> int:
        return min(1, self._samples)

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        if not self._samples:
            return gradient
        stream, copies = run.stream(), run.attack.copies

        def average(z: Tensor) -> Tensor:
            with run.untransformed():
                total = gradient(z)
            draw = run.draw(stream)
            for _ in range(self.samples):
                shell = draw.integers(torch.full((len(z), 1, 1, 1), self.shells, device=z.device)) + 1
                total = total + copies * gradient(z + _noise(run, draw, self.radius / self.shells * shell.to(z)))
            return total / (1 + copies * self.samples)

        return average


@dataclass(frozen=True, kw_only=True)
class LineAverage(GradientTransform):
    """Mean gradient of points evenly spaced along the last such mean, to both sides of z (the enhanced momentum of
    EMI-FGSM, Wang et al., BMVC 2021, arXiv 2103.10609).

    The paper reaches 7 steps of a tenth of the budget; ours keeps that length whatever the attack's step.

    Attributes:
        samples: points; 1 takes z alone.
        radius: how far the outermost lie from z, in budgets, along a gradient of mean absolute value 1.
    """

    samples: int = 11
    radius: float = 0.7

    def __post_init__(self) -> None:
        check_whole("LineAverage samples", self.samples, 1)
        check_number("LineAverage radius", self.radius, 0)

    @property
    def evaluations(self) -> int:
        return self.samples if self.radius else 1

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        if self.evaluations == 1:
            return gradient
        line = torch.zeros_like(run.x)
        places = [self.radius * (2 * k / (self.samples - 1) - 1) for k in range(self.samples)]

        def average(z: Tensor) -> Tensor:
            nonlocal line
            total, along = torch.zeros_like(z), run.threat.radius * run.confined(run.threat.ahead(line), 0)
            for place in places:
                total = total + gradient(z + place * along)
            line = normalise(total)
            return total / self.samples

        return average

"""Losses written a second time, pixel by pixel in Python floats, and what objectives on logits are tried on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from segtrans.attack import Attack
from segtrans.data.base import VOID
from segtrans.goals import Goal, Towards, Untargeted
from segtrans.objectives import Objective
from segtrans.run import Run, View
from toys import PixelLinear, images, labels, run_of

CLASSES, SIZE, T = 4, (9, 11), 8
X, Y = images(3, SIZE), labels(3, SIZE, values=(*range(CLASSES), VOID), block=3)
LOGITS = 3 * PixelLinear(CLASSES)(X)
CLEAN = LOGITS + 3 * PixelLinear(CLASSES, seed=7)(X)
CLEAN[0] = LOGITS[0]

each_goal = pytest.mark.parametrize("goal", [Untargeted(), Towards()], ids=["away", "towards"])


def run_at(objective: Objective, goal: Goal = Untargeted(), iteration: int = 0, **settings: Any) -> Run:  # noqa: B008
    run = run_of(Attack(objective=objective, goal=goal, iterations=T, **settings), X, Y, PixelLinear(CLASSES))
    run.iteration = iteration
    return run


def value(objective: Objective, run: Run, logits: Tensor = LOGITS, y: Tensor = Y, clean: Tensor = CLEAN) -> Tensor:
    places = torch.arange(len(y))
    reference = View(labels=y, logits=clean, places=places)
    return objective.bind(run)(View(labels=y, logits=logits, places=places, reference=reference))


@dataclass
class Pixel:
    """One valid pixel: its logits, those of the clean image, its label, and those of its whole image."""

    f: list[float]
    g: list[float]
    y: int
    image: list["Pixel"]
    targeted: bool
    t: int

    def p(self, f: list[float] | None = None) -> list[float]:
        f = self.f if f is None else f
        parts = [math.exp(v) for v in f]
        return [part / sum(parts) for part in parts]

    @property
    def ce(self) -> float:
        return -math.log(self.p()[self.y])

    def todo(self, f: list[float] | None = None) -> bool:
        f = self.f if f is None else f
        right = f.index(max(f)) == self.y
        return not right if self.targeted else right

    @property
    def kl(self) -> float:
        return sum(p * math.log(p / q) for p, q in zip(self.p(), self.p(self.g), strict=True))

    @property
    def length(self) -> float:
        return math.sqrt(sum(v * v for v in self.f))


def naive(of_pixel: Callable[[Pixel], float], run: Run, y: Tensor = Y) -> Tensor:
    found = []
    for image in range(len(y)):
        pixels: list[Pixel] = []
        for row in range(SIZE[0]):
            for col in range(SIZE[1]):
                if y[image, row, col] != VOID:
                    f, g = (z[image, :, row, col].tolist() for z in (LOGITS, CLEAN))
                    pixels.append(Pixel(f, g, int(y[image, row, col]), pixels, run.targeted, run.iteration + 1))
        found.append(sum(of_pixel(pixel) for pixel in pixels) / len(pixels))
    return torch.tensor(found, dtype=torch.float64)


def gradient_of(
    objective: Objective, run: Run, logits: Tensor = LOGITS, y: Tensor = Y, clean: Tensor = CLEAN
) -> Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(value(objective, run, leaf, y, clean).sum(), leaf)[0]

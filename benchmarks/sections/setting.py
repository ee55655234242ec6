"""What everything is measured on, and how."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from segtrans.data import images_of, load_data
from segtrans.data.base import resize
from segtrans.devices import synchronise
from segtrans.models import load_model
from segtrans.models.layout import Enlarged, Pointwise
from segtrans.objectives.base import pixel_losses

EPS = 8 / 255


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio with its spread, or a plain number."""

    section: str
    what: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass
class Setting:
    """What is measured on."""

    surrogate: str
    device: str
    size: int
    batch: int
    iterations: int
    repeats: int

    @cached_property
    def model(self) -> nn.Module:
        return load_model(self.surrogate, self.device)

    @cached_property
    def x(self) -> Tensor:
        return self.images(self.batch, self.size)

    @cached_property
    def y(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.x).argmax(1)

    def images(self, count: int, size: int) -> Tensor:
        photos = load_data("photos")
        samples = [resize(photos[i % len(photos)], size) for i in range(count)]
        return images_of(samples, self.device)

    def gradients(self, count: int, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """The least that an attack can do: so many forward and backward passes to the input."""
        x, y = self.x if x is None else x, self.y if y is None else y
        for _ in range(count):
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(pixel_losses(self.model(leaf), y).mean(), leaf)

    def seconds(self, work: Callable[[], object]) -> float:
        device = torch.device(self.device)
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        return time.perf_counter() - started

    def median(self, work: Callable[[], object]) -> float:
        """Seconds of the second time and later ones."""
        work()
        return statistics.median(self.seconds(work) for _ in range(self.repeats))

    def ratio(self, section: str, what: str, one: Callable[[], object], other: Callable[[], object], unit: str) -> Row:
        """How many times as long ``one`` takes as ``other``, pair by pair."""
        one()
        other()
        found = [self.seconds(one) / self.seconds(other) for _ in range(self.repeats)]
        return Row(section, what, statistics.median(found), unit, min(found), max(found))


def as_it_comes(spec: str, device: str) -> nn.Module:
    """A model as torch makes networks: backward() computes gradients of weights, too, they lie in the order of their
    dimensions, and PyTorch chooses by which routine they are applied.
    """
    model = load_model(spec, device).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, Pointwise):
            module.__class__ = nn.Conv2d
        if isinstance(module, Enlarged):
            module.__class__ = nn.Upsample
    for weight in model.parameters():
        weight.data = weight.data.contiguous()
    return model


def forward(model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        model(x)

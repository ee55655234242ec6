"""Everything registered, for the tests of the attack core; tiny models, images and labels are in segtrans.testing.

``ATTACKS`` holds every entry of the catalogue, every part on its own, and every input transformation with three
copies, all read from the registries: what is registered is tested. ``TRANSFORMS`` and ``OBJECTIVES`` do the same for
single parts, with settings that go further than the defaults.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES, PARTS, compose
from segtrans.catalogue import attack as read
from segtrans.composition import Part
from segtrans.errors import UsageError
from segtrans.goals import Towards
from segtrans.objectives import Objective
from segtrans.run import Run, View
from segtrans.steps import Proximal
from segtrans.testing import (  # noqa: F401 what tests of all rooms use is found in one place
    CLASSES,
    SIZE,
    Block,
    BreaksOnBright,
    Constant,
    Context,
    bright,
    changed,
    draw,
    images,
    labels,
)
from segtrans.transforms import (
    Admix,
    CellMask,
    Chain,
    Crop,
    MaskBlocks,
    MixMask,
    Operators,
    Remap,
    Rescale,
    Resize,
    Rotate,
    Scale,
    Shuffle,
    Spectrum,
    Structure,
    StyleMix,
    Transform,
    UniformScale,
    Warp,
)
from segtrans.worst import AnyAttack, WorstCase


class PixelLinear(nn.Module):
    """Logits of a pixel are a linear function of that pixel alone."""

    def __init__(self, classes: int = CLASSES, seed: int = 0) -> None:
        super().__init__()
        weight = torch.randn(classes, 3, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight.to(x))


def dense(count: int = 3, size: tuple[int, int] = SIZE, *, seed: int = 0) -> Tensor:
    """Labels without void."""
    return labels(count, size, seed=seed, values=range(CLASSES))


def run_of(attack: Attack, x: Tensor, y: Tensor, model: Callable[[Tensor], Tensor] | None = None) -> Run:
    """What parts are given, as at the first iteration; they may draw, whether they are the attack's or not."""
    return Run(replace(attack, random_start=True), model or PixelLinear(), x, y)


def loss_of(objective: Objective, logits: Tensor, y: Tensor, run: Run, places: Tensor | None = None) -> Tensor:
    """The objective of logits, whatever model they come from; the clean ones have the classes in reverse order."""
    places = torch.arange(len(y)) if places is None else places
    clean = View(labels=y, logits=logits.detach().flip(1), places=places)
    return objective.bind(run)(View(labels=y, logits=logits, places=places, reference=clean))


def parts_of(kind: type) -> dict[str, type]:
    """The registered parts of one kind."""
    return {name: part for name, part in PARTS.items() if issubclass(part, kind)}


def few(attack: AnyAttack, most: int = 3) -> AnyAttack:
    """The attack with at most so many copies, neighbours, samples or steps inside wherever fewer make it cheaper.

    No law knows how many there are, and an entry may take hundreds of gradients a step.
    """

    if isinstance(attack, WorstCase):
        return attack

    def fewer(part: Any) -> Any:
        for field in fields(part):
            if type(value := getattr(part, field.name)) is int and value > most:
                with suppress(UsageError):
                    less = replace(part, **{field.name: most})
                    part = less if _cost(less) < _cost(part) else part
        return part

    return replace(
        attack,
        objective=fewer(attack.objective),
        transforms=tuple(map(fewer, attack.transforms)),
        gradients=tuple(map(fewer, attack.gradients)),
    )


def _cost(part: Part) -> int:
    return compose(part).evaluations


def _quick(attack: AnyAttack, iterations: int) -> AnyAttack:
    """A few iterations show what many would."""
    return changed(few(attack), iterations=min(attack.iterations, iterations))


def reaches_inside(attack: AnyAttack) -> bool:
    """Whether an attack needs a surrogate with layers, of which the simplest toys have none."""
    return any(one.backward or one.objective.layer is not None for one in attack.attacks)


def _attacks() -> Iterator[tuple[str, AnyAttack]]:
    for name, entry in ENTRIES.items():
        # Where the perturbation is kept small, it takes some time until there is one at all.
        yield name, _quick(entry.attack, 40 if isinstance(entry.attack.attacks[0].step, Proximal) else 4)
    for name, part in PARTS.items():
        yield f"{name}()", _quick(compose(part()), 2)
        if issubclass(part, Transform) and part is not Rescale:  # whose batch has one size, and so one copy
            yield f"{name}(copies=3)", replace(compose(part(copies=3)), iterations=2)
    for text in ("segpgd + remap(copies=2) + scale(copies=2) + smooth(size=5) + mi(iterations=4)", "l2 + cospgd + di"):
        yield text, read(text)


ATTACKS = dict(_attacks())

SEPARATE = {name: attack for name, attack in ATTACKS.items() if not attack.shared}
"""Attacks whose images have nothing to do with each other, whatever batch they are in."""

BY_THEMSELVES = {name: attack for name, attack in ATTACKS.items() if not isinstance(attack.attacks[0].goal, Towards)}
"""Attacks that choose their labels where the caller gives none."""

TRANSFORMS: dict[str, Transform] = {
    **{f"{name}()": part() for name, part in parts_of(Transform).items()},
    **{
        repr(part): part
        for part in (
            Remap(grid=3, cuts="even", window=(0.1, 0.25), flip="horizontal"),
            Remap(grid=(1, 5), window=(0.3, 0.8), flip="none"),
            Resize(scale=(0.4, 0.9), probability=1.0),
            Rescale(scale=(0.3, 0.6)),
            Rescale(scale=(1.3, 2.2)),
            Scale(copies=2),
            UniformScale(copies=3, scale=(0.5, 2.0)),
            StyleMix(keep=0.1, noise=0.0),
            Spectrum(copies=1, rho=0.9, sigma=6.0),
            MaskBlocks(copies=2, grid=3),
            Shuffle(blocks=5, angle=90.0),
            Shuffle(blocks=2, angle=0.0),
            Structure(blocks=7, operations=("vertical_roll", "horizontal_roll", "half_turn")),
            Warp(mesh=4, reach=0.4),
            Warp(reach=2.0),
            Rotate(angle=180.0),
            Crop(area=(0.05, 0.3), ratio=(0.5, 2.0)),
            CellMask(grid=3, kept=4, fill=(0.0, 0.0, 0.0)),
            Chain(length=3, operations=("identity", "shuffle", "mask", "darken")),
            Operators(shortest=7, length=7),
        )
    },
}

# These change what a pixel shows, beyond recognition, but not its place.
REPAINTING = (Admix, MixMask, Spectrum, StyleMix)

# Those on features are not functions of logits.
OBJECTIVES: dict[str, Objective] = {name: p() for name, p in parts_of(Objective).items() if p().layer is None}

each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
each_separate_attack = pytest.mark.parametrize("attack", SEPARATE.values(), ids=SEPARATE)
each_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
each_repainting = pytest.mark.parametrize(
    "transform", [t for t in TRANSFORMS.values() if isinstance(t, REPAINTING)], ids=repr
)
each_recognisable = pytest.mark.parametrize(
    "transform", [t for t in TRANSFORMS.values() if not isinstance(t, REPAINTING)], ids=repr
)
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)

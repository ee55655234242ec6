"""The laws of a single call hold for every entry at sizes that no network likes, alone and mixed with a transformation.

Each entry meets each size once as it is and once with one more input transformation; these take turns, so that each
meets each size too. A batch of three, one image of it all void, is compared with a batch of one.
"""

from collections.abc import Iterator

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.catalogue import ENTRIES
from segtrans.catalogue import attack as read
from segtrans.objectives.constraints import PixelMultipliers
from segtrans.objectives.prepared import PreparedObjective
from segtrans.steps import Proximal
from segtrans.testing import check_call
from segtrans.transforms import Transform
from segtrans.worst import AnyAttack
from toys import Context, changed, few, parts_of

SIZES = [(65, 97), (128, 128), (160, 96)]
TRANSFORMS = parts_of(Transform)


class Coarse(nn.Module):
    """A network whose features, like those of real ones, have a fraction of the image's size, rounded up."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Context()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(F.avg_pool2d(x, 4, ceil_mode=True))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


MODEL = Coarse()


def partners(attack: AnyAttack) -> list[str]:
    """The transformations that an attack may be mixed with: those weighing the clean image's features refuse some, and
    those with a multiplier per pixel all.
    """
    objectives = [one.objective for one in attack.attacks]
    if any(isinstance(objective, PixelMultipliers) for objective in objectives):
        return []
    still = any(isinstance(objective, PreparedObjective) for objective in objectives)
    return [name for name, part in TRANSFORMS.items() if not (still and part.moves)]


def mixed() -> Iterator[tuple[str, tuple[int, int], str]]:
    """Entry, size and transformation; each entry meets three of these one after the other."""
    for place, (name, entry) in enumerate(ENTRIES.items()):
        names = partners(entry.attack)
        for number, size in enumerate(SIZES if names else ()):
            yield name, size, names[(place + number) % len(names)]


MIXED = list(mixed())


def affordable(attack: AnyAttack) -> AnyAttack:
    """Two iterations, so that what is kept between them is used, but one where each takes many gradients, and more
    where the perturbation is kept small, since it takes some time until there is one at all.
    """
    attack = few(attack, most=2)
    most = 40 if isinstance(attack.attacks[0].step, Proximal) else 2 if attack.evaluations_per_iteration <= 4 else 1
    return changed(attack, iterations=min(attack.iterations, most))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry(name: str, size: tuple[int, int]) -> None:
    check_call(affordable(ENTRIES[name].attack), MODEL, size)


@pytest.mark.parametrize(("name", "size", "transform"), MIXED, ids=str)
def test_every_entry_with_one_more_transformation(name: str, size: tuple[int, int], transform: str) -> None:
    check_call(affordable(read(f"{name} + {transform}()")), MODEL, size)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_transformation_is_left_out(name: str) -> None:
    assert {size for _, size, used in MIXED if used == name} == set(SIZES)

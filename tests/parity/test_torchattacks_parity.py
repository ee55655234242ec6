"""Our attacks are torchattacks', in float64, on labels without void, where the two are meant to be the same.

torchattacks averages its loss over the whole batch and we do not, so batches are powers of two: a gradient divided by
2 or 4 has the same digits, and every later number is the same to the last bit.
"""

from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.gradients import Momentum
from segtrans.random import Draw
from segtrans.threat import LInf
from segtrans.transforms import Resize
from toys import Context, dense, images, run_of

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed ; make setup installs it")

EPS, STEPS = 8 / 255, 10
MODEL = Context()


def theirs(name: str, batch: int, **settings: Any) -> Tensor:
    attack = getattr(torchattacks, name)(MODEL, eps=EPS, **settings)
    if name == "TIFGSM":
        # Its kernel is float32 and two-dimensional; the same weights in float64 go with float64 gradients.
        kernel = torch.from_numpy(attack.gkern(attack.len_kernel, attack.nsig))
        attack.stacked_kernel = kernel.expand(3, 1, -1, -1)
    return attack(images(batch), dense(batch))


def ours(text: str, batch: int) -> Tensor:
    return read(text)(MODEL, images(batch), dense(batch))


PAIRS = {
    "PGD": ("bim", {"alpha": 2 / 255, "steps": STEPS, "random_start": False}),
    "MIFGSM": ("mi(step_size='eps/T')", {"alpha": EPS / STEPS, "steps": STEPS, "decay": 1.0}),
    "NIFGSM": ("ni(step_size='eps/T')", {"alpha": EPS / STEPS, "steps": STEPS, "decay": 1.0}),
    "SINIFGSM": ("si(step_size='eps/T')", {"alpha": EPS / STEPS, "steps": STEPS, "decay": 1.0, "m": 5}),
    "BIM": ("bim", {"alpha": 2 / 255, "steps": STEPS}),
    "FGSM": ("fgsm", {}),
}


@pytest.mark.parametrize("batch", [2, 4])
@pytest.mark.parametrize("name", PAIRS)
def test_same_adversarial_images(name: str, batch: int) -> None:
    text, settings = PAIRS[name]
    found, expected = ours(text, batch), theirs(name, batch, **settings)
    assert (expected != images(batch)).double().mean() > 0.9
    if name in ("FGSM", "BIM"):
        # FGSM and BIM clip in another order of operations (no x + (adv - x)): equal but for rounding.
        assert (found - expected).abs().max() <= 1e-15
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("text", "decay"), [("smooth + bim(step_size='eps/T')", 0.0), ("ti(step_size='eps/T')", 1.0)])
def test_translation_invariance_is_the_same(text: str, decay: float) -> None:
    """Ours smooths along columns, then rows, theirs in one two-dimensional convolution: equal but for rounding."""
    settings = {
        "alpha": EPS / STEPS,
        "steps": STEPS,
        "decay": decay,
        "diversity_prob": 0.0,
        "len_kernel": 15,
        "nsig": 3,
    }
    expected = theirs("TIFGSM", 2, **settings)
    assert (ours(text, 2) - expected).abs().max() <= 1e-6


@dataclass(frozen=True, repr=False)
class TheirStart(LInf):
    """Begins where torchattacks' global generator says."""

    def start(self, x: Tensor, draw: Draw) -> Tensor:
        return (x + torch.empty_like(x).uniform_(-self.radius, self.radius)).clamp(0, 1)


class TheirNumbers:
    """Answers :class:`Resize` what torchattacks' global generator says, for images of one side."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.small = int(torch.randint(int(0.9 * side), side, (1,), dtype=torch.int32))
        self.offsets = [int(torch.randint(0, side - self.small, (1,), dtype=torch.int32)) for _ in range(2)]
        self.changed = bool(torch.rand(1) < 0.5)

    def uniform(self, *shape: int, **bounds: float) -> Tensor:
        return torch.full((1, *shape), self.small / self.side, dtype=torch.float64)

    def chance(self, probability: float, *shape: int) -> Tensor:
        return torch.full((1, *shape), self.changed)

    def integers(self, bound: Tensor) -> Tensor:
        # Where an image is left alone there is nothing to place.
        return torch.full_like(bound, self.offsets.pop(0) if self.changed else 0)

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class TheirResize(Resize):
    def __call__(self, x: Tensor, y: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        return super().__call__(x, y, cast(Draw, TheirNumbers(x.shape[-1])))


@pytest.mark.parametrize("decay", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_input_diversity_is_the_same(decay: float, seed: int) -> None:
    """Labels stay where they are, as theirs do. Ours reads positions, theirs interpolates and pads: equal but for
    rounding. Ours also draws the largest size and the last place, which theirs never does.
    """
    x, y = images(1, (30, 30)), dense(1, (30, 30))
    torch.manual_seed(seed)
    expected = torchattacks.DIFGSM(MODEL, eps=EPS, alpha=2 / 255, steps=STEPS, decay=decay)(x, y)
    torch.manual_seed(seed)
    found = compose(TheirResize(labels="keep"), Momentum(decay=decay))(MODEL, x, y)
    assert (found - expected).abs().max() <= 1e-12


def test_same_from_a_shared_random_start() -> None:
    torch.manual_seed(5)
    expected = theirs("PGD", 2, alpha=2 / 255, steps=STEPS, random_start=True)
    torch.manual_seed(5)
    found = compose(TheirStart(EPS), read("pgd"))(MODEL, images(2), dense(2))
    assert torch.equal(found, expected)


def test_a_quarter_of_the_budget_is_two_grey_levels_of_eight() -> None:
    assert read("pgd").alpha == 2 / 255


def test_without_the_batch_mean_theirs_depends_on_the_batch_and_ours_does_not() -> None:
    """Signs and means per image hide torchattacks' mean over the batch; its gradient itself is N times smaller."""
    x, y = images(4), dense(4)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.CrossEntropyLoss()(MODEL(leaf), y), leaf)
    run = run_of(read("bim"), x, y, MODEL)
    assert torch.equal(run.gradient(x), 4 * gradient)

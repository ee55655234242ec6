"""Variance tuning, Auto-PGD and the patch-wise attack are torchattacks', in float64, with the same random numbers.

torchattacks averages its loss over the batch and we do not, so batches are powers of two, as in
``test_torchattacks_parity.py``. So are budgets here where its tensors would be float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.gradients import neighbours
from segtrans.random import Draw
from segtrans.run import Run
from segtrans.threat import LInf
from toys import CLASSES, Context, dense, images

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed ; make setup installs it")

SIZE = (9, 11)
X, Y = images(2, SIZE), dense(2, SIZE)
EPS, STEPS = 8 / 255, 6
MODEL = Context()


@pytest.fixture
def shared_noise(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """torchattacks draws the neighbours that ours drew before, which are listed."""
    drawn: list[Tensor] = []
    original = neighbours._noise

    def record(run: Run, draw: Draw, radius: float) -> Tensor:
        drawn.append(original(run, draw, radius))
        return drawn[-1]

    def play(like: Tensor) -> SimpleNamespace:
        def uniform(low: float, high: float) -> Tensor:
            noise = next(again)
            assert noise.shape == like.shape
            assert low <= noise.min() < 0.9 * low
            assert 0.9 * high < noise.max() <= high
            return noise

        return SimpleNamespace(uniform_=uniform)

    again = iter(drawn)
    monkeypatch.setattr(neighbours, "_noise", record)
    monkeypatch.setattr(torch, "randn_like", play)
    return drawn


@pytest.mark.parametrize("samples", [1, 5, 20])
@pytest.mark.parametrize(("name", "ahead"), [("VMIFGSM", 0.0), ("VNIFGSM", 1.0)])
def test_variance_tuning(name: str, ahead: float, samples: int, shared_noise: list[Tensor]) -> None:
    attack = read(f"variance(samples={samples}, ahead={ahead}) + mi(iterations={STEPS})")
    found = attack(MODEL, X, Y)
    theirs = getattr(torchattacks, name)(MODEL, eps=EPS, alpha=EPS / 4, steps=STEPS, decay=1.0, N=samples, beta=1.5)
    assert torch.equal(found, theirs(X, Y))
    assert len(shared_noise) == samples * STEPS
    plain = read(f"{'ni' if ahead else 'mi'}(iterations={STEPS})")(MODEL, X, Y)
    assert (found != plain).any()


def test_entries_are_theirs_with_twenty_neighbours() -> None:
    for name, ahead in (("vmi", 0.0), ("vni", 1.0)):
        assert read(name) == read(f"variance(samples=20, radius=1.5, ahead={ahead}) + mi")


@pytest.mark.parametrize("seed", range(3))
def test_patch_wise_noise(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = torchattacks.PIFGSM(MODEL, max_epsilon=1 / 32, num_iter_set=8, amplification=8.0)
    kernel, padding = theirs.project_kern(3)
    monkeypatch.setattr(theirs, "project_kern", lambda size: (kernel.double(), padding))
    x, y = images(2, SIZE, seed=seed), dense(2, SIZE, seed=seed)
    attack = read("linf(eps=0.03125) + pi(iterations=8) + patchwise(amplification=8)")
    found, expected = attack(MODEL, x, y), theirs(x, y)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert (found != read("linf(eps=0.03125) + bim")(MODEL, x, y)).any()


class Pooled(nn.Module):
    """A classifier, (N, classes), since torchattacks' Auto-PGD takes no dense labels."""

    def forward(self, x: Tensor) -> Tensor:
        return MODEL(x).mean((2, 3)) + 3 * (9 * MODEL(x)).sin().mean((2, 3))


class Everywhere(nn.Module):
    """The same classifier with its logits at every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return Pooled()(x)[:, :, None, None].expand(-1, -1, *x.shape[-2:])


@pytest.fixture
def double() -> Iterator[None]:
    """torchattacks keeps its records in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass(frozen=True, repr=False)
class TheirStart(LInf):
    """Begins where torchattacks' global generator says, at a point that touches the ball."""

    def start(self, x: Tensor, draw: Draw) -> Tensor:
        noise = 2 * torch.rand(x.shape) - 1
        return (x + self.radius * noise / noise.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("steps", [1, 5, 12, 40])
def test_auto_pgd(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps follow on one evaluation more than it counts.

    At its first check it takes the objective before the first step for 0, so that this step always counts as a gain.
    The paper compares it, and so do we: where the first step lost, steps may be halved earlier.
    """
    count, eps = 16, 1 / 16
    # As many pixels as a power of two, so that a mean of equal numbers is that number.
    x = images(count, (4, 8))
    y = torch.arange(count) % CLASSES
    theirs = torchattacks.APGD(Pooled(), eps=eps, steps=steps)
    torch.manual_seed(1)
    best, *_ = theirs.attack_single_run(x, y)
    torch.manual_seed(1)
    attack = compose(TheirStart(eps), read(f"apgd(iterations={steps + 1})"))
    losses: list[Tensor] = []
    original = Run.gradient

    def gradient(self: Run, z: Tensor) -> Tensor:
        g = original(self, z)
        losses.append(self.losses)
        return g

    monkeypatch.setattr(Run, "gradient", gradient)
    found = attack(Everywhere(), x, y[:, None, None].expand(-1, 4, 8))
    assert len(losses) == steps + 1
    gained = losses[1] > losses[0]
    assert gained.sum() >= count / 2
    assert torch.allclose(found[gained], best[gained], rtol=0, atol=1e-12)
    assert found.isfinite().all()
    assert (found != attack.threat.project(x + (found - x).sign(), x)).any()

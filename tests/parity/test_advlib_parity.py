"""Minimum-norm attacks and DAG are adv-lib's, in float64, where the two are meant to be the same.

It keeps step sizes, weights and scales in float32, and finds proximal points by iterations that it ends early or that
resolve no more than the root of the precision; both are made exact here, and its proximal points are compared by
themselves. Images go one by one, since it cannot leave pixels out of some images of a batch and not of others.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.data.base import VOID
from segtrans.objectives import Margin
from segtrans.steps import Proportional, shrunk
from segtrans.threat import LInf
from toys import Context, images, labels

pytest.importorskip("adv_lib", reason="adv-lib is not installed ; make setup installs it")

pytestmark = pytest.mark.filterwarnings("ignore:distutils:DeprecationWarning")

# Away from the box, to which adv-lib's PDPGD projects before it makes the norm smaller, and ours together with it.
X = 0.3 + 0.4 * images(2)
VOIDS = labels(2) == VOID
MODEL = Context()
# Own predictions, all of which are right at first, and labels, of which few are.
TARGETS = {"predictions": MODEL(X).argmax(1).masked_fill(VOIDS, VOID), "labels": labels(2)}
each_target = pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS)


MODULES = {"alma_prox": "alma_prox", "pdpgd": "primal_dual_gradient_descent", "dag": "dense_adversary"}


class Wide:
    """torch, with float64 under the name of float32."""

    float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tensor]]:
    """An attack of adv-lib's by name."""
    pytest.importorskip("distutils", reason="adv-lib needs distutils, which Python 3.12 has from setuptools alone")
    plots: Any = ModuleType("visdom")
    plots.Visdom = object
    monkeypatch.setitem(sys.modules, "visdom", plots)
    modules = {name: import_module(f"adv_lib.attacks.segmentation.{module}") for name, module in MODULES.items()}
    for module in modules.values():
        monkeypatch.setattr(module, "torch", Wide())
    # Ours rounds the slope, so that it does not depend on the batch.
    monkeypatch.setattr("segtrans.objectives.constraints._softplus", F.softplus)

    def attack(name: str, y: Tensor, x: Tensor = X, **settings: Any) -> Tensor:
        torch.set_default_dtype(torch.float64)
        one = partial(getattr(modules[name], name), MODEL, **settings)
        parts = zip(x.split(1), y.where(y != VOID, 0).split(1), (y != VOID).split(1), strict=True)
        return torch.cat([one(inputs=image, labels=label, masks=valid) for image, label, valid in parts])

    # Its search for proximal points would be compiled, for minutes.
    torch.compiler.set_stance("force_eager")
    yield attack
    torch.compiler.set_stance("default")
    torch.set_default_dtype(torch.float32)


def penalty(y: Tensor, r: Tensor, m: Tensor) -> Tensor:
    """Theirs, but with the derivative that it has instead of the one that they give it by hand."""
    beyond = m * y + m * r * y**2 + r**2 * y**3 / 6
    return torch.where(y >= 0, beyond, m * y / (1 - r.clamp_min(1) * y.clamp_max(0)))


def test_proximal_points(theirs: Callable[..., Tensor]) -> None:
    search = sys.modules["adv_lib.attacks.segmentation.alma_prox"].prox_linf_indicator
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(X.shape, generator=generator, dtype=X.dtype)
    metric = torch.rand(X.shape, generator=generator, dtype=X.dtype)
    for amount in (1.0, 10.0, 100.0, 1e4):
        found = shrunk(delta, metric, torch.tensor([amount, 2 * amount]).to(X), -X, 1 - X)
        expected = search(delta, torch.tensor([amount, 2 * amount]).to(X), -X, 1 - X, metric, ε=1e-9)
        assert torch.allclose(found, expected, rtol=0, atol=1e-7)


@each_target
@pytest.mark.parametrize("steps", [20, 50])
def test_alma_prox(theirs: Callable[..., Tensor], steps: int, y: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def proximal(δ: Tensor, λ: Tensor, lower: Tensor, upper: Tensor, **metric: Tensor) -> Tensor:
        return shrunk(δ, metric["H"], λ, lower, upper)

    monkeypatch.setattr(sys.modules["adv_lib.attacks.segmentation.alma_prox"], "prox_linf_indicator", proximal)
    # In more steps than these, values whose gradient is next to zero make something of its rounding.
    found = read(f"alma-prox(iterations={steps}, step_size=0.01)")(MODEL, X, y)
    expected = theirs("alma_prox", y, num_steps=steps, penalty=penalty, lr_init=0.01)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    assert (found != X).any()


@each_target
def test_pdpgd(theirs: Callable[..., Tensor], y: Tensor) -> None:
    found = read("pdpgd(iterations=20)")(MODEL, X, y)
    exact = {"proximal_steps": 2000, "ε_threshold": 1e-12}
    expected = theirs("pdpgd", y, norm=float("inf"), num_steps=20, primal_lr=0.01, **exact)
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    assert (found != X).any()


@each_target
def test_dag(theirs: Callable[..., Tensor], y: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs drives pixels to the strongest other class, where the paper and our ``dag`` draw one, and stops on its
    own; after as many steps ours is at the same place.
    """
    passes: list[int] = []
    forward = Context.forward

    def counted(self: Context, x: Tensor) -> Tensor:
        passes.append(len(x))
        return forward(self, x)

    for image, label in zip(X.split(1), y.split(1), strict=True):
        passes.clear()
        with monkeypatch.context() as counting:
            counting.setattr(Context, "forward", counted)
            expected = theirs("dag", label, image, γ=0.005, adv_threshold=0.9)
        steps = len(passes) - 1
        assert 5 < steps < 199, "it stopped"
        ours = compose(LInf(1), Margin(confidence=0.0), Proportional(), Attack(iterations=steps, step_size=0.005))
        assert torch.allclose(ours(MODEL, image, label), expected, rtol=0, atol=1e-9)

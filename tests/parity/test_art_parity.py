"""Our attacks are those of the Adversarial Robustness Toolbox, on labels without void, where the two are meant to be
the same.

It computes in float32 unless its constant for that is replaced, as it is here. It knows one label per image, which here
is the image's number: under it the estimator keeps the dense labels.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.random import Draw
from segtrans.threat import L2, LInf, Threat
from toys import Context, dense, images

X, Y, WANTED = images(3), dense(3), dense(3, seed=4)
MIDDLE = 0.3 + 0.4 * X
EPS, FAR, STEPS = 8 / 255, 1.5, 10
MODEL = Context()


@pytest.fixture
def art(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    art = pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed ; make setup installs it")
    from art.attacks.evasion import fast_gradient
    from art.attacks.evasion.projected_gradient_descent import projected_gradient_descent_numpy

    for module in (fast_gradient, projected_gradient_descent_numpy):
        monkeypatch.setattr(module, "ART_NUMPY_DTYPE", np.float64)
    return art


def theirs(art: ModuleType, name: str, x: Tensor = X, y: Tensor = Y, **settings: Any) -> Tensor:
    estimators = art.estimators

    class Estimator(estimators.classification.ClassifierMixin, estimators.LossGradientsMixin, estimators.BaseEstimator):
        """The model with the dense labels of ``y``; what else an estimator must have is not asked for."""

        input_shape = tuple(x.shape[1:])
        fit = None

        def predict(self, x: np.ndarray, **options: Any) -> np.ndarray:
            return np.zeros((len(x), self.nb_classes))

        def loss_gradient(self, x: np.ndarray, y: np.ndarray, **options: Any) -> np.ndarray:
            leaf, numbers = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y).argmax(1)
            loss = F.cross_entropy(MODEL(leaf), self.model[numbers], reduction="none").mean((1, 2)).sum()
            return torch.autograd.grad(loss, leaf)[0].numpy()

    estimator = Estimator(model=y, clip_values=(0, 1))
    estimator.nb_classes = len(x)
    attack = getattr(art.attacks.evasion, name)(estimator, **settings)
    return torch.from_numpy(attack.generate(x.numpy(), np.arange(len(x))))


def many(eps: float = EPS, **settings: Any) -> dict[str, Any]:
    return {"eps": eps, "eps_step": eps / 4, "max_iter": STEPS, "verbose": False, **settings}


SIGN_STEPS = {
    "FastGradientMethod": ("fgsm", {"eps": EPS}),
    "BasicIterativeMethod": ("bim", many()),
    "ProjectedGradientDescent": ("pgd(random_start=False)", many()),
    "MomentumIterativeMethod": ("mi", many()),
}


@pytest.mark.parametrize("name", SIGN_STEPS)
def test_sign_steps(name: str, art: ModuleType) -> None:
    """They clip to the box before the ball and we after it, and they divide by an L1 norm where we do by a mean, which
    is the same but for a factor that no sign shows: equal but for rounding.
    """
    text, settings = SIGN_STEPS[name]
    expected = theirs(art, name, **settings)
    assert expected.dtype == torch.float64
    assert (expected != X).double().mean() > 0.9
    assert (read(text)(MODEL, X, Y) - expected).abs().max() <= 1e-12


def test_momentum_with_decay(art: ModuleType) -> None:
    expected = theirs(art, "MomentumIterativeMethod", **many(decay=0.5))
    assert (read("momentum(decay=0.5)")(MODEL, X, Y) - expected).abs().max() <= 1e-12
    assert (read("mi")(MODEL, X, Y) - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", ["ProjectedGradientDescent", "MomentumIterativeMethod"])
def test_towards_given_labels(name: str, art: ModuleType) -> None:
    expected = theirs(art, name, y=WANTED, **many(targeted=True))
    text = "towards" if name == "ProjectedGradientDescent" else "mi + towards"
    found = read(text)(MODEL, X, WANTED)
    assert (found - expected).abs().max() <= 1e-12
    assert (MODEL(found).argmax(1) == WANTED).double().mean() > (MODEL(X).argmax(1) == WANTED).double().mean()


@dataclass(frozen=True, repr=False)
class BoxFirst(L2):
    """Clips to the box first and shrinks what is left into the ball, as ART does."""

    def project(self, adversarial: Tensor, x: Tensor) -> Tensor:
        return super().project(adversarial.clamp(0, 1), x)


IN_L2 = {
    "FastGradientMethod": ("fgsm", {"eps": FAR}),
    "ProjectedGradientDescent": ("bim", many(FAR)),
    "MomentumIterativeMethod": ("mi", many(FAR)),
}


@pytest.mark.parametrize("name", IN_L2)
def test_steps_in_l2(name: str, art: ModuleType) -> None:
    """Equal but for rounding where the box has no say; where it has, ART clips to it before it shrinks to the ball."""
    text, settings = IN_L2[name]
    attack = compose(L2(FAR), read(text))
    expected = theirs(art, name, MIDDLE, norm=2, **settings)
    assert 0 < expected.min() < expected.max() < 1
    assert (attack(MODEL, MIDDLE, Y) - expected).abs().max() <= 1e-12
    expected = theirs(art, name, norm=2, **settings)
    assert (compose(BoxFirst(FAR), read(text))(MODEL, X, Y) - expected).abs().max() <= 1e-12
    if name != "FastGradientMethod":
        assert (attack(MODEL, X, Y) - expected).abs().max() > 1e-4


def started(threat: type[Threat], norm: float) -> type[Threat]:
    """The budget with ART's random starts, from NumPy's global generator."""

    @dataclass(frozen=True, repr=False)
    class TheirStart(threat):
        def start(self, x: Tensor, draw: Draw) -> Tensor:
            from art.utils import random_sphere

            noise = random_sphere(len(x), x[0].numel(), self.radius, norm)
            return (x + torch.from_numpy(noise).view_as(x)).clamp(0, 1)

    return TheirStart


@pytest.mark.parametrize(
    ("threat", "norm", "eps"), [(LInf, np.inf, EPS), (BoxFirst, 2, FAR)], ids=["L-inf", "L2 with the box first"]
)
def test_same_from_a_shared_random_start(threat: type[Threat], norm: float, eps: float, art: ModuleType) -> None:
    np.random.seed(5)  # noqa: NPY002
    expected = theirs(art, "ProjectedGradientDescent", norm=norm, num_random_init=1, **many(eps))
    np.random.seed(5)  # noqa: NPY002
    found = compose(started(threat, norm)(eps), read("pgd"))(MODEL, X, Y)
    assert (found - expected).abs().max() <= 1e-12
    assert (found - compose(threat(eps), read("bim"))(MODEL, X, Y)).abs().max() > 0.01, "the start has a say"

"""Our attacks are foolbox's, in float64, on labels without void, where the two are meant to be the same.

foolbox knows one label per image, but lets an attack bring its own loss: here cross-entropy, meant over the pixels.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.gradients import GradientFunction, GradientTransform
from segtrans.random import Draw
from segtrans.run import Run
from segtrans.threat import L2, LInf, Threat
from toys import Context, dense, images

# foolbox imports a function from where SciPy no longer wants it.
pytestmark = pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")

X, Y, WANTED = images(3), dense(3), dense(3, seed=4)
EPS, FAR, STEPS = 8 / 255, 1.5, 10
MODEL = Context()


@pytest.fixture
def foolbox() -> ModuleType:
    return pytest.importorskip("foolbox", reason="foolbox is not installed ; make setup installs it")


def theirs(foolbox: ModuleType, name: str, eps: float = EPS, *, targeted: bool = False, **settings: Any) -> Tensor:
    return run(foolbox, getattr(foolbox.attacks, name)(**settings), eps, targeted=targeted)


def run(foolbox: ModuleType, attack: Any, eps: float, *, targeted: bool = False) -> Tensor:
    def dense_loss(model: Any, labels: Any) -> Any:
        def loss(x: Any) -> Any:
            losses = F.cross_entropy(model(x).raw, labels.raw, reduction="none")
            return type(x)(losses.mean((1, 2)).sum())

        return loss

    attack.get_loss_fn = dense_loss
    criteria = foolbox.criteria
    goal = criteria.TargetedMisclassification(WANTED) if targeted else criteria.Misclassification(Y)
    return attack.run(foolbox.PyTorchModel(MODEL, bounds=(0, 1), device="cpu"), X, goal, epsilon=eps)


@pytest.mark.parametrize(
    ("name", "text", "settings"),
    [
        ("FGSM", "fgsm", {}),
        ("LinfBasicIterativeAttack", "bim", {"rel_stepsize": 1 / 4, "steps": STEPS}),
        ("LinfPGD", "pgd(random_start=False)", {"abs_stepsize": 2 / 255, "steps": STEPS, "random_start": False}),
    ],
)
def test_sign_steps(name: str, text: str, settings: dict[str, Any], foolbox: ModuleType) -> None:
    expected = theirs(foolbox, name, **settings)
    assert (expected != X).double().mean() > 0.9
    assert torch.equal(read(text)(MODEL, X, Y), expected)


@pytest.mark.parametrize(
    ("name", "text", "settings"),
    [
        ("FGM", "fgsm", {}),
        ("L2BasicIterativeAttack", "bim", {"rel_stepsize": 1 / 4, "steps": STEPS}),
        ("L2PGD", "pgd(random_start=False)", {"rel_stepsize": 1 / 4, "steps": STEPS, "random_start": False}),
    ],
)
def test_steps_in_l2(name: str, text: str, settings: dict[str, Any], foolbox: ModuleType) -> None:
    """They multiply by one over the length and we divide by it: equal but for rounding."""
    expected = theirs(foolbox, name, FAR, **settings)
    assert ((expected == 0) | (expected == 1)).any(), "the box has a say"
    assert (expected - X).abs().max() > 0.1
    assert (read(f"l2(eps={FAR}) + {text}")(MODEL, X, Y) - expected).abs().max() <= 1e-12


def test_towards_given_labels(foolbox: ModuleType) -> None:
    expected = theirs(foolbox, "LinfBasicIterativeAttack", rel_stepsize=1 / 4, steps=STEPS, targeted=True)
    found = read("towards")(MODEL, X, WANTED)
    assert torch.equal(found, expected)
    assert (MODEL(found).argmax(1) == WANTED).double().mean() > (MODEL(X).argmax(1) == WANTED).double().mean()


def test_towards_given_labels_in_l2(foolbox: ModuleType) -> None:
    """Equal but for rounding, as above."""
    expected = theirs(foolbox, "L2BasicIterativeAttack", FAR, rel_stepsize=1 / 4, steps=STEPS, targeted=True)
    assert (read(f"l2(eps={FAR}) + towards")(MODEL, X, WANTED) - expected).abs().max() <= 1e-12


def started(threat: type[Threat], attack: Any) -> type[Threat]:
    """The budget with starts that foolbox's attack draws, from PyTorch's global generator."""

    @dataclass(frozen=True, repr=False)
    class TheirStart(threat):
        def start(self, x: Tensor, draw: Draw) -> Tensor:
            from eagerpy import astensor

            return attack.get_random_start(astensor(x), self.radius).raw.clamp(0, 1)

    return TheirStart


@pytest.mark.parametrize(("name", "threat", "eps"), [("LinfPGD", LInf, EPS), ("L2PGD", L2, FAR)])
def test_same_from_a_shared_random_start(name: str, threat: type[Threat], eps: float, foolbox: ModuleType) -> None:
    attack = getattr(foolbox.attacks, name)(rel_stepsize=1 / 4, steps=STEPS, random_start=True)
    torch.manual_seed(5)
    expected = run(foolbox, attack, eps)
    torch.manual_seed(5)
    found = compose(started(threat, attack)(eps), read("pgd"))(MODEL, X, Y)
    # As without a random start: in L2 equal but for rounding.
    assert torch.equal(found, expected) if threat is LInf else (found - expected).abs().max() <= 1e-12
    assert (found - compose(threat(eps), read("bim"))(MODEL, X, Y)).abs().max() > 0.01, "the start has a say"


MOMENTUM = {"LInf": ("MIFGSM", EPS), "L2": ("L2MomentumIterativeFastGradientMethod", FAR)}


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("norm", MOMENTUM)
def test_momentum_of_gradients_divided_by_their_l1_norm(norm: str, decay: float, foolbox: ModuleType) -> None:
    """foolbox's momentum is over its steps; here its gradients are divided by their L1 norm, as in MI-FGSM's paper.

    Ours are divided by the mean instead of the sum, a factor that no direction shows: equal but for rounding.
    """
    name, eps = MOMENTUM[norm]
    attack = getattr(foolbox.attacks, name)(momentum=decay, rel_stepsize=1 / 4, steps=STEPS)
    attack.normalize = lambda gradients, **_: foolbox.attacks.gradient_descent_base.normalize_lp_norms(gradients, p=1)
    found = read(f"{norm}(eps={eps}) + momentum(decay={decay})")(MODEL, X, Y)
    assert (found - run(foolbox, attack, eps)).abs().max() <= 1e-12
    assert (found != read(f"{norm}(eps={eps}) + bim")(MODEL, X, Y)).double().mean() > 0.01


@dataclass(frozen=True, kw_only=True)
class Signs(GradientTransform):
    """Forgets how large the values of a gradient are."""

    def wrap(self, gradient: GradientFunction, run: Run) -> GradientFunction:
        return lambda z: gradient(z).sign()


def test_their_own_momentum_is_of_signs(foolbox: ModuleType) -> None:
    """As foolbox ships it, the sum is of signs: another attack than the paper's, which ours is with signs put in."""
    expected = theirs(foolbox, "MIFGSM", rel_stepsize=1 / 4, steps=STEPS)
    assert torch.equal(compose(Signs(), read("mi"))(MODEL, X, Y), expected)
    assert (read("mi")(MODEL, X, Y) - expected).abs().max() > 0.01


def test_adam(foolbox: ModuleType) -> None:
    """Without AMSGrad, which foolbox lacks, and with gradients as they are, of which foolbox takes the signs first."""
    attack = foolbox.attacks.LinfAdamBasicIterativeAttack(rel_stepsize=1 / 4, steps=STEPS)
    attack.normalize = lambda gradients, **_: gradients
    found = read("adam(amsgrad=False)")(MODEL, X, Y)
    assert (found - run(foolbox, attack, EPS)).abs().max() <= 1e-12
    assert (found != read("bim")(MODEL, X, Y)).double().mean() > 0.01

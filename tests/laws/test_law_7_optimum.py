"""Law 7: where the best attack is known, it is found; and every gradient is the gradient of what it says."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES
from segtrans.catalogue import attack as read
from segtrans.gradients import Smooth
from segtrans.objectives import Objective
from segtrans.steps import Patchwise, Proximal
from segtrans.threat import L2
from toys import (
    CLASSES,
    PixelLinear,
    each_objective,
    images,
    labels,
    loss_of,
    reaches_inside,
    run_of,
)

TWO = PixelLinear(classes=2)
# Budget, step and images are multiples of 1/256, so that float64 adds them without rounding.
X = (images(2) * 255 / 256 * 256).round() / 256
Y = labels(2, values=(0, 1))
EPS = 8 / 256


def ascent(y: Tensor) -> Tensor:
    """With two classes and logits w·x, the loss of a pixel grows along w_other - w_own wherever it is."""
    weight = TWO.weight[:, :, 0, 0]
    return (weight.flip(0) - weight)[y].movedim(-1, 1).sign()


def pulls_everywhere(objective: Objective) -> bool:
    """Whether it grows, at every pixel and whatever is predicted there, with the other logit minus the label's, as
    cross-entropy does. Masked objectives let go of pixels, and an angle has another way to go.
    """
    y = labels(1, (9, 11), values=(0, 1), block=1)
    run = run_of(Attack(objective=objective), images(1, (9, 11)), y, TWO)
    run.iteration = 4
    z = torch.randn(1, 2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(objective, z, y, run).sum(), z)
    return torch.equal(gradient.sign(), torch.stack([2 * y - 1, 1 - 2 * y], 1).double())


# Transformations, smoothing, patch-wise steps and a shared perturbation give the pixels a common fate, in a hidden area
# nothing is gained on a model of single pixels, and features are something else; of what is left the optimum is known.
# Steps that keep the perturbation small have another one, in test_minimum_norm.py.
DIRECT = {
    name: entry.attack
    for name, entry in ENTRIES.items()
    if isinstance(entry.attack, Attack)
    and entry.attack.iterations
    and not reaches_inside(entry.attack)
    and not entry.attack.transforms
    and not entry.attack.shared
    and not entry.attack.area.hidden
    and not isinstance(entry.attack.step, Patchwise | Proximal)
    and not any(isinstance(g, Smooth) for g in entry.attack.gradients)
    and pulls_everywhere(entry.attack.objective)
}


def test_there_are_attacks_to_check() -> None:
    assert {"fgsm", "bim", "pgd", "mi", "ni", "segpgd", "cospgd", "js", "margin", "transegpgd"} <= set(DIRECT)
    assert {"towards", "least-likely"} <= set(DIRECT)
    assert not {"masked-ce", "pgd-cos", "dag"} & set(DIRECT)


@pytest.mark.parametrize("name", DIRECT)
def test_attacks_reach_the_best_corner(name: str) -> None:
    adversarial = read(f"linf(eps={EPS}) + {name}")(TWO, X, Y)
    run = run_of(DIRECT[name], X, Y, TWO)
    expected = (X + (-EPS if run.targeted else EPS) * ascent(run.y)).clamp(0, 1)
    # All of them go further than the budget, and are sent back to its very end.
    assert torch.equal(adversarial, expected)


@pytest.mark.parametrize("text", ["bim", "mi", "ni"])
def test_steps_that_add_up_to_the_budget_reach_the_corner_too(text: str) -> None:
    """Eight eighths exactly, ten tenths but for rounding."""
    expected = (X + EPS * ascent(Y)).clamp(0, 1)
    eight, ten = (read(f"linf(eps={EPS}) + {text}(iterations={n}, step_size='eps/T')") for n in (8, 10))
    assert torch.equal(eight(TWO, X, Y), expected)
    assert torch.allclose(ten(TWO, X, Y), expected, rtol=0, atol=1e-15)


def test_l2_follows_the_gradient() -> None:
    """One step from inside the box goes along the normalised gradient, to the end of the ball."""
    x = 0.3 + 0.4 * images(2)
    attack = Attack(threat=L2(1.0), iterations=1, step_size="eps/1")
    run = run_of(attack, x, Y, TWO)
    gradient = run.gradient(x)
    expected = x + gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(attack(TWO, x, Y), expected, atol=1e-12)
    assert torch.allclose(attack.threat.distance(expected, x), torch.ones(2, dtype=torch.float64))


class Held(TorchFunctionMode):
    """Lets every ``detach`` return what it returned at the first evaluation: detached values are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self.first = True
        self.next = 0

    def again(self) -> "Held":
        self.first = self.first and not self.values
        self.next = 0
        return self

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        if func is not Tensor.detach:
            return func(*args, **(kwargs or {}))
        if self.first:
            self.values.append(args[0].detach().clone())
        self.next += 1
        return self.values[self.next - 1].clone()


@each_objective
def test_gradient_of_objectives(objective: Objective) -> None:
    y = labels(2, (4, 5), block=2)
    run = run_of(Attack(objective=objective), images(2, (4, 5)), y)
    run.iteration = 3
    logits = 2 * torch.randn(2, CLASSES, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    held = Held()

    def value(z: Tensor) -> Tensor:
        with held.again():
            return loss_of(objective, z, y, run)

    value(logits)
    assert torch.autograd.gradcheck(value, logits.requires_grad_())


def test_the_attacks_gradient_is_the_mean_over_copies() -> None:
    attack = read("remap(copies=3) + scale(copies=2)")
    x, y = images(1, (4, 6)), labels(1, (4, 6), block=2)
    model = PixelLinear()
    run = run_of(attack, x, y, model)

    def loss(z: Tensor) -> Tensor:
        """The same sum over copies as in the loop, as one number; a new count makes the draws those of the first."""
        run._gradients_this_iteration = (0, 1)
        return sum(run._losses(z, run.items(copy, copy + 1)).sum() for copy in range(6)) / 6

    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, leaf, fast_mode=True)
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    assert torch.allclose(run_of(attack, x, y, model).gradient(x), expected, rtol=1e-12, atol=1e-15)

"""The public checks hold for everything registered, and find what they are there to find."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.attack import Attack, Result
from segtrans.data.base import VOID
from segtrans.gradients import GradientTransform
from segtrans.models import SegModel, wrap
from segtrans.run import Run
from segtrans.steps import Step
from segtrans.testing import check_attack, check_model, check_transform
from segtrans.threat import LInf
from segtrans.transforms import Scale, Transform
from toys import REPAINTING, BreaksOnBright, Constant, bright, each_attack, each_transform, images


@each_attack
def test_attacks_keep_the_laws(attack: Attack) -> None:
    check_attack(attack)


@each_transform
def test_transformations_keep_the_laws(transform: Transform) -> None:
    check_transform(transform, repaints=isinstance(transform, REPAINTING))


@dataclass(frozen=True, kw_only=True)
class Faulty(Transform):
    """An input transformation with one fault."""

    moves: ClassVar[bool] = False
    fault: str = ""

    def __call__(self, x: Tensor, y: Tensor, draw: Any) -> tuple[Tensor, Tensor]:
        match self.fault:
            case "labels stay behind":
                return x.flip(-1), y
            case "labels without content":
                return x * (torch.arange(x.shape[-1]) > 2), y
            case "labels of the next column":
                return x, y.roll(1, -1)
            case "labels of the farther neighbour":
                return 0.2 * x + 0.8 * torch.cat([x[..., 1:], x[..., -1:]], -1), y
            case "no content":
                return 0 * x, torch.full_like(y, VOID)
            case "labels cut off":
                return x, y[:, :-1]
            case "new labels":
                return x, y.where(y != 1, 7)
            case "other precision":
                return x.half(), y
            case "a detached part":
                return x + (x * 0.5).detach(), y
            case "a gradient where nothing is read":
                return torch.cat([x[..., 1:], x[..., -1:]], -1) + 1e-30 * x, torch.cat([y[..., 1:], y[..., -1:]], -1)
            case "a mean over the batch":
                return x * (1 + x.detach().mean()), y
            case "a global generator":
                return x * (1 + torch.rand(1).to(x)), y
            case "in place":
                return x.mul_(0.9), y
            case "images alone":
                return x  # type: ignore[return-value]
            case "nothing":
                return x, y
            case "labels as numbers":
                return x, y.to(x.dtype)
            case _:
                return x * draw.uniform(1, 1, 1, low=0.8), y


def test_a_class_is_no_part() -> None:
    with pytest.raises(AssertionError, match="is no Transform; pass the part itself"):
        check_transform(Scale)  # type: ignore[arg-type]


def test_a_sound_transformation_passes() -> None:
    check_transform(Faulty())
    check_transform(Faulty(), repaints=True)


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("labels stay behind", "labels move"),
        ("labels without content", "labels move"),
        ("labels of the next column", "labels move"),
        ("labels of the farther neighbour", "labels move"),
        ("no content", "labels move"),
        ("labels cut off", "labels move"),
        ("new labels", "labels move"),
        ("other precision", "types"),
        ("a detached part", "gradients"),
        ("a mean over the batch", "batch"),
        ("a global generator", "random numbers"),
        ("in place", "inputs"),
        ("images alone", "types"),
        ("a gradient where nothing is read", "unread pixels"),
        ("labels as numbers", "types"),
    ],
)
def test_faulty_transformations_are_found(fault: str, law: str) -> None:
    with torch.random.fork_rng(), pytest.raises(AssertionError, match=rf"^law of {law}: Faulty\(.*{fault}.*\) [a-z]"):
        check_transform(Faulty(fault=fault))


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("labels stay behind", "labels stay: .* lets pixels depend on others"),
        ("new labels", "labels stay: .* repaints pixels where they are, but changes labels"),
        ("other precision", "types: .* changes the size or the type"),
        ("nothing", "an effect: .* leaves an image as it was"),
    ],
)
def test_faulty_repainting_is_found(fault: str, found: str) -> None:
    with pytest.raises(AssertionError, match=f"^law of {found}"):
        check_transform(Faulty(fault=fault), repaints=True)


@dataclass(frozen=True, kw_only=True)
class FaultyGradient(GradientTransform):
    """A gradient transformation with one fault."""

    fault: str = ""

    def wrap(self, gradient: Callable[[Tensor], Tensor], run: Run) -> Callable[[Tensor], Tensor]:
        def wrapped(z: Tensor) -> Tensor:
            match self.fault:
                case "asks twice":
                    return gradient(z) + gradient(z + 0.01)
                case "a mean over the batch":
                    return (found := gradient(z)) + found.mean(0)
                case "a global generator":
                    return gradient(z) + torch.randn_like(z)
                case "a generator put back":
                    with torch.random.fork_rng(devices=[]):
                        return gradient(z) * torch.randn(z.shape[1:]).to(z)
                case "moves where there is no gradient":
                    return gradient(z) + 1
                case "writes to the labels":
                    run.y.mul_(1)
                case "leaves a counter changed":
                    run.network.get_buffer("body.1.num_batches_tracked").add_(1)
                case "leaves a mark":
                    run.network.seen = True
                case "leaves a hook":
                    run.network.register_forward_hook(lambda module, inputs, output: output)
            return gradient(z)

        return wrapped


@pytest.mark.parametrize(
    ("fault", "law", "found"),
    [
        ("asks twice", "stated costs", "spent 4 gradient evaluations, more than the 2 it states"),
        ("a mean over the batch", "void and batch never matter", "treats an image otherwise"),
        ("a global generator", "void and batch never matter", "treats an image otherwise"),
        ("a generator put back", "one seed, one result", "other global random states"),
        ("moves where there is no gradient", "void", "moves pixels of an image that is all void"),
        ("writes to the labels", "nothing else changes", "changes images or labels"),
        ("leaves a counter changed", "nothing else changes", "changes weights or buffers"),
        ("leaves a mark", "nothing else changes", "changes attributes of modules"),
        ("leaves a hook", "nothing else changes", "changes hooks"),
    ],
)
def test_faulty_gradients_are_found(fault: str, law: str, found: str) -> None:
    attack = Attack(gradients=(FaultyGradient(fault=fault),), iterations=2)
    named = r"bim\(iterations=2\) \+ FaultyGradient\(.*\)"
    with torch.random.fork_rng(), pytest.raises(AssertionError, match=rf"^law of {law}: {named} .*{found}"):
        check_attack(attack)


@dataclass(frozen=True, kw_only=True)
class FaultyStep(Step):
    """Steps that leave the ball, or the box."""

    ball: bool = True

    def bind(self, run: Run) -> Callable[[Tensor, Tensor], Tensor]:
        def step(adversarial: Tensor, gradient: Tensor) -> Tensor:
            z = adversarial + 2 * run.threat.radius * gradient.sign()
            return z.clamp(0, 1) if self.ball else run.x + (z - run.x).clamp(-run.threat.radius, run.threat.radius)

        return step


@pytest.mark.parametrize(("ball", "law"), [(True, "the budget"), (False, "the box")])
def test_steps_too_far_are_found(ball: bool, law: str) -> None:
    named = "FaultyStep" if ball else r"FaultyStep\(ball=False\)"
    with pytest.raises(AssertionError, match=rf"^law of {law}: {named} "):
        check_attack(Attack(step=FaultyStep(ball=ball)))


class Truncated(LInf):
    """Truncates, which overshoots the budget downwards."""

    def quantise(self, adversarial: Tensor, x: Tensor) -> Tensor:
        return (adversarial * 255).floor() / 255


class Unrounded(LInf):
    def quantise(self, adversarial: Tensor, x: Tensor) -> Tensor:
        return adversarial


@pytest.mark.parametrize(
    ("threat", "found"),
    [
        (Truncated(), "the budget: .* on the 8-bit grid, beyond"),
        (Unrounded("6.5/255"), "the 8-bit grid: .* quantises to values between levels"),
    ],
)
def test_budgets_that_files_leave_are_found(threat: LInf, found: str) -> None:
    with pytest.raises(AssertionError, match=f"^law of {found}"):
        check_attack(Attack(threat=threat))


@dataclass(frozen=True, kw_only=True)
class Spoiled(Attack):
    """An attack whose result is spoiled by a function of it, the model, the images, and the options."""

    spoil: Callable[[Result, Any, Tensor, dict[str, Any]], Any]

    def perturb(self, model: Any, x: Tensor, y: Tensor | None = None, **options: Any) -> Result:
        result = super().perturb(model, x, y, **options)
        found = self.spoil(result, model, x, {"radius": self.threat.radius, "seed": 0, "chunk": None, **options})
        return replace(result, adversarial=found) if isinstance(found, Tensor) else found or result


def lighter(x: Tensor) -> Tensor:
    return (x + 4 / 255).clamp(0, 1)


def on(kind: type, spoil: Callable[[Result, Tensor], Any]) -> Callable[..., Any]:
    return lambda result, model, x, _: spoil(result, x) if isinstance(model, kind) else None


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda r, m, x, o: x.data.mul_(0.9) * 0 + r.adversarial, "nothing else changes: .* writes to its arguments"),
        (lambda r, m, x, o: replace(r, failed=~r.failed), "finite values: "),
        (lambda r, m, x, o: lighter(x), "regions: .* moves pixels outside the region"),
        (lambda r, m, x, o: x.clone(), "an effect: .* leaves an image as it was"),
        (lambda r, m, x, o: replace(r, stalled=r.failed), r"void: .* reports \[False, False, False\] as stalled"),
        (lambda r, m, x, o: None if o["radius"] else lighter(x), "no budget, no change: "),
        (lambda r, m, x, o: r.adversarial.clone().requires_grad_(), "plain results: "),
        (lambda r, m, x, o: x.clone() if o["chunk"] == 2 else None, "chunks never matter: .* with 2 images at a time"),
        (
            lambda r, m, x, o: x.clone() if o["seed"] == 5 and len(x) == 1 else None,
            "the batch .* in a batch than alone",
        ),
        (
            lambda r, m, x, o: x.clone() if len(x) == 4 and x[0].equal(images(4)[2]) else r,
            "the batch never .* in another order",
        ),
        (on(Constant, lambda r, x: replace(r, stalled=r.failed)), "zero gradients: .* does not report"),
        (on(Constant, lambda r, x: lighter(x)), "zero gradients: .* moves pixels"),
        (on(BreaksOnBright, lambda r, x: replace(r, failed=r.failed & False)), "NaN .* reports .* as failed"),
        (
            on(BreaksOnBright, lambda r, x: lighter(x) if len(x) == 3 else None),
            "NaN .* lets it change the other images",
        ),
        (on(BreaksOnBright, lambda r, x: r.adversarial.where(~bright(x), 1)), "NaN .* does not leave that image"),
    ],
)
def test_spoiled_results_are_found(spoil: Callable[..., Any], found: str) -> None:
    with pytest.raises(AssertionError, match=f"^law of {found}"):
        check_attack(Spoiled(spoil=spoil, transforms=(Scale(copies=2),), iterations=2))


class Net(nn.Module):
    """One convolution with one fault after it."""

    def __init__(self, fault: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fault = fault
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.fault is counting:
            self.calls += 1
        return self.fault(self.conv(x))


def same(logits: Tensor) -> Tensor:
    return logits


def counting(logits: Tensor) -> Tensor:
    return logits


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda logits: logits.detach(), "law of gradients: model 'Net' returned logits without a gradient"),
        (lambda logits: logits * 0, "law of gradients: model 'Net' has a gradient of zero"),
        (lambda logits: logits / 0, "law of finite logits: model 'Net' returned NaN or infinite"),
        (lambda logits: logits - logits.mean(0), "law of independence within a batch: model 'Net' lets images"),
        (lambda logits: logits - logits.mean(0).detach(), "law of independence .* depends on the batch's size"),
        (lambda logits: logits.float(), r"law of precision: model 'Net' returned torch.float32 for .*float64"),
        (lambda logits: logits + torch.rand(1), "law of reproducibility: model 'Net' says something else"),
        (
            lambda logits: logits + (logits.detach() - logits).sqrt(),
            "law of gradients: .* a gradient that is not finite",
        ),
        (lambda logits: logits + 0 * torch.rand(1), "law of nothing else changes: .* used torch's global random state"),
        (counting, "law of nothing else changes: model 'Net' changed its weights, its buffers"),
    ],
)
def test_faulty_models_are_found(fault: Callable[[Tensor], Tensor], found: str) -> None:
    with torch.random.fork_rng(), pytest.raises(AssertionError, match="^" + found):
        check_model(wrap(Net(fault), 4))


def test_sound_models_pass_and_stay_as_they_were() -> None:
    model = wrap(Net(same), 4)
    check_model(model)
    assert next(model.parameters()).dtype == torch.float32


def test_models_that_are_not_ready_are_found() -> None:
    model = wrap(Net(same), 4)
    model.network.train()
    with pytest.raises(AssertionError, match=r"^law of evaluation mode: model 'Net' has modules in training mode$"):
        check_model(model)
    model = wrap(Net(same), 4)
    model.network.requires_grad_(True)
    with pytest.raises(AssertionError, match=r"^law of frozen weights: "):
        check_model(model)
    model = wrap(Net(same), 4)
    model.name = ""
    with pytest.raises(AssertionError, match=r"^law of names: model '' has no name$"):
        check_model(model)


def test_models_that_fail_on_a_size_are_found() -> None:
    halves = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Halves())
    with pytest.raises(
        AssertionError, match=r"^law of any size: model 'mine' fails on images \(2, 3, 65, 97\): .*size"
    ):
        check_model(wrap(halves, 4, name="mine"))
    check_model(wrap(halves, 4, name="mine", multiple=2))
    with pytest.raises(AssertionError, match=r"fails on images \(2, 3, 64, 64\): .* for its 5 classes"):
        check_model(wrap(halves, 5, name="mine"))


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + F.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)


class Half(SegModel):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., ::2]


def test_logits_at_another_size_are_found() -> None:
    with pytest.raises(AssertionError, match=r"^law of shape: model 'model' returned \(2, 4, 64, 32\) instead of "):
        check_model(Half(Net(same), 4))

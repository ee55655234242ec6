"""What parts may ask a run for: one member's gradient, values, what is tracked, objectives weighed."""

import pytest
import torch
from ensemble_of_toys import ENSEMBLE, MODELS, SIZE, X, Y, each_fuse, loss, slope
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.errors import UsageError
from segtrans.goals import Goal, Towards, Untargeted
from segtrans.models import Ensemble
from segtrans.objectives import MaskedCrossEntropy
from segtrans.run import Run
from segtrans.steps import Adaptive
from segtrans.threat import L2, LInf
from segtrans.transforms import Scale, Warp
from toys import images, run_of

JUDGED = Adaptive(judge="accuracy")


def test_asking_a_member_leaves_no_trace() -> None:
    run = run_of(Attack(), X, Y, ENSEMBLE)
    whole = run.gradient(X)
    member_of = torch.tensor([2, 0, 1])
    mixed = run.ask(run.gradient, X, member_of)
    for n, k in enumerate(member_of.tolist()):
        assert torch.equal(mixed[n], run_of(Attack(), X, Y, MODELS[k]).gradient(X)[n])
    assert run.evaluations == 3 + 1

    def fails(z: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run.ask(fails, X, 1)
    assert torch.equal(run.gradient(X), whole)


def test_pixels_left_are_those_of_the_gradient_and_not_of_looking_for_its_view() -> None:
    """The first of two passes only finds how far the view goes downhill."""

    class Turning(torch.nn.Module):
        passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            wrong = torch.full_like(x[:, 0], self.passes % 2 == 0)
            return torch.stack([1 - wrong, wrong], 1) + 0 * x[:, :2]

    model = Turning()
    run = run_of(compose(Warp(descent=1), JUDGED), X, torch.zeros_like(Y), model)
    run.gradient(X)
    assert model.passes == 2
    assert (run.remaining == 0).all()


def test_values_are_the_objective_without_a_gradient() -> None:
    run = run_of(Attack(transforms=(Scale(copies=2),)), X, Y, ENSEMBLE)
    run.gradient(X)
    before, losses = run.evaluations, run.losses
    assert torch.allclose(run.value(X), losses)
    expected = [(loss(MODELS[1], x, y) + loss(MODELS[1], x / 2, y)) / 2 for x, y in zip(X, Y, strict=True)]
    assert torch.allclose(run.ask(run.value, X, 1), torch.stack(expected).detach())
    assert run.evaluations == before
    assert run.losses is losses


@pytest.mark.parametrize("goal", [Untargeted(), Towards()])
def test_what_is_tracked_is_a_mean_as_the_objective_is(goal: Goal) -> None:
    """Over weighted members and copies, with the objective's sign, the same to the last bit however it is chunked."""
    attack = Attack(goal=goal, objective=MaskedCrossEntropy(), transforms=(Scale(copies=3),), step=JUDGED)
    weights = torch.tensor([[0, 2, 0], [0.5, 0.25, 0.25], [0.9, 0.1, 0.3]], dtype=torch.float64)
    found = []
    for chunk in (1, 4, 9):
        run = Run(attack, Ensemble(MODELS, "loss"), X, Y, weights=weights, chunk=chunk)
        run.gradient(X)
        found.append(run.tracked)
        assert not torch.allclose(run.tracked, run.losses)
    sign = -1 if run.targeted else 1
    for n, (x, y) in enumerate(zip(X, run.y, strict=True)):
        parts = [w * loss(m, x / 2**k, y) for w, m in zip(weights[n], MODELS, strict=True) for k in range(3)]
        assert torch.allclose(found[0][n], sign * torch.stack(parts).sum().detach() / 3)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_of_another_type_are_tracked(dtype: torch.dtype) -> None:
    attack = Attack(objective=MaskedCrossEntropy(), step=JUDGED, iterations=5)
    x = X.float()
    adversarial = attack(lambda z: MODELS[0](z.double()).to(dtype), x, Y)
    assert adversarial.dtype == x.dtype
    assert (adversarial != x).any()


@each_fuse
def test_weights_are_shares_of_the_members_objectives(fuse: str) -> None:
    ensemble = Ensemble(MODELS, fuse)  # type: ignore[arg-type]
    weights = torch.tensor([[0, 2, 0], [0.5, 0.25, 0.25], [1, 1, -1]], dtype=torch.float64)
    found = Run(Attack(), ensemble, X, Y, weights=weights).gradient(X)
    for n, (x, y) in enumerate(zip(X, Y, strict=True)):
        expected = torch.stack([w * slope(m, x, y) for w, m in zip(weights[n], MODELS, strict=True)]).sum(0)
        assert torch.allclose(found[n], expected, rtol=0, atol=1e-12)
    mi = read("mi(iterations=3)")
    weighted = mi(ensemble, X, Y, weights=weights)
    assert torch.equal(weighted[0], mi(MODELS[1], X, Y)[0])
    assert torch.equal(weighted[1:], mi(ensemble, X[1:], Y[1:], weights=weights[1:], chunk=1))


@pytest.mark.parametrize(
    "weights",
    [torch.ones(3, 2), torch.ones(3, 3).long(), torch.full((3, 3), torch.nan), torch.zeros(3, 3)],
)
def test_weights_that_cannot_be_used_are_refused(weights: Tensor) -> None:
    with pytest.raises(UsageError, match=r"weights are .* expected finite floating point \(3, 3\)"):
        read("mi")(ENSEMBLE, X, Y, weights=weights)


@pytest.mark.parametrize("threat", [LInf("8/255"), L2(0.5)], ids=repr)
def test_a_start_is_moved_into_ball_and_box(threat: LInf | L2) -> None:
    far = images(3, SIZE, seed=9) * 3 - 1
    still = Attack(threat=threat, iterations=0, random_start=True)
    assert torch.equal(still(MODELS[0], X, Y, start=far), threat.project(far, X))
    region = torch.zeros(SIZE, dtype=torch.bool)
    assert torch.equal(still(MODELS[0], X, Y, start=far, region=region), X)
    first, second = Attack(threat=threat, iterations=2), Attack(threat=threat, iterations=4)
    half = first(MODELS[0], X, Y)
    assert torch.allclose(first(MODELS[0], X, Y, start=half), second(MODELS[0], X, Y), rtol=0, atol=1e-12)
    for start in (far[:2], far.float()):
        with pytest.raises(UsageError, match="start is"):
            first(MODELS[0], X, Y, start=start)

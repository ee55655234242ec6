"""The laws of attacks, as checks."""

import random
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from segtrans.attack import Model
from segtrans.data.base import VOID
from segtrans.random import seeded
from segtrans.testing.laws import hold
from segtrans.testing.toys import SIZE, BreaksOnBright, Constant, Context, images, labels
from segtrans.threat import Threat, scaled
from segtrans.worst import AnyAttack, WorstCase


def check_attack(attack: AnyAttack) -> None:
    """Whether an attack, and so the parts that it is composed of, keeps the laws on tiny surrogates: budget and box,
    no budget no change, regions, nothing of the caller's touched, no global randomness, no seed that decides where
    nothing is drawn, the same result whatever the batch and the chunks, void that never matters, zero gradients that
    are reported and NaN that harms its image alone. It takes as long as some twenty calls on images of 17 × 22 pixels.

    Raises:
        AssertionError: the first law that it breaks.
    """
    check_call(attack, Context(), SIZE)
    x, y = images(), labels()
    for factor in (0.5, 2.0):
        other = changed(attack, threat=scaled(attack.threat, factor))
        check_budget(other.threat, other.perturb(Context(), x, y).adversarial, x, other)
    _untouched(attack)
    if attack.copies > 1:
        _chunks(attack)
    if not attack.shared:
        _batch(attack)
        for value in (torch.nan, torch.inf):
            _not_finite(attack, value)
    result = attack.perturb(Constant(), x, y)
    flagged = [attack.iterations > 0] * 3
    fine = result.adversarial.isfinite().all() and result.stalled.tolist() == flagged and not result.failed.any()
    hold(fine, "zero gradients", attack, "does not report the images of a constant model as stalled, and nothing else")
    still = _starts_anywhere(attack) or torch.equal(result.adversarial, x)
    hold(still, "zero gradients", attack, "moves pixels though the gradient is zero throughout")


def check_call(attack: AnyAttack, model: Model, size: tuple[int, int]) -> None:
    """The laws of a single call, on one of the surrogates of this module and images of this size; the last of three
    images is void.
    """
    x, y = images(3, size), labels(3, size, block=9 if size[0] > 30 else 5)
    y[2] = VOID
    region = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.7
    before = x.clone(), y.clone(), region.clone()
    result = attack.perturb(model, x, y, region=region)
    hold(all(map(torch.equal, (x, y, region), before)), "nothing else changes", attack, "writes to its arguments")
    cost = f"spent {result.evaluations} gradient evaluations, more than the {attack.evaluations} it states"
    hold(result.evaluations <= attack.evaluations, "stated costs", attack, cost)
    hold(not result.failed.any(), "finite values", attack, "made NaN or infinite values of a sound model's")
    plain = not result.adversarial.requires_grad and result.adversarial.dtype == x.dtype
    hold(plain, "plain results", attack, "returns images with a gradient or of another type")
    check_budget(attack.threat, result.adversarial, x, attack)
    moved = (result.adversarial != x).any(1)
    hold(not moved[:, ~region].any(), "regions", attack, "moves pixels outside the region")
    if attack.iterations:
        hold(moved[:2].flatten(1).any(1).all(), "an effect", attack, "leaves an image as it was")
    if not attack.shared:
        alone = attack.perturb(model, x[:1], y[:1], region=region).adversarial
        same = torch.equal(result.adversarial[:1], alone)
        hold(same, "void and batch never matter", attack, "treats an image otherwise beside one that is all void")
        stalled = [False, False, attack.iterations > 0]
        hold(result.stalled.tolist() == stalled, "void", attack, f"reports {result.stalled.tolist()} as stalled")
        still = _starts_anywhere(attack) or not moved[2].any()
        hold(still, "void", attack, "moves pixels of an image that is all void")
    nothing = changed(attack, threat=replace(attack.threat, eps=0)).perturb(model, x[:1], y[:1]).adversarial
    hold(torch.equal(nothing, x[:1]), "no budget, no change", attack, "changes an image within a budget of 0")


def check_budget(threat: Threat, adversarial: Tensor, x: Tensor, part: object) -> None:
    """Whether float64 images (N, 3, H, W) are inside ball and box, as they are and on the 8-bit grid."""
    low, high = (float(end) for end in adversarial.aminmax())
    hold(0 <= low <= high <= 1, "the box", part, f"returns values from {low:g} to {high:g}")
    grid = threat.quantise(adversarial, x)
    hold(torch.equal((grid * 255).round() / 255, grid), "the 8-bit grid", part, "quantises to values between levels")
    for where, found in ("", adversarial), (" on the 8-bit grid", grid):
        far = float(threat.distance(found, x).max())
        inside = far <= threat.radius * (1 + 1e-12)
        hold(inside, "the budget", part, f"moves an image by {far:g}{where}, beyond {threat.radius:g}")


def changed(attack: AnyAttack, **settings: Any) -> AnyAttack:
    """An attack, or every attack of a worst case, with other settings."""
    if isinstance(attack, WorstCase):
        return WorstCase(attacks=tuple(replace(one, **settings) for one in attack.attacks))
    return replace(attack, **settings)


def _untouched(attack: AnyAttack) -> None:
    model, x, y = Context(), images(2).requires_grad_(), labels(2)
    next(model.parameters()).requires_grad_(False)
    model.body[3].register_forward_hook(_unchanged)
    before = _snapshot(model, x, y)
    adversarial = attack.perturb(model, x, y, seed=3).adversarial
    _compare(before, _snapshot(model, x, y), attack)
    with seeded(12345):
        again = attack.perturb(Context(), x, y, seed=3).adversarial
        other = again if attack.draws else attack.perturb(Context(), x, y, seed=4).adversarial
    same = torch.equal(adversarial, again)
    hold(same, "one seed, one result", attack, "finds something else when called again with other global random states")
    hold(torch.equal(again, other), "seeds", attack, "finds something else with another, though its draws is False")
    adversarial.zero_()
    _compare(before, _snapshot(model, x, y), attack)


def _unchanged(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output


def _snapshot(model: nn.Module, *tensors: Tensor) -> dict[str, Any]:
    """Everything that an attack could leave behind."""
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    kind, keys, *position = np.random.get_state()  # noqa: NPY002
    return {
        "weights or buffers": {name: _bits(value) for name, value in model.state_dict(keep_vars=True).items()},
        "flags or gradients of weights": [(p.requires_grad, p.grad) for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [[dict(getattr(m, name)) for name in hooks] for m in model.modules()],
        "attributes of modules": [sorted(vars(m)) for m in model.modules()],
        # The version counts writes in place, even if the old value was put back.
        "images or labels": [(_bits(t), t._version, t.requires_grad, t.grad) for t in tensors],
        "torch's global random state": _bits(torch.get_rng_state()),
        "numpy's global random state": (kind, cast(Any, keys).tobytes(), *position),
        "Python's global random state": random.getstate(),
        "torch's settings": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


def _compare(before: dict[str, Any], after: dict[str, Any], part: object) -> None:
    for what, value in before.items():
        hold(after[what] == value, "nothing else changes", part, f"changes {what}")


def _chunks(attack: AnyAttack) -> None:
    x, y = images(), labels()
    one = attack.perturb(Context(), x, y, chunk=1)
    for chunk in (2, len(x) * attack.copies, 100):
        many = attack.perturb(Context(), x, y, chunk=chunk)
        same = torch.equal(one.adversarial, many.adversarial) and one.evaluations == many.evaluations
        hold(same, "chunks never matter", attack, f"finds something else with {chunk} images at a time than with one")


def _batch(attack: AnyAttack) -> None:
    x, y, model, order = images(4), labels(4), Context(), torch.tensor([2, 0, 3, 1])
    together = attack.perturb(model, x, y, seed=5).adversarial
    singly = [attack.perturb(model, x[i : i + 1], y[i : i + 1], seed=5).adversarial for i in range(4)]
    same = torch.equal(together, torch.cat(singly))
    hold(same, "the batch never matters", attack, "treats an image otherwise in a batch than alone")
    same = torch.equal(together[order], attack.perturb(model, x[order], y[order], seed=5).adversarial)
    hold(same, "the batch never matters", attack, "treats images otherwise in another order")


def _not_finite(attack: AnyAttack, value: float) -> None:
    """The bright image is so through most transformations; where none ever is, nothing breaks."""
    x, others = torch.cat([images(3, high=0.4), 0.97 + 0.03 * images(1, seed=7)])[[0, 3, 1, 2]], [0, 2, 3]
    y, model = labels(4), BreaksOnBright(Context(), value)
    result = attack.perturb(model, x, y)
    fine = result.adversarial.isfinite().all() and result.failed.tolist() == [False, model.broken, False, False]
    found = f"reports {result.failed.tolist()} as failed where a model returns {value} for the second image"
    hold(fine and not result.stalled.any(), "NaN of one image", attack, found)
    alone = attack.perturb(model, x[others], y[others]).adversarial
    same = torch.equal(result.adversarial[others], alone)
    hold(same, "NaN of one image", attack, "lets it change the other images of the batch")
    kept = not model.broken or torch.equal(result.adversarial[1], x[1])
    hold(kept, "NaN of one image", attack, "does not leave that image as it was")


def _starts_anywhere(attack: AnyAttack) -> bool:
    return any(one.random_start for one in attack.attacks)


def _bits(value: Tensor) -> bytes:
    return value.detach().contiguous().numpy().tobytes()

"""Our attacks called as other libraries' are, for code that is written for these."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segtrans.attack import Attack, Model
from segtrans.data.base import VOID
from segtrans.errors import UsageError, check_number
from segtrans.interop.foreign import Foreign
from segtrans.logits import predicted_classes

if TYPE_CHECKING:
    from segtrans.worst import AnyAttack


def as_torchattacks(attack: "AnyAttack", model: Model, *, seed: int = 0) -> Callable[..., Tensor]:
    """``atk(images, labels)`` as of torchattacks: images (N, 3, H, W) in [0, 1] and int64 labels (N, H, W), 255 = void;
    the adversarial images come back. Without labels the model's own prediction counts.
    """

    def atk(images: Tensor, labels: Tensor | None = None) -> Tensor:
        return attack(model, images, labels, seed=seed)

    return atk


def as_foolbox(attack: "AnyAttack", *, share: float = 0.5, seed: int = 0) -> Callable[..., tuple[Any, Any, Tensor]]:
    """``attack(fmodel, inputs, criterion, epsilons=…)`` as of foolbox, where one budget gives ``(raw, clipped,
    success)``, and a list of K budgets lists of K tensors and a success of (K, N).

    ``fmodel`` maps images within its ``bounds`` to logits (N, C, H, W); inputs and budgets are on the scale of the
    bounds. ``criterion`` is int64 labels (N, H, W), 255 = void, or foolbox's ``Misclassification`` of these or, for
    attacks towards labels, ``TargetedMisclassification``. An image is a success where at least ``share`` of its valid
    pixels, of which there must be some, are wrong or, with a target, where they should be. ``raw`` never leaves the
    budget, so ``clipped`` is the same.

    Raises:
        UsageError: a budget of None, no budget, or a criterion of the other kind than the attack.
    """
    check_number("share", share, 0, 1)

    def call(
        fmodel: Any, inputs: Tensor, criterion: Any, *, epsilons: float | Iterable[float]
    ) -> tuple[Any, Any, Tensor]:
        low, high = fmodel.bounds
        labels = getattr(criterion, "labels", getattr(criterion, "target_classes", criterion))
        labels = cast(Tensor, getattr(labels, "raw", labels))
        _check_goal(attack, hasattr(criterion, "target_classes"))
        # Arrays without dimensions can be iterated over by their type alone.
        several = isinstance(epsilons, Iterable) and getattr(epsilons, "ndim", 1) > 0
        budgets: list[Any] = list(cast(Iterable[Any], epsilons)) if several else [epsilons]
        if not budgets or any(eps is None for eps in budgets):
            raise UsageError(f"epsilons is {epsilons}; allowed are budgets, since our attacks use all of theirs")
        found: list[Tensor] = []
        for eps in budgets:
            within = _with_budget(attack, float(eps) / (high - low))
            x = ((inputs - low) / (high - low)).clamp(0, 1)
            found.append(low + (high - low) * within(lambda z: fmodel(low + (high - low) * z), x, labels, seed=seed))
        valid = labels != VOID
        with torch.no_grad():
            right = torch.stack([(predicted_classes(fmodel(images)) == labels) & valid for images in found])
        hit = right if _targeted(attack) else ~right & valid
        success = (hit.sum((2, 3)) >= share * valid.sum((1, 2))) & valid.any((1, 2))
        return (found, found, success) if several else (found[0], found[0], success[0])

    return call


@dataclass(frozen=True)
class _Generator:
    attack: "AnyAttack"
    model: Model
    seed: int

    def generate(self, x: NDArray[Any], y: NDArray[Any] | None = None) -> NDArray[Any]:
        """Adversarial images of the shape and type of ``x``, attacked in the type of the model's weights."""
        weight = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        weight = torch.from_numpy(x[:0].copy()) if weight is None else weight
        labels = None if y is None else torch.from_numpy(y.astype(np.int64)).to(weight.device)
        images = torch.from_numpy(x.copy())
        images = images.to(weight) if images.is_floating_point() else images.to(weight.device)
        return self.attack(self.model, images, labels, seed=self.seed).cpu().numpy().astype(x.dtype)


def as_art(attack: "AnyAttack", model: Model, *, seed: int = 0) -> Any:
    """An object with ``generate(x, y=None)`` as of ART: floating point images (N, 3, H, W) in [0, 1] and labels
    (N, H, W), 255 = void, both as arrays; adversarial images of the same shape and type come back.
    """
    return _Generator(attack, model, seed)


def as_adv_lib(attack: "AnyAttack", *, seed: int = 0) -> Callable[..., Tensor]:
    """``attack(model, inputs, labels, masks=None, targeted=False)`` as of adv-lib's attacks for segmentation: images
    (N, 3, H, W) in [0, 1], int64 labels (N, H, W) and masks (N, H, W) of the pixels that count, which by
    default are those with a label other than 255; the adversarial images come back.

    Raises:
        UsageError: ``targeted`` does not say what the attack is.
    """

    def call(
        model: Model, inputs: Tensor, labels: Tensor, masks: Tensor | None = None, targeted: bool = False
    ) -> Tensor:
        _check_goal(attack, targeted)
        return attack(model, inputs, labels if masks is None else labels.where(masks.bool(), VOID), seed=seed)

    return call


def _targeted(attack: "AnyAttack") -> bool:
    return any(one.goal.targeted for one in attack.attacks)


def _check_goal(attack: "AnyAttack", targeted: bool) -> None:
    if targeted != _targeted(attack):
        does, asked = ("towards", "away from") if _targeted(attack) else ("away from", "towards")
        raise UsageError(f"the attack leads {does} its labels, but is called as one {asked} them")


def _with_budget(attack: "AnyAttack", eps: float) -> "AnyAttack":
    if isinstance(attack, Attack | Foreign):
        return replace(attack, threat=replace(attack.threat, eps=eps))
    return replace(attack, attacks=tuple(replace(a, threat=replace(a.threat, eps=eps)) for a in attack.attacks))

"""Several attacks as one."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segtrans.attack import Attack, Evaluations, Model, Result
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.goals import Untargeted
from segtrans.interop.foreign import Foreign
from segtrans.logits import finite_images, predicted_classes
from segtrans.threat import Threat


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """Runs several attacks and keeps of every image the adversarial image on which the surrogate's pixel accuracy is
    lowest, that of the first attack where several are equal (SEA, Croce et al., ECCV 2024, arXiv 2306.12941). It is
    used like an :class:`~segtrans.attack.Attack`, and costs what its attacks cost together.

    For the lowest mIoU the paper re-assigns images to attacks so as to harm the set of images as a whole. That is not
    done here, since an image's result would depend on other images.

    Attributes:
        attacks: they share a budget and an area, and lead away from the labels.

    Raises:
        UsageError: no attack, attacks of different budgets or areas, or one towards labels.
    """

    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        budgets, areas = ({repr(getattr(a, name)) for a in self.attacks} for name in ("threat", "area"))
        for what, values in (("budgets", budgets), ("areas", areas)):
            if len(values) != 1:
                found = " and ".join(sorted(values)) or "none"
                raise UsageError(f"WorstCase attacks have the {what} {found}; allowed are attacks of one and the same")
        for attack in self.attacks:
            if attack.goal != Untargeted():
                goal = type(attack.goal).__name__
                raise UsageError(f"WorstCase attacks have the goal {goal}; allowed are attacks away from the labels")

    @property
    def threat(self) -> Threat:
        """The budget."""
        return self.attacks[0].threat

    @property
    def iterations(self) -> int:
        """Iterations of the longest attack."""
        return max(attack.iterations for attack in self.attacks)

    @property
    def alpha(self) -> float:
        """The largest step size."""
        return max(attack.alpha for attack in self.attacks)

    @property
    def copies(self) -> int:
        """Transformed copies per gradient, at most."""
        return max(attack.copies for attack in self.attacks)

    @property
    def evaluations_per_iteration(self) -> int:
        """Gradient evaluations for one iteration of every attack."""
        return self.evaluations_on(1).per_iteration

    @property
    def preparation(self) -> int:
        """Gradient evaluations before the first iteration, of all attacks."""
        return self.evaluations_on(1).preparation

    @property
    def evaluations(self) -> int:
        """Gradient evaluations per image, of all attacks."""
        return self.evaluations_on(1).total

    def evaluations_on(self, members: int) -> Evaluations:
        """As :meth:`Attack.evaluations_on`, of all attacks."""
        found = [attack.evaluations_on(members) for attack in self.attacks]
        return Evaluations(
            sum(one.preparation for one in found),
            sum(one.per_iteration for one in found),
            sum(one.total for one in found),
        )

    @property
    def shared(self) -> bool:
        """Whether one of the attacks has a perturbation that images of a batch share."""
        return any(attack.shared for attack in self.attacks)

    @property
    def draws(self) -> bool:
        """Whether one of the attacks may ask for random numbers."""
        return any(attack.draws for attack in self.attacks)

    def configured(self, **settings: Any) -> "WorstCase":
        """Every attack under a common protocol, as :meth:`Attack.configured`."""
        return replace(self, attacks=tuple(attack.configured(**settings) for attack in self.attacks))

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
        """The adversarial images, or the error and the warning of :meth:`Attack.__call__`."""
        return self.perturb(model, x, y, **options).checked()

    def perturb(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        chunk: int | None = None,
        **options: Any,
    ) -> Result:
        """Attack a batch; arguments as in :meth:`Attack.perturb`, and every attack gets the same seed. An image counts
        as stalled or failed where it is so for every attack, and as failed where no version of it has predictions.
        ``on_iteration`` is called attack by attack.
        """
        found = [attack.perturb(model, x, y, chunk=chunk, **options) for attack in self.attacks]
        size = len(x) if chunk is None else chunk
        labels = _predicted(model, x, size)[0] if y is None else y
        # Judged by the pixels that the attacks are about.
        area = self.attacks[0].area
        if area.hidden:
            labels = labels.where(~area.mask(x, labels)[:, 0], VOID)
        worst, fewest = x.detach(), torch.full((len(x),), torch.inf, device=x.device)
        for result in found:
            predicted, finite = _predicted(model, result.adversarial, size)
            right = ((predicted == labels) & (labels != VOID)).sum((1, 2))
            better = (right < fewest) & finite
            worst = result.adversarial.where(better.view(-1, 1, 1, 1), worst)
            fewest = right.where(better, fewest)
        stalled, failed = (torch.stack([getattr(r, name) for r in found]).all(0) for name in ("stalled", "failed"))
        # No attack's image has predictions to go by.
        failed = failed | fewest.isinf()
        return Result(worst, stalled & ~failed, failed, evaluations=sum(result.evaluations for result in found))


AnyAttack = Attack | WorstCase | Foreign
"""What has a budget and a price, and makes adversarial images."""


def _predicted(model: Model, images: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Class ids (N, H, W), and for which images the logits were finite."""
    found: list[tuple[Tensor, Tensor]] = []
    for part in images.split(size):
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            logits = model(part.clone())  # it may work in place
        found.append((predicted_classes(logits), finite_images(logits)))
    classes, finite = zip(*found, strict=True)
    return torch.cat(classes), torch.cat(finite)

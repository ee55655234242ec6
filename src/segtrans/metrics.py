"""From predictions to additive counts per image, and from counts to every measure.

The two headline measures are ``asr_miou`` = 1 - mIoU after attack / clean mIoU (Arnab et al., CVPR 2018, report the
ratio) and ``asr_pixel``, the share of valid and originally correct pixels that are wrong after the attack.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.errors import UsageError

HEADLINES = ("asr_miou", "asr_pixel")

_AT_ONCE = 50
"""Bootstrap replicates."""


def tally(truth: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """Pixels of each class, int64 (N, 3, classes): those found, those in ``truth`` and those predicted, of class ids
    below ``classes``, int64 (N, H, W); pixels that are void, 255 in ``truth``, are left out.

    All measures come from these sums of a confusion matrix, which are few where classes are many.
    """
    n, cells = len(truth), classes * classes
    first = torch.arange(0, n * cells, cells, device=truth.device).view(-1, *[1] * (truth.ndim - 1))
    # Void has a cell of its own, the last, which takes a third of the time that leaving its pixels out would.
    cell = (truth * classes + prediction + first).masked_fill_(truth == VOID, n * cells)
    matrix = torch.bincount(cell.flatten(), minlength=n * cells + 1)[:-1].view(n, classes, classes)
    return torch.stack([matrix.diagonal(dim1=1, dim2=2), matrix.sum(2), matrix.sum(1)], 1)


@dataclass(frozen=True)
class Counts:
    """What one target did with N images, clean and attacked: int64 counts, additive over images.

    Attributes:
        clean, attacked: pixels of each class, found, true and predicted (N, 3, C), see :func:`tally`.
        flipped: (N,) valid pixels that were right and are wrong now.
        changed: (N,) valid pixels predicted otherwise than on the clean image.
    """

    clean: Tensor
    attacked: Tensor
    flipped: Tensor
    changed: Tensor

    @classmethod
    def of(cls, truth: Tensor, clean: Tensor, attacked: Tensor, classes: int) -> "Counts":
        """Counts, on the CPU, of labels and predictions (N, H, W) on any device; 255 is void in ``truth``."""
        changed = (clean != attacked) & (truth != VOID)
        return cls(
            clean=tally(truth, clean, classes).cpu(),
            attacked=tally(truth, attacked, classes).cpu(),
            flipped=((clean == truth) & changed).sum((1, 2)).cpu(),
            changed=changed.sum((1, 2)).cpu(),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Counts"]) -> "Counts":
        if not parts:
            raise UsageError("no image was scored, so there is nothing to count")
        return cls(**{field.name: torch.cat([getattr(p, field.name) for p in parts]) for field in fields(cls)})

    def __len__(self) -> int:
        return len(self.flipped)

    @property
    def counted(self) -> int:
        """How many images have valid pixels."""
        return int((self.clean[:, 1].sum(1) > 0).sum())

    def __getitem__(self, images: Sequence[int]) -> "Counts":
        """Those of some images, by their places."""
        return Counts(**{field.name: getattr(self, field.name)[[*images]] for field in fields(self)})

    def measures(self, *, least: float = 0.0) -> dict[str, float]:
        """Every measure over all images, as fractions; NaN where no valid pixel exists, and for a rate of
        attack success where nothing was right before.

        ``miou_clean``, ``miou``, ``macc``, ``aacc``, ``asr_miou``, ``asr_pixel``, ``apsr``, ``drop`` and
        ``disagreement`` come from the counts of the whole set; ``miou_image``, the mean of per-image mIoU after
        attack, is a second opinion. With ``least`` above 0, mIoU is over the classes that have this share of
        the truth's pixels, so that a few stray pixels do not weigh as much as a class.
        """
        weights = torch.ones(1, len(self), dtype=torch.float64)
        measures = {name: float(value) for name, value in self._weighted(weights, least).items()}
        return {**measures, "miou_image": float(miou(self.attacked, least=least).nanmean())}

    def intervals(
        self, *, replicates: int = 1000, level: float = 0.95, seed: int = 0, least: float = 0.0
    ) -> dict[str, tuple[float, float]]:
        """Percentile bootstrap intervals over images for the headline measures."""
        drawn = self.resampled(resamples(len(self), replicates=replicates, seed=seed), least=least)
        return {name: interval(values, level=level) for name, values in drawn.items()}

    def resampled(self, weights: Tensor, *, least: float = 0.0) -> dict[str, Tensor]:
        """The headline measures, (R,) each, with image ``n`` counted ``weights[r, n]`` times; weights are (R, N)."""
        drawn = [self._weighted(some.double(), least) for some in weights.split(_AT_ONCE)]
        return {name: torch.cat([part[name] for part in drawn]) for name in HEADLINES}

    def _weighted(self, weights: Tensor, least: float) -> dict[str, Tensor]:
        """The measures under image weights (R, N), each (R,)."""
        clean, attacked = (
            (weights @ c.double().flatten(1)).view(-1, *c.shape[1:]) for c in (self.clean, self.attacked)
        )
        right, pixels = clean[:, 0].sum(1), clean[:, 1].sum(1)
        hit, there = attacked[:, 0], attacked[:, 1]
        before, after = miou(clean, least=least), miou(attacked, least=least)
        return {
            "miou_clean": before,
            "miou": after,
            "macc": (hit / there).nanmean(1),
            "aacc": hit.sum(1) / pixels,
            "asr_miou": 1 - after / before.where(before > 0, torch.nan),
            "asr_pixel": (weights @ self.flipped.double()) / right,
            "apsr": 1 - hit.sum(1) / pixels,
            "drop": before - after,
            "disagreement": (weights @ self.changed.double()) / pixels,
        }


def resamples(images: int, *, replicates: int = 1000, seed: int = 0) -> Tensor:
    """How often each of ``images`` is drawn in each bootstrap replicate, uint8 (R, N): the same for the same arguments,
    so that whatever is measured on the same images can be compared replicate by replicate.
    """
    random, drawn = np.random.default_rng(seed), np.empty((replicates, images), dtype=np.uint8)
    # Not all at once, which would take more memory than anything else of a run over many images. No image is ever drawn
    # more than 255 times: with up to 255 images it cannot be, with more that has a chance below 1e-500.
    for first in range(0, replicates, _AT_ONCE):
        some = drawn[first : first + _AT_ONCE]
        some[:] = random.multinomial(images, [1 / images] * images, size=len(some))
    return torch.from_numpy(drawn)


def interval(values: Tensor, *, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of a measure's replicates (R,); undefined ones are left out."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = values.nanquantile(ends).tolist()
    return low, high


def miou(counts: Tensor, *, least: float = 0.0) -> Tensor:
    """Mean intersection over union of counts as :func:`tally` makes them (..., 3, classes), over classes that occur.

    A class that neither truth nor prediction contains is left out, and one with less than the share ``least`` of the
    truth's pixels; NaN where no class is left.
    """
    truth = counts[..., 1, :].double()
    common = truth >= least * truth.sum(-1, keepdim=True)
    return iou(counts).where(common, torch.nan).nanmean(-1)


def iou(counts: Tensor) -> Tensor:
    """Intersection over union (..., classes) of counts as :func:`tally` makes them (..., 3, classes), NaN for a class
    that neither truth nor prediction contains.
    """
    hit, there, predicted = counts.double().unbind(-2)
    return hit / (there + predicted - hit)

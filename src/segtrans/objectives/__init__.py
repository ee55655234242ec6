"""What an attack maximises: a loss per image, averaged over that image's valid pixels and never over the batch."""

from segtrans.objectives.base import Objective, pixel_losses, valid_mean
from segtrans.objectives.divergences import Cosine, JensenShannon, Margin, Spherical, WrongClass
from segtrans.objectives.pixels import (
    BalancedCrossEntropy,
    CosPGD,
    CrossEntropy,
    MaskedCrossEntropy,
    RegionWeighted,
    SegPGD,
    TwoStage,
)

__all__ = [
    "BalancedCrossEntropy",
    "CosPGD",
    "Cosine",
    "CrossEntropy",
    "JensenShannon",
    "Margin",
    "MaskedCrossEntropy",
    "Objective",
    "RegionWeighted",
    "SegPGD",
    "Spherical",
    "TwoStage",
    "WrongClass",
    "pixel_losses",
    "valid_mean",
]

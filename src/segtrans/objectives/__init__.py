"""What an attack maximises: a loss per image, averaged over that image's valid pixels and never over the batch."""

from segtrans.objectives.base import Objective, pixel_losses, valid_mean
from segtrans.objectives.constraints import AugmentedLagrangian, PrimalDual
from segtrans.objectives.divergences import Cosine, JensenShannon, Margin, Spherical, WrongClass
from segtrans.objectives.features import Dispersion
from segtrans.objectives.pixels import (
    AdaptiveCrossEntropy,
    BalancedCrossEntropy,
    CosPGD,
    CrossEntropy,
    MaskedCrossEntropy,
    RegionWeighted,
    SegPGD,
    TwoStage,
    UnsureCrossEntropy,
)
from segtrans.objectives.prepared import Attribution, FeatureImportance, Projection
from segtrans.objectives.similarity import CopySimilarity, FeatureSimilarity, Prototype

__all__ = [
    "AdaptiveCrossEntropy",
    "Attribution",
    "AugmentedLagrangian",
    "BalancedCrossEntropy",
    "CopySimilarity",
    "CosPGD",
    "Cosine",
    "CrossEntropy",
    "Dispersion",
    "FeatureImportance",
    "FeatureSimilarity",
    "JensenShannon",
    "Margin",
    "MaskedCrossEntropy",
    "Objective",
    "PrimalDual",
    "Projection",
    "Prototype",
    "RegionWeighted",
    "SegPGD",
    "Spherical",
    "TwoStage",
    "UnsureCrossEntropy",
    "WrongClass",
    "pixel_losses",
    "valid_mean",
]

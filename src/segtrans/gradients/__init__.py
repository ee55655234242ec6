"""Gradient transformations: middleware around a gradient, from the model outwards."""

from segtrans.gradients.base import GradientFunction, GradientTransform, normalise
from segtrans.gradients.grey import Grey
from segtrans.gradients.members import AdaptiveWeights, Sequential, VarianceReduced
from segtrans.gradients.momentum import Momentum, Nesterov
from segtrans.gradients.neighbours import Flatness, LineAverage, Neighbourhood, Relevance, Variance
from segtrans.gradients.sharpness import Sharpness
from segtrans.gradients.smooth import Smooth

__all__ = [
    "AdaptiveWeights",
    "Flatness",
    "GradientFunction",
    "GradientTransform",
    "Grey",
    "LineAverage",
    "Momentum",
    "Neighbourhood",
    "Nesterov",
    "Relevance",
    "Sequential",
    "Sharpness",
    "Smooth",
    "Variance",
    "VarianceReduced",
    "normalise",
]

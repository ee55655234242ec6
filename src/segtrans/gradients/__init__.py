"""Gradient transformations: middleware around a gradient, from the model outwards."""

from segtrans.gradients.base import GradientFunction, GradientTransform, normalise
from segtrans.gradients.momentum import Momentum, Nesterov
from segtrans.gradients.smooth import Smooth

__all__ = ["GradientFunction", "GradientTransform", "Momentum", "Nesterov", "Smooth", "normalise"]

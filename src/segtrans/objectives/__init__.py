"""What an attack maximises: a loss per image, averaged over that image's valid pixels and never over the batch."""

from segtrans.objectives.base import Objective, pixel_losses, valid_mean
from segtrans.objectives.pixels import CosPGD, CrossEntropy, SegPGD

__all__ = ["CosPGD", "CrossEntropy", "Objective", "SegPGD", "pixel_losses", "valid_mean"]

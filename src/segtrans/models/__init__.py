"""Segmentation models: the one contract, a door for any network, and names for those of other libraries."""

from segtrans.models.base import Preprocessing, SegModel, wrap
from segtrans.models.load import load_model

__all__ = ["Preprocessing", "SegModel", "load_model", "wrap"]

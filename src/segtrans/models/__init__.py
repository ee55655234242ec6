"""Segmentation models: the one contract, a door for any network, ensembles, and names for those of other libraries."""

from segtrans.models.base import Preprocessing, SegModel, wrap
from segtrans.models.ensemble import Ensemble
from segtrans.models.load import load_model

__all__ = ["Ensemble", "Preprocessing", "SegModel", "load_model", "wrap"]

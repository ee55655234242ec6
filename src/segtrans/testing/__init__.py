"""Laws for models, attacks and input transformations of your own, in the manner of scikit-learn's ``check_estimator``.

A check returns nothing, or raises an AssertionError whose one sentence names the law, the part and what was found.
segtrans's own tests call the same checks over everything registered. :class:`Context` and the others are the tiny
float64 surrogates that attacks are tried on.
"""

from segtrans.testing.attacks import changed, check_attack, check_budget, check_call
from segtrans.testing.models import check_model
from segtrans.testing.toys import (
    CLASSES,
    SIZE,
    Block,
    BreaksOnBright,
    Constant,
    Context,
    bright,
    draw,
    images,
    labels,
)
from segtrans.testing.transforms import SIZES, check_labels_follow, check_transform

__all__ = [
    "CLASSES",
    "SIZE",
    "SIZES",
    "Block",
    "BreaksOnBright",
    "Constant",
    "Context",
    "bright",
    "changed",
    "check_attack",
    "check_budget",
    "check_call",
    "check_labels_follow",
    "check_model",
    "check_transform",
    "draw",
    "images",
    "labels",
]

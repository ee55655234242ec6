"""Update rules: from an adversarial image and a gradient to the next adversarial image, within the budget."""

from segtrans.steps.adam import Adam
from segtrans.steps.adaptive import Adaptive
from segtrans.steps.base import Step, StepFunction
from segtrans.steps.fixed import Damped, Proportional, Steepest
from segtrans.steps.patchwise import Patchwise
from segtrans.steps.proximal import Proximal, shrunk
from segtrans.steps.universal import Universal

__all__ = [
    "Adam",
    "Adaptive",
    "Damped",
    "Patchwise",
    "Proportional",
    "Proximal",
    "Steepest",
    "Step",
    "StepFunction",
    "Universal",
    "shrunk",
]

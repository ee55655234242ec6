"""Input transformations: (images, labels) → (images, labels), with every label moving along with its pixel."""

from segtrans.transforms.base import Transform
from segtrans.transforms.remap import Remap
from segtrans.transforms.sizes import Rescale, Resize, Scale

__all__ = ["Remap", "Rescale", "Resize", "Scale", "Transform"]

"""Input transformations: (images, labels) → (images, labels), with every label moving along with its pixel."""

from segtrans.transforms.base import Transform
from segtrans.transforms.blocks import CellMask, Crop, Rotate, Shuffle, Structure
from segtrans.transforms.learned import Chain
from segtrans.transforms.remap import Remap
from segtrans.transforms.sizes import Rescale, Resize, Scale
from segtrans.transforms.warp import Warp

__all__ = [
    "CellMask",
    "Chain",
    "Crop",
    "Remap",
    "Rescale",
    "Resize",
    "Rotate",
    "Scale",
    "Shuffle",
    "Structure",
    "Transform",
    "Warp",
]

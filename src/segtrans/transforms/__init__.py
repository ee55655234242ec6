"""Input transformations: (images, labels) → (images, labels), with every label moving along with its pixel."""

from segtrans.transforms.base import Transform
from segtrans.transforms.blocks import Crop, Rotate, Shuffle, Structure
from segtrans.transforms.chains import Chain, Operators
from segtrans.transforms.masks import CellMask, MaskBlocks
from segtrans.transforms.mixing import Admix, MixMask, StyleMix, UniformScale
from segtrans.transforms.remap import Remap
from segtrans.transforms.sizes import Rescale, Resize, Scale
from segtrans.transforms.spectrum import Spectrum
from segtrans.transforms.warp import Warp

__all__ = [
    "Admix",
    "CellMask",
    "Chain",
    "Crop",
    "MaskBlocks",
    "MixMask",
    "Operators",
    "Remap",
    "Rescale",
    "Resize",
    "Rotate",
    "Scale",
    "Shuffle",
    "Spectrum",
    "Structure",
    "StyleMix",
    "Transform",
    "UniformScale",
    "Warp",
]

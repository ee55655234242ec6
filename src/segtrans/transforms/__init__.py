"""Input transformations: (images, labels) → (images, labels), with every label moving along with its pixel."""

from segtrans.transforms.base import Transform
from segtrans.transforms.masks import MaskBlocks
from segtrans.transforms.mixing import Admix, MixMask, StyleMix, UniformScale
from segtrans.transforms.remap import Remap
from segtrans.transforms.sizes import Rescale, Resize, Scale
from segtrans.transforms.spectrum import Spectrum

__all__ = [
    "Admix",
    "MaskBlocks",
    "MixMask",
    "Remap",
    "Rescale",
    "Resize",
    "Scale",
    "Spectrum",
    "StyleMix",
    "Transform",
    "UniformScale",
]

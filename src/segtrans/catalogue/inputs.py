"""Attacks by what they show the surrogate: input transformations, with momentum."""

from segtrans.catalogue.entry import MI, Entry
from segtrans.composition import compose
from segtrans.gradients import Nesterov
from segtrans.transforms import Resize, Scale

ENTRIES = (
    Entry(
        name="di", attack=compose(Resize(), MI),
        title="diverse inputs, with momentum",
        paper="arXiv:1803.06978", venue="CVPR 2019", family="input", provenance="code",
    ),
    Entry(
        name="si", attack=compose(Scale(), Nesterov()),
        title="scale-invariant Nesterov attack (SI-NI-FGSM)",
        paper="arXiv:1908.06281", venue="ICLR 2020", family="input", provenance="code",
    ),
)  # fmt: skip

"""Attacks by how they use the gradient."""

from segtrans.catalogue.entry import MI, Entry
from segtrans.composition import compose
from segtrans.gradients import Nesterov, Smooth

ENTRIES = (
    Entry(
        name="mi", attack=compose(MI),
        title="momentum iterative FGSM",
        paper="arXiv:1710.06081", venue="CVPR 2018", family="gradient", provenance="code",
    ),
    Entry(
        name="ni", attack=compose(Nesterov()),
        title="Nesterov iterative FGSM",
        paper="arXiv:1908.06281", venue="ICLR 2020", family="gradient", provenance="code",
    ),
    Entry(
        name="ti", attack=compose(Smooth(), MI),
        title="translation-invariant gradients, with momentum",
        paper="arXiv:1904.02884", venue="CVPR 2019", family="gradient", provenance="code",
    ),
)  # fmt: skip

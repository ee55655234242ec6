"""Attacks by how gradients flow back through the surrogate."""

from segtrans.backward import Ghost, LinearBackward, SkipGradient, SmoothBackward
from segtrans.catalogue.entry import MI, Entry
from segtrans.composition import compose

ENTRIES = (
    Entry(
        name="sgm", attack=compose(SkipGradient(), MI),
        title="skip gradient method, with momentum",
        paper="arXiv:2002.05990", venue="ICLR 2020", family="backward", provenance="paper",
    ),
    Entry(
        name="linbp", attack=compose(LinearBackward(), MI),
        title="linear backpropagation without its rescaling, with momentum",
        paper="arXiv:2012.03528", venue="NeurIPS 2020", family="backward", provenance="paper",
    ),
    Entry(
        name="bpa", attack=compose(SmoothBackward(), MI),
        title="backward propagation attack, with momentum",
        paper="arXiv:2306.12685", venue="NeurIPS 2023", family="backward", provenance="paper",
    ),
    Entry(
        name="ghost-mi", attack=compose(Ghost(), MI),
        title="ghost networks' random skips, with momentum",
        paper="arXiv:1812.03413", venue="AAAI 2020", family="backward", provenance="paper",
    ),
)  # fmt: skip

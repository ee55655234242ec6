"""Attacks on several surrogates at once; on one they fall back on something simpler."""

from segtrans.catalogue.entry import MI, Entry
from segtrans.composition import compose
from segtrans.gradients import AdaptiveWeights, Sequential, VarianceReduced

ENTRIES = (
    Entry(
        name="svre", attack=compose(VarianceReduced(), MI),
        title="stochastic variance reduction over an ensemble's members (5M-1 gradients for M), with momentum",
        paper="arXiv:2111.10752", venue="CVPR 2022", family="ensemble", provenance="code",
    ),
    Entry(
        name="adaea", attack=compose(AdaptiveWeights(), MI),
        title="adaptive weights of an ensemble's gradients, instead of logits (M gradients for M), with momentum",
        paper="arXiv:2308.02897", venue="ICCV 2023", family="ensemble", provenance="code",
    ),
    Entry(
        name="cwa", attack=compose(Sequential(), MI),
        title="common weakness of an ensemble's members (2M gradients for M), with momentum",
        paper="arXiv:2303.09105", venue="ICLR 2024", family="ensemble", provenance="code",
    ),
)  # fmt: skip

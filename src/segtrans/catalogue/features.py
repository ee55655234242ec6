"""Attacks on the features of an inner layer, where the forward pass ends."""

from segtrans.attack import Attack
from segtrans.catalogue.entry import MI, PGD, Entry
from segtrans.composition import compose
from segtrans.objectives import Attribution, Dispersion, FeatureImportance, FeatureSimilarity, Projection

ENTRIES = (
    Entry(
        name="fspgd", attack=compose(PGD, FeatureSimilarity(), Attack(iterations=20)),
        title="feature similarity PGD, with the paper's 20 iterations",
        paper="arXiv:2502.01262", venue="arXiv 2025", family="features", provenance="code",
    ),
    Entry(
        name="fspgd-mi", attack=compose(FeatureSimilarity(), MI),
        title="feature similarity, with momentum",
        paper="arXiv:2502.01262", venue="arXiv 2025", family="features", provenance="code",
    ),
    Entry(
        name="fia", attack=compose(FeatureImportance(), MI),
        title="feature importance-aware attack, with momentum",
        paper="arXiv:2107.14185", venue="ICCV 2021", family="features", provenance="paper",
    ),
    Entry(
        name="naa", attack=compose(Attribution(), MI),
        title="neuron attribution-based attack, with momentum",
        paper="arXiv:2204.00008", venue="CVPR 2022", family="features", provenance="paper",
    ),
    Entry(
        name="fda", attack=compose(Dispersion()),
        title="feature disruptive attack, on one layer",
        paper="arXiv:1909.04385", venue="ICCV 2019", family="features", provenance="paper",
    ),
    Entry(
        name="ila", attack=compose(Projection()),
        title="intermediate level attack after ten iterations of MI-FGSM",
        paper="arXiv:1907.10823", venue="ICCV 2019", family="features", provenance="paper",
    ),
)  # fmt: skip

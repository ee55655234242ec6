"""Attacks towards labels of their own instead of away from the true ones."""

from segtrans.catalogue.entry import PGD, Entry
from segtrans.composition import compose
from segtrans.goals import AllAs, HideClass, LeastLikely, Towards
from segtrans.objectives import CosPGD, UnsureCrossEntropy

ENTRIES = (
    Entry(
        name="towards", attack=compose(Towards()),
        title="iterative towards a label map given in place of the true one",
        paper="arXiv:1711.09856", venue="CVPR 2018", family="targeted", provenance="paper",
    ),
    Entry(
        name="towards-cospgd", attack=compose(PGD, CosPGD(), Towards()),
        title="CosPGD towards a label map given in place of the true one",
        paper="arXiv:2302.02213", venue="ICML 2024", family="targeted", provenance="code",
    ),
    Entry(
        name="least-likely", attack=compose(LeastLikely()),
        title="iterative towards the least likely classes",
        paper="arXiv:1711.09856", venue="CVPR 2018", family="targeted", provenance="paper",
    ),
    Entry(
        name="hide", attack=compose(HideClass(), UnsureCrossEntropy()),
        title="hides class 0, or that of a hideclass(index=…) added, under its nearest neighbours, image by image",
        paper="arXiv:1704.05712", venue="ICCV 2017", family="targeted", provenance="paper",
    ),
    Entry(
        name="all-as", attack=compose(AllAs(), UnsureCrossEntropy()),
        title="everything as class 0, or that of an allas(index=…) added, image by image",
        paper="arXiv:1704.05712", venue="ICCV 2017", family="targeted", provenance="paper",
    ),
)  # fmt: skip

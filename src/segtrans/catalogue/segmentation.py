"""Attacks made for segmentation."""

from segtrans.catalogue.entry import MI, PGD, Entry
from segtrans.composition import compose
from segtrans.objectives import CosPGD, SegPGD
from segtrans.transforms import Remap, Rescale

ENTRIES = (
    Entry(
        name="ds", attack=compose(Rescale(), MI),
        title="dynamic scaling, with momentum",
        paper="arXiv:2111.11368", venue="arXiv 2021", family="segmentation", provenance="reconstruction",
    ),
    Entry(
        name="segpgd", attack=compose(PGD, SegPGD()),
        title="SegPGD",
        paper="arXiv:2207.12391", venue="ECCV 2022", family="segmentation", provenance="code",
    ),
    Entry(
        name="cospgd", attack=compose(PGD, CosPGD()),
        title="CosPGD",
        paper="arXiv:2302.02213", venue="ICML 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="segtrans", attack=compose(SegPGD(), Remap(), MI),
        title="SegTrans, our reconstruction from its abstract",
        paper="arXiv:2510.08922", venue="IEEE TMM 2025", family="segmentation", provenance="reconstruction",
    ),
)  # fmt: skip

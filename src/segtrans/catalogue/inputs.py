"""Attacks by what they show the surrogate: input transformations, with momentum."""

from segtrans.catalogue.entry import MI, Entry
from segtrans.composition import compose
from segtrans.gradients import Nesterov
from segtrans.transforms import Admix, MaskBlocks, MixMask, Resize, Scale, Spectrum, StyleMix, UniformScale

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
    Entry(
        name="admix", attack=compose(Admix(), Scale(), MI),
        title="other photographs added, at five brightnesses, with momentum",
        paper="arXiv:2102.00436", venue="ICCV 2021", family="input", provenance="code",
    ),
    Entry(
        name="us-mm", attack=compose(UniformScale(), MixMask(), MI),
        title="uniform scale and mix mask, with momentum",
        paper="arXiv:2311.12051", venue="arXiv 2023", family="input", provenance="code",
    ),
    Entry(
        name="ssa", attack=compose(Spectrum(), MI),
        title="spectrum simulation, with momentum",
        paper="arXiv:2207.05382", venue="ECCV 2022", family="input", provenance="code",
    ),
    Entry(
        name="stm", attack=compose(StyleMix(), MI),
        title="style mixing without a style network, our reconstruction, with momentum",
        paper="arXiv:2308.10601", venue="ACM MM 2023", family="input", provenance="reconstruction",
    ),
    Entry(
        name="maskblock", attack=compose(MaskBlocks(), MI),
        title="one block hidden per copy, with momentum",
        paper="arXiv:2208.06538", venue="arXiv 2022", family="input", provenance="code",
    ),
)  # fmt: skip

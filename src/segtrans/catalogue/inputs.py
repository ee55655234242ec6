"""Attacks by what they show the surrogate: input transformations, with momentum."""

from segtrans.catalogue.entry import MI, Entry
from segtrans.composition import compose
from segtrans.gradients import Neighbourhood, Nesterov
from segtrans.objectives import CopySimilarity
from segtrans.transforms import (
    Admix,
    CellMask,
    Chain,
    Crop,
    MaskBlocks,
    MixMask,
    Operators,
    Resize,
    Scale,
    Shuffle,
    Spectrum,
    Structure,
    StyleMix,
    UniformScale,
    Warp,
)

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
        title="photographs of a bank, not of the batch, added, at five brightnesses, with momentum",
        paper="arXiv:2102.00436", venue="ICCV 2021", family="input", provenance="code",
    ),
    Entry(
        name="us-mm", attack=compose(UniformScale(), MixMask(), MI),
        title="uniform scale, and a mask from a bank of photographs, not from the batch, with momentum",
        paper="arXiv:2311.12051", venue="arXiv 2023", family="input", provenance="code",
    ),
    Entry(
        name="ssa", attack=compose(Spectrum(), MI),
        title="spectrum simulation, with momentum",
        paper="arXiv:2207.05382", venue="ECCV 2022", family="input", provenance="code",
    ),
    Entry(
        name="stm", attack=compose(StyleMix(), MI),
        title="mixed with itself in colours of a bank of photographs, our reconstruction without a style network",
        paper="arXiv:2308.10601", venue="ACM MM 2023", family="input", provenance="reconstruction",
    ),
    Entry(
        name="maskblock", attack=compose(MaskBlocks(), MI),
        title="one block hidden per copy, with momentum",
        paper="arXiv:2208.06538", venue="arXiv 2022", family="input", provenance="code",
    ),
    Entry(
        name="bsr", attack=compose(Shuffle(copies=20), MI),
        title="block shuffle and rotation, 20 copies, with momentum",
        paper="arXiv:2308.10299", venue="CVPR 2024", family="input", provenance="code",
    ),
    Entry(
        name="sia", attack=compose(Structure(copies=20), MI),
        title="structure invariant attack, 20 copies, with momentum",
        paper="arXiv:2309.14700", venue="ICCV 2023", family="input", provenance="code",
    ),
    Entry(
        name="decowa", attack=compose(Warp(copies=20, descent=0.01), MI),
        title="deformation-constrained warping, 20 warps of each image's own, with momentum",
        paper="arXiv:2402.03951", venue="AAAI 2024", family="input", provenance="code",
    ),
    Entry(
        name="su",
        attack=compose(CopySimilarity(), Crop(area=(0.1, 0.1), whole_first=True, beneath=True, copies=2), MI),
        title="self-universality: one perturbation for image and crop, untargeted, without DI and TI, with momentum",
        paper="arXiv:2209.03716", venue="CVPR 2023", family="input", provenance="code",
    ),
    Entry(
        name="ops", attack=compose(Operators(copies=30), Neighbourhood(samples=30), MI),
        title="OPS at its paper's largest setting, 30 neighbours × 30 operator chains + 1; that labels move is ours",
        paper="https://github.com/the-full/OPS", venue="CVPR 2025", family="input", provenance="code",
    ),
    Entry(
        name="everywhere-attack", attack=compose(CellMask(kept=1, whole_first=True, copies=10), MI),
        title="the image and nine single cells of it, untargeted, with momentum",
        paper="arXiv:2501.00707", venue="AAAI 2025", family="input", provenance="reconstruction",
    ),
    Entry(
        name="l2t", attack=compose(Chain(copies=20), MI),
        title="20 random chains of two transformations, whose odds L2T would learn, with momentum",
        paper="arXiv:2405.14077", venue="CVPR 2024", family="input", provenance="reconstruction",
    ),
)  # fmt: skip

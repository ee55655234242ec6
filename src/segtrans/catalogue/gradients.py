"""Attacks by how they use the gradient."""

from segtrans.catalogue.entry import MI, Entry
from segtrans.composition import compose
from segtrans.gradients import Flatness, LineAverage, Nesterov, Relevance, Sharpness, Smooth, Variance
from segtrans.steps import Damped
from segtrans.transforms import Resize

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
    Entry(
        name="vmi", attack=compose(Variance(), MI),
        title="variance tuning, with momentum",
        paper="arXiv:2103.15571", venue="CVPR 2021", family="gradient", provenance="code",
    ),
    Entry(
        name="vni", attack=compose(Variance(ahead=1.0), MI),
        title="variance tuning, with Nesterov momentum",
        paper="arXiv:2103.15571", venue="CVPR 2021", family="gradient", provenance="code",
    ),
    Entry(
        name="emi", attack=compose(LineAverage(), MI),
        title="enhanced momentum: gradients averaged along the last one",
        paper="arXiv:2103.10609", venue="BMVC 2021", family="gradient", provenance="code",
    ),
    Entry(
        name="gra", attack=compose(Relevance(), MI, Damped()),
        title="gradient relevance attack",
        paper="pp. 4741–4750", venue="ICCV 2023", family="gradient", provenance="code",
    ),
    Entry(
        name="pgn", attack=compose(Flatness(), MI),
        title="penalised gradient norm, with momentum",
        paper="arXiv:2306.05225", venue="NeurIPS 2023", family="gradient", provenance="code",
    ),
    Entry(
        name="rap", attack=compose(Sharpness(), MI),
        title="reverse adversarial perturbation, with momentum and without late start",
        paper="arXiv:2210.05968", venue="NeurIPS 2022", family="gradient", provenance="code",
    ),
    Entry(
        name="sam", attack=compose(Sharpness(steps=1, radius=1 / 15, random_start=False), MI),
        title="sharpness-aware gradients, our single-model reading of CWA's reverse step",
        paper="arXiv:2303.09105", venue="ICLR 2024", family="gradient", provenance="reconstruction",
    ),
    Entry(
        name="mi-di-ti", attack=compose(Resize(), Smooth(), MI),
        title="diverse inputs and translation-invariant gradients, with momentum",
        paper="arXiv:1904.02884", venue="CVPR 2019", family="gradient", provenance="code",
    ),
    Entry(
        name="ni-di-ti", attack=compose(Resize(probability=0.7), Smooth(size=5), Nesterov()),
        title="DI, shrinking by a share of the side, and TI, five pixels wide, with Nesterov momentum, as in TASS",
        paper="arXiv:2307.16572", venue="arXiv 2023", family="gradient", provenance="paper",
    ),
    Entry(
        name="vmi-di-ti", attack=compose(Resize(), Variance(), Smooth(), MI),
        title="diverse inputs, variance tuning and translation-invariant gradients, with momentum, without scales",
        paper="arXiv:2103.15571", venue="CVPR 2021", family="gradient", provenance="paper",
    ),
)  # fmt: skip

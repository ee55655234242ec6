"""Every published attack by name, each one expression. ``attack("mi")`` is an entry of it; how names are combined is
said in :mod:`segtrans.composition`.
"""

from dataclasses import dataclass

from segtrans.attack import Attack
from segtrans.composition import PARTS, compose, read
from segtrans.gradients import Momentum, Nesterov, Smooth
from segtrans.objectives import CosPGD, SegPGD
from segtrans.transforms import Remap, Rescale, Resize, Scale

__all__ = ["ENTRIES", "PARTS", "Entry", "attack", "compose"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A named attack.

    Attributes:
        provenance: what our version rests on: ``code`` or ``paper`` of the authors, ``reconstruction`` where the
            method is not fully public, ``control`` for what is no attack.
    """

    name: str
    attack: Attack
    title: str
    paper: str
    venue: str
    family: str
    provenance: str


# All iterative attacks share PGD's step, a quarter of the budget (2/255 of 8/255), so that they differ in what they are
# and not in how far they go. The momentum papers step budget / iterations, which transfers less: see docs/protocol.md.
_PGD = Attack(random_start=True)
_MI = Momentum()

_ENTRIES = (
    Entry(
        name="clean", attack=Attack(iterations=0),
        title="no perturbation, only 8-bit rounding",
        paper="", venue="", family="control", provenance="control",
    ),
    Entry(
        name="noise", attack=Attack(iterations=0, random_start=True),
        title="uniform noise within the budget",
        paper="", venue="", family="control", provenance="control",
    ),
    Entry(
        name="fgsm", attack=Attack(iterations=1, step_size="eps/1"),
        title="fast gradient sign method",
        paper="arXiv:1412.6572", venue="ICLR 2015", family="gradient", provenance="paper",
    ),
    Entry(
        name="bim", attack=Attack(),
        title="basic iterative method",
        paper="arXiv:1607.02533", venue="ICLR-W 2017", family="gradient", provenance="paper",
    ),
    Entry(
        name="pgd", attack=_PGD,
        title="projected gradient descent",
        paper="arXiv:1706.06083", venue="ICLR 2018", family="gradient", provenance="paper",
    ),
    Entry(
        name="mi", attack=compose(_MI),
        title="momentum iterative FGSM",
        paper="arXiv:1710.06081", venue="CVPR 2018", family="gradient", provenance="code",
    ),
    Entry(
        name="ni", attack=compose(Nesterov()),
        title="Nesterov iterative FGSM",
        paper="arXiv:1908.06281", venue="ICLR 2020", family="gradient", provenance="code",
    ),
    Entry(
        name="di", attack=compose(Resize(), _MI),
        title="diverse inputs, with momentum",
        paper="arXiv:1803.06978", venue="CVPR 2019", family="input", provenance="code",
    ),
    Entry(
        name="ti", attack=compose(Smooth(), _MI),
        title="translation-invariant gradients, with momentum",
        paper="arXiv:1904.02884", venue="CVPR 2019", family="gradient", provenance="code",
    ),
    Entry(
        name="si", attack=compose(Scale(), Nesterov()),
        title="scale-invariant Nesterov attack (SI-NI-FGSM)",
        paper="arXiv:1908.06281", venue="ICLR 2020", family="input", provenance="code",
    ),
    Entry(
        name="ds", attack=compose(Rescale(), _MI),
        title="dynamic scaling, with momentum",
        paper="arXiv:2111.11368", venue="arXiv 2021", family="segmentation", provenance="reconstruction",
    ),
    Entry(
        name="segpgd", attack=compose(_PGD, SegPGD()),
        title="SegPGD",
        paper="arXiv:2207.12391", venue="ECCV 2022", family="segmentation", provenance="code",
    ),
    Entry(
        name="cospgd", attack=compose(_PGD, CosPGD()),
        title="CosPGD",
        paper="arXiv:2302.02213", venue="ICML 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="segtrans", attack=compose(SegPGD(), Remap(), _MI),
        title="SegTrans, our reconstruction from its abstract",
        paper="arXiv:2510.08922", venue="IEEE TMM 2025", family="segmentation", provenance="reconstruction",
    ),
)  # fmt: skip

ENTRIES = {entry.name: entry for entry in _ENTRIES}


def attack(text: str) -> Attack:
    """The attack that ``text`` spells in the language of :func:`segtrans.composition.read`, such as ``"mi"``,
    ``"mi(iterations=20)"`` or ``"segpgd + remap(grid=3) + mi"``.

    Raises:
        UsageError: an unknown name, an unknown setting, or a value that cannot be read.
    """
    return read(text, {name: entry.attack for name, entry in ENTRIES.items()})

"""What an attack is compared with, and the single-gradient classics."""

from segtrans.attack import Attack
from segtrans.catalogue.entry import PGD, Entry

ENTRIES = (
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
        name="pgd", attack=PGD,
        title="projected gradient descent",
        paper="arXiv:1706.06083", venue="ICLR 2018", family="gradient", provenance="paper",
    ),
)  # fmt: skip

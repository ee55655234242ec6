"""Attacks by their update rule."""

from segtrans.attack import Attack
from segtrans.catalogue.entry import PGD, Entry
from segtrans.composition import compose
from segtrans.steps import Adam, Adaptive, Patchwise

ENTRIES = (
    Entry(
        name="pi", attack=compose(Attack(step_size="eps/T"), Patchwise()),
        title="patch-wise attack: tenfold steps of its own, whose excess goes to neighbouring pixels",
        paper="arXiv:2007.06765", venue="ECCV 2020", family="step", provenance="code",
    ),
    Entry(
        name="apgd", attack=compose(PGD, Adaptive()),
        title="Auto-PGD, which finds its step sizes itself",
        paper="arXiv:2003.01690", venue="ICML 2020", family="step", provenance="code",
    ),
    Entry(
        name="padam", attack=compose(PGD, Adam()),
        title="projected Adam, with ten steps for its 200",
        paper="arXiv:2407.09150", venue="ECCV 2024", family="step", provenance="code",
    ),
)  # fmt: skip

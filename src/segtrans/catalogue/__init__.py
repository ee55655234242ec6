"""Every published attack by name, each one expression; a family a file. ``attack("mi")`` is an entry; how names are
combined is said in :mod:`segtrans.composition`.
"""

from typing import Any

from segtrans.catalogue import backward, controls, ensembles, features, goals, gradients, inputs, segmentation, steps
from segtrans.catalogue.entry import Entry
from segtrans.composition import PARTS, compose, read
from segtrans.plugins import Names
from segtrans.worst import AnyAttack

__all__ = ["ENTRIES", "PARTS", "Entry", "attack", "compose"]

FAMILIES = (controls, gradients, steps, inputs, backward, features, ensembles, segmentation, goals)
ENTRIES = Names(
    "attack",
    "segtrans.attacks",
    {entry.name: entry for family in FAMILIES for entry in family.ENTRIES},
    fits=lambda thing: isinstance(thing, Entry),
    expected="a segtrans.catalogue.Entry",
    taken=PARTS,
)
"""Ours, and those that other packages add, by names in lower case."""


def attack(text: str, **protocol: Any) -> AnyAttack:
    """The attack that ``text`` spells in the language of :func:`segtrans.composition.read`, such as ``"mi"``,
    ``"mi(iterations=20)"`` or ``"segpgd + remap(grid=3) + mi"``; ``protocol`` is ``eps``, ``iterations`` and
    ``step_size`` for what it does not say.

    Raises:
        UsageError: an unknown name, an unknown setting, or a value that cannot be read. MissingError: another package's
            attack that cannot be imported.
    """
    return read(text, ENTRIES, **protocol)

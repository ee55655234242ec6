"""What the catalogue knows of an attack."""

from dataclasses import dataclass

from segtrans.attack import Attack
from segtrans.gradients import Momentum
from segtrans.worst import AnyAttack


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A named attack.

    Attributes:
        provenance: what our version rests on: ``code`` or ``paper`` of the authors, ``third-party`` code where theirs
            is not public, ``reconstruction`` where the method is not fully public, ``control`` for what is no attack.
    """

    name: str
    attack: AnyAttack
    title: str
    paper: str
    venue: str
    family: str
    provenance: str


# All iterative attacks share PGD's step, a quarter of the budget (2/255 of 8/255), so that they differ in what they are
# and not in how far they go. The momentum papers step budget / iterations, which transfers less: see docs/protocol.md.
PGD = Attack(random_start=True)
MI = Momentum()

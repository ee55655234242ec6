"""How a law that does not hold is reported."""

from torch import Tensor

from segtrans.attack import Attack
from segtrans.composition import spell


def hold(holds: bool | Tensor, law: str, part: object, found: str) -> None:
    """AssertionError, in one sentence, unless the law holds."""
    if not holds:
        named = spell(part) if isinstance(part, Attack) else str(part)
        raise AssertionError(f"law of {law}: {named} {found}")

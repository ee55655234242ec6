"""How a law that does not hold is reported."""

from dataclasses import fields

from torch import Tensor

from segtrans.attack import Attack


def hold(holds: bool | Tensor, law: str, part: object, found: str) -> None:
    """AssertionError, in one sentence, unless the law holds."""
    if not holds:
        raise AssertionError(f"law of {law}: {_named(part)} {found}")


def _named(part: object) -> str:
    if not isinstance(part, Attack):
        return part if isinstance(part, str) else repr(part)
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    own = [f"{name}={value!r}" for name, value in values.items() if value != getattr(Attack(), name, None)]
    return f"Attack({', '.join(own)})"

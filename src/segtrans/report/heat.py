"""The colour scale of fractions in tables and figures, and what can be read on it."""

from dataclasses import dataclass
from functools import cache

from segtrans.data.base import Colour

HEAT_STEPS = 20
# From nothing to everything, for a white and for a dark page.
LIGHT_HEAT: tuple[Colour, ...] = ((244, 242, 236), (246, 219, 176), (236, 158, 96), (200, 80, 58), (122, 28, 44))
DARK_HEAT: tuple[Colour, ...] = ((36, 39, 44), (84, 44, 52), (160, 62, 52), (228, 128, 70), (252, 218, 150))


@dataclass(frozen=True)
class Heat:
    """A colour of the scale and the letters that can be read on it, as CSS."""

    step: int
    background: str
    ink: str


def heat_step(value: float) -> int:
    """The step of the scale for a fraction; values outside 0 … 1 take the ends."""
    return round(HEAT_STEPS * min(max(value, 0), 1))


@cache
def heat(anchors: tuple[Colour, ...]) -> tuple[Heat, ...]:
    """The colour scale between ``anchors``, each step with black or white letters, whichever stand out more."""
    scale: list[Heat] = []
    for step in range(HEAT_STEPS + 1):
        place = step / HEAT_STEPS * (len(anchors) - 1)
        first = min(int(place), len(anchors) - 2)
        r, g, b = (
            round(a + (place - first) * (c - a)) for a, c in zip(anchors[first], anchors[first + 1], strict=True)
        )
        scale.append(Heat(step, css((r, g, b)), css(ink_on((r, g, b)))))
    return tuple(scale)


def ink_on(background: Colour) -> Colour:
    """Black or white; one of the two always reaches a contrast of 4.5 (WCAG AA)."""
    black, white = (0, 0, 0), (255, 255, 255)
    return max(black, white, key=lambda ink: contrast(ink, background))


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio by WCAG 2."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Colour) -> float:
    r, g, b = (c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def css(colour: Colour) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)

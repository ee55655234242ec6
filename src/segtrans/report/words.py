"""Numbers and lists in words."""

from collections.abc import Sequence

Interval = tuple[float, float]


def as_interval(interval: Sequence[float | None]) -> Interval | None:
    low, high = interval
    return None if low is None or high is None else (low, high)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage without its sign; a dash for what is undefined."""
    if value is None:
        return "–"
    text = f"{100 * value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None) -> str:
    """A difference of fractions in points, with its sign."""
    text = percent(value)
    return text if value is None or text.startswith("−") or not float(text) else f"+{text}"


def ends(interval: Interval | None) -> str:
    """An interval in words; nothing where there is none."""
    return "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def seconds(value: float | None) -> str:
    """Three significant figures, more or less."""
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2}f}"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def joined(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

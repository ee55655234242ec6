"""What attacks achieve against what they cost, their budget or their iterations: where every mark of such a plot and
its name stands.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import fmean

from segtrans.report.content import Document, mixed_budgets, pairs
from segtrans.report.costs import costs
from segtrans.report.ranking import ranked_blocks, ranking
from segtrans.report.words import Interval, ends, percent, shortened

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 12, 26, 40
_LETTER, _LINE = 6.8, 14  # CSS pixels that a letter of 12 pixels takes at most on average, and a line
_RADIUS = 4.5
_DODGE = 10  # between points of equal cost


@dataclass(frozen=True)
class Point:
    """An attack: mean gradient evaluations per image (on curves its budget or iterations), the same in words, mean
    success with its interval, and whether nothing that costs as little is better.
    """

    attack: str
    cost: float
    spent: str
    value: float
    interval: Interval | None
    front: bool = False

    @property
    def words(self) -> str:
        return f"{self.attack}: {self.spent}, {percent(self.value)} %{self.between}"

    @property
    def between(self) -> str:
        """The interval, in parentheses and after a space, if there is one."""
        return f" ({ends(self.interval)})" if self.interval else ""

    @property
    def span(self) -> Interval:
        """From where to where it is drawn."""
        return self.interval or (self.value, self.value)


@dataclass(frozen=True)
class Mark:
    """A point in place; ``low`` and ``high`` are the ends of its interval."""

    point: Point
    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    style: str


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """Everything to be drawn, in CSS pixels; ``lines`` are attacks without gradients, which a log axis has no place
    for, and ``faint`` what other plots are about.
    """

    width: int
    height: int
    frame: Box
    columns: list[Tick]
    rows: list[Tick]
    marks: list[Mark]
    lines: list[Mark]
    front: str
    texts: list[Text]
    block: str
    style: str
    axis: str = "gradient evaluations per image, log scale"
    title: str = ""
    faint: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        points = [mark.point for mark in (*self.marks, *self.lines)]
        if self.title:
            said = (f"{percent(p.value)} % at {p.cost:g}{p.between}" for p in points)
            return f"{self.title}: {', '.join(said)}"
        return "; ".join(point.words + (" (Pareto front)" if point.front else "") for point in points)


def points(document: Document) -> list[Point]:
    """Every attack with a mean in the ranking's first block, the strongest first, controls last; the front is of those
    with the strongest one's budget.
    """
    block, budgets = ranked_blocks(document)[0], mixed_budgets(document)
    spent = {(cost.attack, cost.surrogate): cost.gradient_evaluations for cost in costs(document)}
    # What the scores that the mean is about cost: a surrogate counts as often as it was scored.
    paid: dict[str, list[int]] = {}
    for (attack, surrogate, _), pair in pairs(document).items():
        if pair.block == block and pair.asr_miou is not None:
            paid.setdefault(attack, []).append(spent[attack, surrogate])
    found: list[Point] = []
    for ranked in ranking(document):
        score = ranked.scores.get(block)
        if score is None or score.asr_miou is None or ranked.attack not in paid:
            continue
        cost = fmean(paid[ranked.attack])
        words = f"{cost:,.0f} gradients per image" if cost else "no gradients"
        found.append(Point(ranked.attack, cost, words, score.asr_miou, score.asr_miou_interval))
    costly = [point for point in found if point.cost]
    alike = [point for point in costly if budgets.get(point.attack) == budgets.get(costly[0].attack)]
    best = -math.inf
    front: set[str] = set()
    for point in sorted(alike, key=lambda p: (p.cost, -p.value)):
        if point.value > best:
            best = point.value
            front.add(point.attack)
    return [replace(point, front=point.attack in front) for point in found]


def cost_plot(document: Document, width: int, height: int, style: str) -> Plot | None:
    """The plot at that size, or None where no attack that takes gradients has a mean."""
    found = points(document)
    paid = [point for point in found if point.cost]
    if not paid:
        return None
    low, high = min(p.cost for p in paid) / 1.4, max(p.cost for p in paid) * 1.4
    frame, x, y, rows = _axes(found, width, height, low, high)
    marks: list[Mark] = []
    for cost in sorted({p.cost for p in paid}):
        equal = [p for p in paid if p.cost == cost]
        gap = min(_DODGE, 0.4 * (width - _LEFT) / len(equal))
        for i, point in enumerate(equal):
            shift = gap * (i - (len(equal) - 1) / 2)
            marks.append(Mark(point, x(cost) + shift, y(point.value), *map(y, point.span)))
    lines = [Mark(p, frame[0], y(p.value), *map(y, p.span)) for p in found if not p.cost]
    return Plot(
        width=width,
        height=height,
        frame=frame,
        columns=_ticks(_powers(low, high) or sorted({round(p.cost) for p in paid}), x),
        rows=rows,
        marks=marks,
        lines=lines,
        front=_stairs([mark for mark in marks if mark.point.front], frame[2]),
        texts=_names(marks, lines, frame, 28 if width > 500 else 17),
        block=ranked_blocks(document)[0],
        style=style,
    )


def curve_plot(series: Mapping[str, Sequence[Point]], name: str, axis: str, block: str) -> Plot:
    """One of several attacks whose points have a budget or iterations as their cost, on axes that all share, the other
    attacks behind it.
    """
    found = [point for points in series.values() for point in points]
    numbers = sorted({point.cost for point in found})
    width, height = 350, 260
    frame, x, y, rows = _axes(found, width, height, numbers[0] / 1.15, numbers[-1] * 1.15)

    def path(points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{x(p.cost):.1f} {y(p.value):.1f}" for p in points)

    best = [replace(point, front=True) for point in series[name]]
    return Plot(
        width=width,
        height=height,
        frame=frame,
        columns=_ticks(numbers, x),
        rows=rows,
        marks=[Mark(p, x(p.cost), y(p.value), *map(y, p.span)) for p in best],
        lines=[],
        front=path(best),
        texts=[],
        block=block,
        style="small",
        axis=f"{axis}, log scale",
        title=name,
        faint=tuple(path(points) for other, points in series.items() if other != name),
    )


def _axes(
    found: Sequence[Point], width: int, height: int, low: float, high: float
) -> tuple[Box, Callable[[float], float], Callable[[float], float], list[Tick]]:
    """The frame, where a cost between ``low`` and ``high`` and where a value stands, and the rows' ticks."""
    frame = (_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    bottom = min(0, *(p.span[0] for p in found))
    bottom = math.floor(bottom * 20) / 20 if bottom < -0.005 else 0
    top = max(bottom + 0.1, math.ceil(max(p.span[1] for p in found) * 20) / 20)

    def x(cost: float) -> float:
        return frame[0] + (frame[2] - frame[0]) * math.log(cost / low) / math.log(high / low)

    def y(value: float) -> float:
        return frame[3] - (frame[3] - frame[1]) * (value - bottom) / (top - bottom)

    return frame, x, y, [Tick(y(value), f"{100 * value:.0f}") for value in _steps(bottom, top)]


def _stairs(marks: Sequence[Mark], end: float) -> str:
    """The front as an SVG path: what is reached at a cost is reached at every higher one."""
    ordered = sorted(marks, key=lambda mark: mark.point.cost)
    steps = "".join(f"H{mark.x:.1f}V{mark.y:.1f}" for mark in ordered[1:])
    return f"M{ordered[0].x:.1f} {ordered[0].y:.1f}{steps}H{end:.1f}"


def _names(marks: Sequence[Mark], lines: Sequence[Mark], frame: Box, most: int) -> list[Text]:
    """Names that touch neither each other nor a mark: the front's and the strongest attacks' first, while there is
    room. Lines that lie close to each other share a name.
    """
    taken: list[Box] = [(m.x - _RADIUS, m.y - _RADIUS, m.x + _RADIUS, m.y + _RADIUS) for m in marks]
    taken += [(m.x - 1, m.high, m.x + 1, m.low) for m in marks]
    front = sorted((m for m in marks if m.point.front), key=lambda mark: mark.x)
    ends = [m.x for m in front[1:]] + [frame[2]]
    taken += [(m.x, m.y - 1, end, m.y + 1) for m, end in zip(front, ends, strict=True)]
    texts: list[Text] = []
    groups: list[list[Mark]] = []
    for mark in sorted(lines, key=lambda mark: mark.y):
        if groups and mark.y - groups[-1][0].y < _LINE:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    for group in groups:
        text = shortened(", ".join(mark.point.attack for mark in group), 2 * most)
        baseline = group[0].y - 4
        texts.append(Text(frame[2] - 2, baseline, text, "end quiet"))
        taken.append((frame[2] - 2 - _LETTER * len(text), baseline - _LINE + 3, frame[2], baseline + 3))
    for mark in sorted(marks, key=lambda mark: (not mark.point.front, -mark.point.value)):
        text = shortened(mark.point.attack, most)
        width = _LETTER * len(text)
        for dx, dy, style in _PLACES:
            start = mark.x + dx - {"start": 0, "middle": width / 2, "end": width}[style]
            box = (start, mark.y + dy - _LINE + 3, start + width, mark.y + dy + 3)
            inside = box[0] > frame[0] and box[2] < frame[2] and box[1] > frame[1] - 10 and box[3] < frame[3]
            if inside and not any(_touch(box, other) for other in taken):
                taken.append(box)
                texts.append(Text(mark.x + dx, mark.y + dy, text, style if mark.point.front else f"{style} quiet"))
                break
    return texts


# Where a name may stand, seen from its point: the nearest and the most legible first.
_PLACES = (
    (8, 4, "start"),
    (8, -7, "start"),
    (8, 15, "start"),
    (-8, 4, "end"),
    (-8, -7, "end"),
    (-8, 15, "end"),
    (0, -9, "middle"),
    (0, 19, "middle"),
)


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _ticks(numbers: Sequence[float], x: Callable[[float], float]) -> list[Tick]:
    """A tick for each number that has room beside the one before."""
    found: list[Tick] = []
    for number in numbers:
        if not found or x(number) - found[-1].at > 24:
            found.append(Tick(x(number), f"{number:,.9g}"))
    return found


def _powers(low: float, high: float) -> list[int]:
    """1, 2 and 5 times powers of ten from ``low`` to ``high``; powers alone where those would be many."""
    exponents = range(max(0, math.floor(math.log10(low))), math.ceil(math.log10(high)) + 1)
    found = [digit * 10**e for e in exponents for digit in (1, 2, 5) if low <= digit * 10**e <= high]
    return found if len(found) <= 8 else [10**e for e in exponents if low <= 10**e <= high]


def _steps(low: float, high: float) -> list[float]:
    """Multiples of 2, 5, 10 or 20 points from ``low`` to ``high``, at most six of them."""
    step = next(s for e in count() for s in (2 * 10**e, 5 * 10**e, 10 * 10**e) if 100 * (high - low) / s <= 6)
    return [k * step / 100 for k in range(math.ceil(100 * low / step), math.floor(100 * high / step + 1e-9) + 1)]

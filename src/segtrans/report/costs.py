"""What attacks cost, and on which images they failed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from segtrans.report.content import Document

_MOST_NAMES = 3


@dataclass(frozen=True)
class Cost:
    """What an attack cost on one surrogate, over all seeds."""

    attack: str
    surrogate: str
    images: int
    gradient_evaluations: int
    gradient_evaluations_per_iteration: int
    gradient_evaluations_of_preparation: int
    seconds: float
    seconds_per_image: float | None
    peak_memory: int
    zero_gradient_images: int


def costs(document: Document) -> list[Cost]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for unit in document["costs"]:
        found = groups.setdefault((unit["attack"], unit["surrogate"]), [])
        # What draws nothing is made once for all seeds.
        if not found or document["attacks"][unit["attack"]]["draws"]:
            found.append(unit)
    return [
        Cost(
            attack=attack,
            surrogate=surrogate,
            images=sum(unit["images"] for unit in units),
            # With one seed an attack may have failed on every image, which is then not what it takes.
            gradient_evaluations=max(unit["gradient_evaluations"] for unit in units),
            gradient_evaluations_per_iteration=units[0]["gradient_evaluations_per_iteration"],
            gradient_evaluations_of_preparation=units[0]["gradient_evaluations_of_preparation"],
            seconds=sum(unit["seconds"] for unit in units),
            seconds_per_image=mean_seconds(units),
            peak_memory=max(unit["peak_memory"] for unit in units),
            zero_gradient_images=sum(unit["zero_gradient_images"] for unit in units),
        )
        for (attack, surrogate), units in groups.items()
    ]


def mean_seconds(costs: Iterable[dict[str, Any]]) -> float | None:
    units = list(costs)
    images = sum(unit["images"] for unit in units)
    return sum(unit["seconds"] for unit in units) / images if images else None


@dataclass(frozen=True)
class Failure:
    """Images that could not be used somewhere, all for the same reason."""

    where: str
    reason: str
    images: list[str]

    @property
    def named(self) -> str:
        """The first three images' names, and how many more there are."""
        more = len(self.images) - _MOST_NAMES
        return ", ".join(self.images[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def failures(document: Document) -> list[Failure]:
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in document["failures"]:
        groups.setdefault((failure["where"], failure["reason"]), []).append(failure["image"])
    return [Failure(where, reason, images) for (where, reason), images in groups.items()]

"""What other packages add: model sources, readers of data sets and attacks.

A package names them as entry points (https://packaging.python.org/specifications/entry-points) in the groups
``segtrans.models``, ``segtrans.data`` and ``segtrans.attacks``. Their names are read from what is installed; a package
is imported when one of its names is used or listed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, TypeVar

from segtrans.errors import MissingError, UsageError, reason

Thing = TypeVar("Thing")


class Names(Mapping[str, Thing]):
    """Our own things by name, followed by those of other packages, each imported when it is asked for.

    Args:
        what: what they are, for messages.
        group: the entry points' group.
        own: ours, which nobody may replace.
        fits: whether something is such a thing; expected: what it has to be, in words.
        taken: further names that are ours.

    Raises:
        UsageError: on asking for a name that a package takes away from us or from another package, or for something
            else than what is expected. MissingError: its package cannot be imported.
    """

    def __init__(
        self,
        what: str,
        group: str,
        own: Mapping[str, Thing],
        *,
        fits: Callable[[Any], bool] = callable,
        expected: str = "a function",
        taken: Collection[str] = (),
    ) -> None:
        self.what, self.group, self.own, self.fits, self.expected = what, group, own, fits, expected
        self.taken = {*own, *taken}

    @property
    def added(self) -> list[str]:
        """The names that other packages add, or would."""
        return [*dict.fromkeys(point.name for point in _installed(self.group))]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.own, *self.added)))

    def __len__(self) -> int:
        return len({*self})

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.added

    def __getitem__(self, name: str) -> Thing:
        points = [point for point in _installed(self.group) if point.name == name]
        if points and name in self.taken:
            raise UsageError(f"{self.what} {name!r} is segtrans's own, and {_place(points[0])} may not replace it")
        if not points:
            return self.own[name]
        if len(points) > 1:
            raise UsageError(f"{self.what} {name!r} is ambiguous: {' and '.join(map(_place, points))} offer one each")
        place = _place(points[0])
        try:
            thing = points[0].load()
        except Exception as error:
            raise MissingError(f"{self.what} {name!r}: {place} cannot be imported ({reason(error)})") from error
        if not self.fits(thing):
            raise UsageError(f"{self.what} {name!r}: {place} is {type(thing).__name__}; expected {self.expected}")
        return thing


@cache
def _installed(group: str) -> EntryPoints:
    return entry_points(group=group)


def _place(point: EntryPoint) -> str:
    """Whose entry point that is, in words."""
    package = "an unnamed package" if point.dist is None else f"package {point.dist.name}"
    return f"entry point {point.name!r} ({point.value}) of {package}"

"""Cells of a result that no run made, compared."""

from collections.abc import Callable, Sequence
from typing import Any

from segtrans.bench.summary import Key, Lead, Replicates, key
from segtrans.metrics import HEADLINES


def leads(cells: Sequence[dict[str, Any]], drawn: Replicates) -> Callable[[Key, Key], Lead]:
    """As if all attacks had been scored on the same images."""
    found = {key(cell): cell for cell in cells}
    return lambda a, b: {n: (found[a][n] - found[b][n], drawn[a][n] - drawn[b][n]) for n in HEADLINES}

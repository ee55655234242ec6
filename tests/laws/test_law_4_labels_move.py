"""Law 4: labels move with their pixels, at the settings of the catalogue too; test_checks.py holds each part to it."""

import pytest
import torch

from segtrans.catalogue import ENTRIES
from segtrans.data.base import VOID
from segtrans.testing import SIZES, check_labels_follow
from segtrans.transforms import Transform
from toys import REPAINTING, draw, labels

USED = {
    f"{name}: {t!r}": t
    for name, entry in ENTRIES.items()
    for attack in entry.attack.attacks
    for t in attack.transforms
    if not isinstance(t, REPAINTING)
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("transform", USED.values(), ids=USED)
def test_labels_move_with_the_catalogues_settings(transform: Transform, size: tuple[int, int]) -> None:
    # Every copy at one of the sizes, and the first at all of them.
    copies = range(SIZES.index(size), transform.copies, len(SIZES))
    for batch, copy in ((1, 0), *((3, copy) for copy in copies)):
        y = labels(batch, size, values=(0, 1, VOID), block=9)
        check_labels_follow(transform, y, draw(batch, copy=copy, dtype=torch.float32))

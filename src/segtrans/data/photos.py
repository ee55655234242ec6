"""Free photographs that scikit-image carries: something to attack without any download."""

from segtrans.bank import free_photographs
from segtrans.data.base import Dataset, Item


def photos(side: int = 288) -> Dataset:
    """Six photographs without masks: astronaut, camera(man), chelsea (a cat), coffee, motorcycle, rocket.

    ``side`` bounds their longer side, so that a demo on a CPU stays quick.
    """
    return Dataset(
        name="photos",
        items=tuple(Item(name, path, None) for name, path in free_photographs().items()),
        max_side=side,
    )

"""Free photographs that scikit-image carries: something to attack without any download."""

from importlib.util import find_spec
from pathlib import Path

from segtrans.data.base import Dataset, Item
from segtrans.errors import MissingError

FILES = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Scenes with objects, among the files that are inside the package; the others of its gallery are downloads."""


def photos(side: int = 288) -> Dataset:
    """Six photographs without masks: astronaut, camera(man), chelsea (a cat), coffee, motorcycle, rocket.

    ``side`` bounds their longer side, so that a demo on a CPU stays quick.
    """
    # The paths come from where the package lies: importing it is slow, and its own loaders may go online.
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise MissingError("the photographs come with scikit-image, which is not installed")
    folder = Path(package.origin).parent / "data"
    missing = [file for file in FILES.values() if not (folder / file).is_file()]
    if missing:
        raise MissingError(f"{folder}: this scikit-image was packaged without {', '.join(missing)}")
    return Dataset(
        name="photos",
        items=tuple(Item(name, folder / file, None) for name, file in FILES.items()),
        max_side=side,
    )

"""A bank of photographs for attacks that mix other images in. They never take them from the batch, where an image alone
would be mixed with itself, and where other images would change the result.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from segtrans.errors import MissingError
from segtrans.io import Pixels, read_image, to_tensor
from segtrans.paths import at_home

FILES = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
"""Scenes with objects, among the files that are inside scikit-image; the others of its gallery are downloads."""

MOST = 32
"""How many images of a folder are used, so that a large folder does not fill the memory."""


def free_photographs() -> dict[str, Path]:
    """Where the photographs that scikit-image carries lie; MissingError if they do not."""
    # The paths come from where the package lies: importing it is slow, and its own loaders may go online.
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise MissingError("the photographs come with scikit-image, which is not installed")
    folder = Path(package.origin).parent / "data"
    missing = [file for file in FILES.values() if not (folder / file).is_file()]
    if missing:
        raise MissingError(f"{folder}: this scikit-image was packaged without {', '.join(missing)}")
    return {name: folder / file for name, file in FILES.items()}


@lru_cache(maxsize=4)
def photographs(size: tuple[int, int], folder: str = "", device: torch.device | None = None) -> Tensor:
    """The bank's M images as float32 (M, 3, H, W) in [0, 1]: cut to the proportions of ``size`` around their centre,
    then resized. The tensor is kept for the next call, so do not write to it.

    Args:
        size: height and width.
        folder: take the images of this folder, at most ``MOST`` spread evenly over its names, instead of the six free
            photographs.
        device: where the tensor lies.

    Raises:
        MissingError: the free photographs are not installed.
        DataError: the folder is missing, holds no images, or one that cannot be read.
    """
    return torch.stack([to_tensor(_fitted(path, size)) for path in chosen(folder)]).to(device)


@lru_cache(maxsize=4)
def channel_statistics(folder: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every photograph's channels, (M, 3, 1, 1) each."""
    # At one resolution, so that they do not depend on the attacked image.
    pictures = photographs((256, 256), folder, device)
    return pictures.mean((2, 3), keepdim=True), pictures.std((2, 3), correction=0, keepdim=True)


def forget() -> None:
    """Drop what is kept of the photographs: files may have changed."""
    photographs.cache_clear()
    channel_statistics.cache_clear()


def chosen(folder: str = "") -> list[Path]:
    """The files of a bank; errors as in :func:`photographs`."""
    # Imported late, since the data sets in turn take the list of free photographs from here.
    from segtrans.data.base import folder_images

    paths = [*(folder_images(at_home(folder)) if folder else free_photographs()).values()]
    count = min(len(paths), MOST)
    return [paths[place * len(paths) // count] for place in range(count)]


def _fitted(path: Path, size: tuple[int, int]) -> Pixels:
    height, width = size
    return np.array(ImageOps.fit(Image.fromarray(read_image(path)), (width, height), Image.Resampling.BILINEAR))

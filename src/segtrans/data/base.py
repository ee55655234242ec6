"""What a data set is: a list of named image and mask paths, class names, and how mask values become classes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segtrans.errors import DataError, UsageError, check_whole
from segtrans.io import Pixels, lies_on_its_side, read_image, read_mask

VOID = 255
"""The label of pixels that never count."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Item:
    """Where one image and, if there is one, its mask lie."""

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Sample:
    """One decoded image: uint8 (H, W, 3) and int64 labels (H, W) with 255 = void, or None without a mask."""

    name: str
    image: Pixels
    label: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images with or without masks.

    Photographs are turned upright by their EXIF tag, as a viewer shows them, and masks belong to the upright image.

    Attributes:
        name: what tables call it.
        items: the images, each with a name of its own.
        classes: class names in the order of their ids; empty for images without masks.
        palette: one colour per class.
        values: for each of the 256 possible mask values a class id, 255 (void), or -1, which is an error that names
            the file.
        max_side: images with a longer side are shrunk to this, masks with them; None keeps native resolution.
    """

    name: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    palette: tuple[Colour, ...] = ()
    values: tuple[int, ...] = ()
    max_side: int | None = None

    def __post_init__(self) -> None:
        if not self.items:
            raise DataError(f"data set {self.name!r} has no images")
        seen: set[str] = set()
        for item in self.items:
            if item.name in seen:
                raise DataError(f"data set {self.name!r} has two images named {item.name!r}")
            seen.add(item.name)
        count = len(self.classes)
        if len(self.palette) != count:
            raise UsageError(f"data set {self.name!r} has {count} classes but {len(self.palette)} colours")
        if count and (len(self.values) != 256 or not {*self.values} <= {*range(count), VOID, -1}):
            raise UsageError(
                f"data set {self.name!r}: values must map each of 256 mask values to 0 to {count - 1}, {VOID} or -1"
            )
        bare = next((item for item in self.items if item.mask is None), None)
        if count and bare is not None:
            raise DataError(f"data set {self.name!r} has classes, but {bare.image} has no mask")
        if not count and any(item.mask for item in self.items):
            raise UsageError(f"data set {self.name!r} has masks but no classes")
        if self.max_side is not None:
            check_whole("side", self.max_side, 1)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Decode one image and its mask.

        Raises:
            DataError: a file is missing or unreadable, the mask has another size than the image or a value that
                is no class.
        """
        item = self.items[index]
        image = read_image(item.image)
        label = None if item.mask is None else self._label(item.mask, item.image, image.shape[:2])
        sample = Sample(item.name, image, label)
        return sample if self.max_side is None else shrink(sample, self.max_side)

    def _label(self, path: Path, image: Path, size: tuple[int, int]) -> Tensor:
        mask = read_mask(path)
        if mask.shape != size:
            why = ""
            if mask.shape == size[::-1] and lies_on_its_side(image):
                why = "; the photograph's EXIF tag turns it by 90°, and the mask has to be turned with it"
            (height, width), (rows, columns) = size, mask.shape
            raise DataError(f"{path}: mask is {columns}×{rows} but its image is {width}×{height} (width×height){why}")
        label = np.asarray(self.values, dtype=np.int64)[mask]
        if label.min() < 0:
            value = int(mask[label < 0][0])
            allowed = _ranges([v for v in range(256) if self.values[v] >= 0])
            raise DataError(f"{path}: mask value {value} is no class of {self.name!r}; allowed are {allowed}")
        return torch.from_numpy(label)

    def take(self, limit: int | None, *, skip: int = 0, every: int = 1) -> "Dataset":
        """Some of the images: the first ``skip`` are left out; of the others the first is taken and each that follows a
        multiple of ``every`` later, until there are ``limit`` (None: until the end).

        Raises:
            UsageError: skip is below 0, every or limit below 1, or no image is left.
        """
        check_whole("skip", skip, 0)
        check_whole("every", every, 1)
        if limit is not None:
            check_whole("limit", limit, 1)
        items = self.items[skip::every][:limit]
        if self.items and not items:
            raise UsageError(f"skip is {skip}, but data {self.name!r} has only {len(self)} images")
        return replace(self, items=items)


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers in words: ``0 to 33, 255``."""
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def identity_values(classes: int, void: Sequence[int] = ()) -> tuple[int, ...]:
    """Mask values 0 … classes-1 as they are, 255 and ``void`` as void, everything else an error."""
    return tuple(v if v < classes else VOID if v == VOID or v in void else -1 for v in range(256))


def colours(count: int, first: int = 0) -> tuple[Colour, ...]:
    """``count`` distinct colours, PASCAL VOC's from its class ``first`` on (its class 0 is black).

    Bit k of the class id goes to the top bits of R, G and B in turn.
    """

    def channel(value: int, offset: int) -> int:
        return sum(((value >> (3 * bit + offset)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(c, 0), channel(c, 1), channel(c, 2)) for c in range(first, first + count))


def _scaled(sample: Sample, width: int, height: int) -> Sample:
    size = (width, height)
    image = np.array(Image.fromarray(sample.image).resize(size, Image.Resampling.BILINEAR))
    if sample.label is None:
        return Sample(sample.name, image, None)
    mask = Image.fromarray(sample.label.to(torch.uint8).numpy()).resize(size, Image.Resampling.NEAREST)
    return Sample(sample.name, image, torch.from_numpy(np.array(mask).astype(np.int64)))


def resize(sample: Sample, size: int) -> Sample:
    """Squeeze image (antialiased) and labels (nearest) to ``size`` × ``size``; the image stays on the 8-bit grid."""
    check_whole("size", size, 1)
    return _scaled(sample, size, size)


def shrink(sample: Sample, max_side: int) -> Sample:
    """The sample :func:`fit` to ``max_side`` if a side is longer, else as it is."""
    return sample if max(sample.image.shape[:2]) <= max_side else fit(sample, max_side)


def fit(sample: Sample, side: int) -> Sample:
    """Scale image and labels as :func:`resize` does, in proportion, so that the longer side is ``side``."""
    height, width = sample.image.shape[:2]
    ratio = side / max(height, width)
    return _scaled(sample, max(1, round(width * ratio)), max(1, round(height * ratio)))


def listed(path: Path) -> list[str]:
    """The non-empty lines of a text file such as a split list."""
    try:
        # Windows editors put a byte-order mark first, which would become part of the first name.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable list of names ({error})") from None
    return [line.strip() for line in lines if line.strip()]


def folder_images(root: Path, tail: str = "") -> dict[str, Path]:
    """The images directly in ``root`` whose names end in ``tail``, by name without it and without suffix, sorted.

    Raises:
        DataError: there is no such folder, nothing in it, or two images that differ in their suffix only.
    """
    try:
        with os.scandir(root) as entries:
            # By their names alone: what is no file, such as a link to nothing, is for the reader to name.
            files = sorted(root / e.name for e in entries if not e.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{root}: no such folder") from None
    except OSError as error:
        raise DataError(f"{root}: not a readable folder ({error.strerror})") from None
    images: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.stem.endswith(tail):
            continue
        name = path.stem.removesuffix(tail)
        if name in images:
            raise DataError(f"{path}: same name as {images[name].name}; names must differ in more than the suffix")
        images[name] = path
    if not images:
        raise DataError(f"{root}: no images here; allowed are *{tail}{{{','.join(sorted(IMAGE_SUFFIXES))}}}")
    return images


def paired(
    images: Path,
    masks: Path | None,
    names: Iterable[str] | None = None,
    *,
    image_tail: str = "",
    mask_tail: str = "",
) -> tuple[Item, ...]:
    """The images of one folder with the masks of the same names in another; only ``names``, in their order, if given.

    Both folders are listed once, so that a missing file is found before any work starts, not in the middle of it.

    Raises:
        DataError: an image in ``names`` is missing, or an image has no mask.
    """
    found = folder_images(images, image_tail)
    labels = None if masks is None else folder_images(masks, mask_tail)
    items: list[Item] = []
    for name in found if names is None else names:
        if name not in found:
            raise DataError(f"{images / name}{image_tail}.*: no such image, though the split lists it")
        if labels is not None and name not in labels:
            raise DataError(f"{found[name]}: no mask for this image; expected {masks}/{name}{mask_tail}.*")
        items.append(Item(name, found[name], None if labels is None else labels[name]))
    return tuple(items)

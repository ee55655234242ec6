"""A folder of images of your own, with or without masks."""

from collections.abc import Sequence
from pathlib import Path

from segtrans.data.base import VOID, Dataset, Item, colours, identity_values, listed, paired
from segtrans.errors import DataError, UsageError

FILES = "images"
"""What a data set of single photographs is called."""


def folder(root: Path, masks: Path | None = None, classes: int | None = None, side: int | None = None) -> Dataset:
    """Images in ``root/images``, or directly in ``root`` if there is no such subfolder.

    Without masks the labels are None, and what a model predicts on the clean image is its reference.

    Args:
        root: the folder.
        masks: folder of single-channel or palette masks of class ids, 255 = void, each with its image's name;
            ``root/masks`` if that exists.
        classes: number of classes; may be left out if ``root/classes.txt`` holds one class name per line.
        side: images with a longer side are shrunk to this.
    """
    images = root / "images" if (root / "images").is_dir() else root
    if masks is None and (root / "masks").is_dir():
        masks = root / "masks"
    items = paired(images, masks)
    name = root.resolve().name
    if masks is None:
        if classes is not None:
            raise UsageError(f"{root}: classes={classes} but no masks; expected masks=PATH or {root / 'masks'}")
        return Dataset(name=name, items=items, max_side=side)
    names = class_names(root / "classes.txt", classes)
    return Dataset(
        name=name,
        items=items,
        classes=names,
        palette=colours(len(names)),
        values=identity_values(len(names)),
        max_side=side,
    )


def class_names(path: Path, count: int | None) -> tuple[str, ...]:
    """The names in the file at ``path``, if it is there, else numbers; UsageError if they do not fit ``count``."""
    if path.is_file():
        names = tuple(listed(path))
        if count not in (None, len(names)):
            raise UsageError(f"{path}: {len(names)} class names, but classes={count}")
    elif count is None:
        raise UsageError(
            f"{path.parent}: masks need their number of classes; expected classes=N or one name per line in {path}"
        )
    else:
        names = tuple(f"class {c}" for c in range(count))
    if not 1 <= len(names) <= VOID:
        raise UsageError(f"{path.parent}: {len(names)} classes; allowed are 1 to {VOID}")
    return names


def files(paths: Sequence[Path]) -> Dataset:
    """Single photographs without masks, named by their stems, or by their paths where two stems are the same.

    Raises:
        DataError: a file that is not there, or that is given twice.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: {'a folder; use --data folder:PATH' if path.is_dir() else 'no such file'}")
    stems = [path.stem for path in paths]
    names = [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]
    return Dataset(name=FILES, items=tuple(Item(name, path, None) for name, path in zip(names, paths, strict=True)))

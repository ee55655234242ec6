"""Data sets of the Hugging Face library ``datasets``, from a local folder or the hub."""

import hashlib
from pathlib import Path
from typing import Any

from segtrans.data.base import VOID, Dataset, Item, colours
from segtrans.data.folder import class_names
from segtrans.errors import DataError, MissingError, UsageError, check_whole, optional, reason, unknown
from segtrans.io import write_atomically


def huggingface(
    root: Path,
    split: str | None = None,
    image: str = "image",
    mask: str | None = None,
    classes: int | None = None,
    first: int = 0,
    cache: Path | None = None,
) -> Dataset:
    """A Hugging Face data set, named by its row numbers.

    Pictures that are files stay where they are; those inside of tables are copied, byte by byte, into a folder.

    Args:
        root: a folder made by ``save_to_disk``, or one that ``load_dataset`` reads (parquet, pictures with metadata);
            else an id on the hub.
        split: its part; ``load_dataset`` also takes ``validation[:100]``. By default the only one of a folder that
            holds one, else ``validation``.
        image: the column of images.
        mask: that of masks of class ids, 255 = void; left out, there are none.
        classes: number of classes; may be left out if ``root/classes.txt`` holds one class name per line.
        first: the mask value of the first class; lower ones are void.
        cache: the folder for copies; by default one in the cache of ``datasets``.
    """
    library, table = _table(root, split)
    columns = [image] if mask is None else [image, mask]
    for column in columns:
        kind = table.features.get(column)
        if not isinstance(kind, library.Image):
            pictures = [name for name, feature in table.features.items() if isinstance(feature, library.Image)]
            raise unknown(f"column of pictures in {root}", column, pictures)
        table = table.cast_column(column, library.Image(decode=False))
    folder = cache or Path(library.config.HF_DATASETS_CACHE) / "segtrans"
    rows = [
        [_file(row[column], folder, f"{root}: row {number} of column {column!r}") for column in columns]
        for number, row in enumerate(table.select_columns(columns))
    ]
    items = tuple(Item(f"{i:06}", files[0], files[1] if mask else None) for i, files in enumerate(rows))
    if mask is None:
        if classes is not None:
            raise UsageError(f"{root}: classes={classes} but no masks; add mask=COLUMN")
        return Dataset(name=root.name, items=items)
    names = class_names(root / "classes.txt", classes)
    check_whole("first", first, 0)
    known = range(first, first + len(names))
    if known.stop > 256:
        raise UsageError(f"{root}: {len(names)} classes from mask value {first} on; masks have values up to 255")
    values = tuple(v - first if v in known else VOID if v < first or v == VOID else -1 for v in range(256))
    return Dataset(name=root.name, items=items, classes=names, palette=colours(len(names)), values=values)


def _table(root: Path, named: str | None) -> tuple[Any, Any]:
    """The library, and one split of a data set."""
    split = named or "validation"
    with optional("a data set named hf:…", "hf"):
        import datasets
    library: Any = datasets
    local = root.is_dir()
    if not local and str(root).startswith(("/", ".", "~")):
        raise DataError(f"{root}: no such folder")
    try:
        if not local or not any((root / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            return library, library.load_dataset(str(root), split=split)
        saved = library.load_from_disk(root)
    except Exception as error:
        if local:
            raise DataError(f"{root}: not a data set whose split {split!r} can be loaded ({reason(error)})") from error
        raise MissingError(
            f"{str(root)!r} is no folder here, and split {split!r} could not be had from the hub ({reason(error)})"
        ) from error
    if isinstance(saved, library.DatasetDict):
        if split not in saved:
            raise unknown(f"split of {root}", split, saved)
        saved = saved[split]
    elif named and saved.split is not None and named != str(saved.split):
        raise UsageError(f"{root} is split {str(saved.split)!r} alone, and split is {split!r}")
    return library, saved


def _file(picture: dict[str, Any] | None, folder: Path, where: str) -> Path:
    """Where a picture lies, or is put."""
    if picture is None:
        raise DataError(f"{where} is empty; expected a picture")
    content: bytes | None = picture["bytes"]
    if content is None:
        return Path(picture["path"])
    # Named by its content, so that it is written once and never wrong.
    path = folder / hashlib.sha256(content).hexdigest()
    if not path.is_file():
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path

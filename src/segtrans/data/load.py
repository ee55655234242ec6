"""Data sets by name: ``voc:PATH?split=train`` and the like."""

from collections.abc import Callable
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

from segtrans.data.ade20k import ade20k
from segtrans.data.base import Dataset, listed
from segtrans.data.camvid import camvid
from segtrans.data.cityscapes import cityscapes
from segtrans.data.folder import folder
from segtrans.data.huggingface import huggingface
from segtrans.data.photos import photos
from segtrans.data.voc import voc
from segtrans.errors import DataError, UsageError, unknown
from segtrans.paths import at_home
from segtrans.plugins import Names
from segtrans.spec import spelled_options, typed_options

READERS: Names[Callable[..., Dataset]] = Names(
    "data set",
    "segtrans.data",
    {
        "ade20k": ade20k,
        "camvid": camvid,
        "cityscapes": cityscapes,
        "folder": folder,
        "hf": huggingface,
        "photos": photos,
        "voc": voc,
    },
)
"""A reader takes ``root`` (unless it needs no folder) and options typed ``str``, ``int`` or ``Path``, each or None."""


def load_data(spec: str) -> Dataset:
    """The data set that ``spec`` spells: ``SOURCE:PATH``, then options as ``?KEY=VALUE&KEY=VALUE``.

    ========================  ==============================================================
    ``voc:PATH``              PASCAL VOC 2012, ``split=val``
    ``cityscapes:PATH``       Cityscapes, ``split=val``
    ``camvid:PATH``           CamVid in the SegNet layout, ``split=test``
    ``ade20k:PATH``           ADE20K scene parsing, ``split=validation``
    ``folder:PATH``           your own images; ``masks=PATH``, ``classes=N``, ``side=N``
    ``hf:FOLDER`` or ``:ID``  Hugging Face; ``split=validation``, ``image=``, ``mask=``, ``classes=N``, ``first=0``
    ``photos``                six photographs that need no download; ``side=288``
    ========================  ==============================================================

    With ``names=FILE`` it has only the images that a text file names, one per line, in the order of these lines.

    Paths are taken literally, apart from a leading ``~``; one that contains ``?`` or ``&`` cannot be spelled here.

    Raises:
        UsageError: an unknown source or option, or a value of the wrong type.
        DataError: the folder does not hold what its source expects, or what ``names`` says.
    """
    head, _, query = spec.partition("?")
    source, _, path = head.partition(":")
    if source not in READERS:
        raise unknown("data set", source, READERS)
    read = READERS[source]
    options = dict(signature(read).parameters)
    roots: list[Path] = []
    if options.pop("root", None) is not None:
        if not path:
            raise UsageError(f"data set {source!r} needs a folder: {source}:PATH")
        roots.append(at_home(path))
    elif path:
        raise UsageError(f"data set {source!r} takes no path, got {path!r}")
    # Images are picked from every data set in the same way.
    options["names"] = Parameter("names", Parameter.KEYWORD_ONLY, default=None, annotation=Path)
    of = f"data set {source!r}"
    values = typed_options(spelled_options(query, of), options, of)
    names = values.pop("names", None)
    data = read(*roots, **values)
    if not isinstance(cast(Any, data), Dataset):
        raise UsageError(f"the reader of data set {source!r} made a {type(data).__name__}; expected a Dataset")
    return data if names is None else _named(data, names)


def _named(data: Dataset, file: Path) -> Dataset:
    """Of a data set the images that a file names."""
    items = {item.name: item for item in data.items}
    names = listed(file)
    if not names:
        raise DataError(f"{file} names no image")
    if lacking := [name for name in names if name not in items]:
        raise DataError(f"{file} names {lacking[0]!r}; data set {data.name!r} has no such image")
    return replace(data, items=tuple(items[name] for name in names))

"""Archives: unpacked as a whole or not at all, and never outside their folder."""

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from segtrans.errors import DataError, UsageError

GROWTH = 100
"""How many times an archive's size its files may have; images and weights grow little, bombs a thousandfold."""
LEAST = 2**30
"""Bytes that the files of the smallest archive may have."""
MOST_FILES = 2**21
_CHUNK = 2**20
_LONGEST_HEADER = 2**22
_PLAIN, _FOLDER = stat.S_IFREG, stat.S_IFDIR
_DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGES = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, RuntimeError, ValueError, LookupError, OverflowError),
)


class _RefusedError(Exception):
    """Why an archive is; the archive's name is put before."""


@dataclass(frozen=True)
class _Member:
    """``kind`` is a file's, as :mod:`stat` has it, and 0 for what is neither a file nor a folder."""

    name: str
    kind: int
    size: int
    open: Callable[[], IO[bytes] | None]


class _Wary:
    """A file of which nobody reads much at once; the tar reader would take a header for as long as it says it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise _RefusedError(f"has a header of {size} bytes, refused")
        return self._read(size)


def check_new(folder: Path) -> None:
    """UsageError where something is there already."""
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already; give a new folder")


def unpack(archive: Path, folder: Path, most: int | None = None) -> None:
    """Unpack a ``.zip``, ``.tar``, ``.tar.gz``, ``.tar.bz2`` or ``.tar.xz``, told by its content, into a new folder.

    There may be files and folders in it, nothing else: links are refused even where they stay inside. Owners, rights
    and times are not restored.

    Args:
        archive: the file.
        folder: appears when everything is in it.
        most: bytes of all files together; by default a hundred times those of the archive, and at least 1 GiB.

    Raises:
        UsageError: the folder exists.
        DataError: the archive is missing or damaged, or a member has an absolute path, ``..`` or a backslash in it, is
            a link or a device, has the place of another, or is too much.
    """
    check_new(folder)
    if not archive.is_file():
        raise DataError(f"{archive}: no such file")
    most = max(LEAST, GROWTH * archive.stat().st_size) if most is None else most
    left = most
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        # zipfile.is_zipfile also finds a zip file in a tar file.
        with archive.open("rb") as file:
            members = _zipped if file.read(2) == b"PK" else _tarred
        for number, member in enumerate(members(archive), 1):
            left -= member.size
            if left < 0 or number > MOST_FILES:
                raise _RefusedError(
                    f"with {member.name!r} its files have more than {most} bytes or number {MOST_FILES}"
                )
            _put(member, temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except _RefusedError as error:
        raise DataError(f"{archive}: {error}") from None
    except _DAMAGES as error:
        raise DataError(f"{archive}: not a readable archive ({error})") from None
    except OSError as error:
        if error.errno is not None:  # the disk's; decompressors give no number
            raise
        raise DataError(f"{archive}: not a readable archive ({error})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _zipped(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            # Not every writer notes what kind of file a member is.
            kind = stat.S_IFMT(info.external_attr >> 16) or (_FOLDER if info.is_dir() else _PLAIN)
            yield _Member(info.filename, kind, info.file_size, partial(opened.open, info))


def _tarred(archive: Path) -> Iterator[_Member]:
    with archive.open("rb") as file:
        start = file.read(6)
        decompress = next((d for magic, d in _DECOMPRESSORS.items() if start.startswith(magic)), None)
        file.seek(0)
        stream = _Wary(decompress(file) if decompress else file)
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:") as opened:
            for info in opened:
                kind = _FOLDER if info.isdir() else _PLAIN if info.isreg() and not info.issparse() else 0
                yield _Member(info.name, kind, info.size, partial(opened.extractfile, info))
            # A damaged header passes for the end, and a checksum comes last of all.
            stream.seek(opened.offset)
            if stream.read(_LONGEST_HEADER).strip(b"\0"):
                raise _RefusedError(f"damaged at byte {opened.offset}, or has more than one archive in it")


def _put(member: _Member, root: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise _RefusedError(f"{member.name!r} leads out of the folder, refused")
    if member.kind not in (_PLAIN, _FOLDER):
        raise _RefusedError(f"{member.name!r} is a link or a device; only files and folders are unpacked")
    path = root / name
    try:
        (path if member.kind == _FOLDER else path.parent).mkdir(parents=True, exist_ok=True)
        if member.kind == _FOLDER:
            return
        target = path.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        # Also where the file system takes names for the same that differ in their case.
        raise _RefusedError(f"{member.name!r} has the place of another member") from None
    with target:
        source = member.open()
        assert source is not None, "a plain file"
        with source:
            shutil.copyfileobj(source, target, _CHUNK)
        if target.tell() != member.size:
            raise _RefusedError(f"{member.name!r} has {target.tell()} bytes instead of {member.size}")

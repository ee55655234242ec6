"""Where results lie: an immutable shard per finished piece of work, images and masks as PNG, all in one folder."""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from segtrans.io import write_atomically

_BLANK = b"0" * 64


def slug(name: str) -> str:
    """A file name for any name: its readable end, and a hash that keeps different names apart; those with capitals
    have one too, since not all disks tell them from small letters.
    """
    # In an attack's settings there are fractions and no folders.
    tail = name if "(" in name else re.split(r"[/\\]", name.partition("?")[0].rstrip("/\\"))[-1]
    plain = re.sub(r"[^\w.-]+", "_", tail.rpartition(":")[2])
    # Disks count bytes, of which a letter may take four.
    plain = plain.encode()[-60:].decode(errors="ignore").strip("._") or "unnamed"
    return plain if plain == name.lower() else f"{plain}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def fingerprint(identity: Any) -> str:
    """SHA-256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Shard:
    """What a piece of work left: named tensors and a JSON-able header."""

    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any]


@dataclass(frozen=True)
class Store:
    """A results folder. Everything in ``units/``, ``images/`` and ``masks/`` lies under a name that holds part of the
    fingerprint of what decided it, so that runs with other settings never overwrite it.
    """

    root: Path

    def shard_path(self, name: str) -> Path:
        return self.root / "units" / f"{name}.safetensors"

    def read(self, name: str, identity: str) -> Shard | None:
        """A finished shard, or None if it is missing, damaged in any byte, or the outcome of something else."""
        try:
            raw = self.shard_path(name).read_bytes()
            length = int.from_bytes(raw[:8], "little")
            header = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["segtrans"])
            intact = header["checksum"] == _checksum(raw.replace(header["checksum"].encode(), _BLANK, 1))
            if not intact or header["identity"] != identity:
                return None
            return Shard(load(raw), header["content"])
        except (FileNotFoundError, SafetensorError, AttributeError, KeyError, TypeError, ValueError):
            return None

    def write(self, name: str, identity: str, shard: Shard) -> None:
        """Keep a finished shard: all of it or nothing."""
        # The checksum is of the whole file with a blank in the checksum's own place, which comes first.
        header = {"checksum": _BLANK.decode(), "identity": identity, "content": dict(shard.header)}
        tensors = {name: value.contiguous() for name, value in shard.tensors.items()}
        raw = save(tensors, {"segtrans": json.dumps(header)})
        raw = raw.replace(_BLANK, _checksum(raw).encode(), 1)
        write_atomically(self.shard_path(name), lambda path: path.write_bytes(raw))

    @contextmanager
    def claim(self, identity: str) -> Generator[bool]:
        """Whether the work of this identity is this process's; until the block ends it is no other's.

        It is a lock that the operating system drops with the process, however that ends. Where a file system knows no
        locks everybody may, and the same work may be done twice, to the same end.
        """
        path = self.root / "units" / "claims"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            try:
                # One byte of one file per piece of work, far beyond the end of the file.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(identity[:15], 16))
                mine = True
            except OSError as error:
                mine = error.errno not in (errno.EACCES, errno.EAGAIN)
            yield mine

    def png(self, folder: str, image: str) -> Path:
        """Where the PNG of an image lies within ``folder``."""
        return self.root / folder / f"{slug(image)}.png"


def _checksum(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()

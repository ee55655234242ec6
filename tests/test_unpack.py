"""Archives made with ill intent, damaged and sound ones."""

import gzip
import io
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtrans import unpack as module
from segtrans.errors import DataError, UsageError
from segtrans.unpack import unpack

FILES = {"images/a.png": b"pixels" * 900, "images/b.png": b"", "notes": b"words"}


def tarred(path: Path, *members: tuple[str, bytes | dict[str, Any]], mode: str = "w") -> Path:
    """Members by name: content, or the header's fields."""
    with tarfile.open(path, mode) as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            content = what if isinstance(what, bytes) else b""
            info.size = len(content)
            for field, value in what.items() if isinstance(what, dict) else ():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *members: tuple[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder, also links that lead nowhere."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz", "tbz", "txz"])
def test_files_come_out_as_they_were(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "data"  # no suffix tells
    if kind == "zip":
        zipped(archive, ("images/", b""), *FILES.items(), ("empty/", b""))
    else:
        mode = {"tar": "w", "tgz": "w:gz", "tbz": "w:bz2", "txz": "w:xz"}[kind]
        folder = {"type": tarfile.DIRTYPE}
        tarred(archive, (".", folder), ("images", folder), *FILES.items(), ("./empty", folder), mode=mode)
    unpack(archive, tmp_path / "new" / "out")
    assert tree(tmp_path / "new" / "out") == {**FILES, "images": None, "empty": None}
    assert stat.S_IMODE((tmp_path / "new" / "out").stat().st_mode) == 0o755
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_in_an_archive_is_a_file(tmp_path: Path, mode: str) -> None:
    inner = zipped(tmp_path / "inner.zip", ("words", b"stored")).read_bytes()
    tarred(tmp_path / "a", ("notes", b"words"), ("inner.zip", inner), mode=mode)
    unpack(tmp_path / "a", tmp_path / "out")
    assert tree(tmp_path / "out") == {"notes": b"words", "inner.zip": inner}


def test_rights_are_not_restored(tmp_path: Path) -> None:
    tarred(tmp_path / "a.tar", ("run", {"mode": 0o4777}))
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert not (tmp_path / "out" / "run").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)


def _link(kind: bytes, to: str) -> dict[str, Any]:
    return {"type": kind, "linkname": to}


def _bomb(path: Path) -> Path:
    return tarred(path, ("zeros", bytes(40_000_000)), mode="w:gz")


def _long_header(path: Path) -> Path:
    """A few bytes that unpack to a header of a gigabyte, were it read."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    path.write_bytes(gzip.compress(info.tobuf() + bytes(2**20)))
    return path


OUT = "leads out of the folder, refused"
LINK = "is a link or a device; only files and folders are unpacked"

HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absolute": (lambda p: tarred(p, (f"{p.parent}/work/x", b"x")), f"'ROOT/x' {OUT}"),
    "absolute in zip": (lambda p: zipped(p, (f"{p.parent}/work/x", b"x")), f"'ROOT/x' {OUT}"),
    "dots": (lambda p: tarred(p, ("../evil", b"x")), f"'../evil' {OUT}"),
    "dots within": (lambda p: tarred(p, ("a/../../evil", b"x"), mode="w:gz"), f"'a/../../evil' {OUT}"),
    "dots in zip": (lambda p: zipped(p, ("../evil", b"x")), f"'../evil' {OUT}"),
    "folder of dots": (lambda p: tarred(p, ("../evil", {"type": tarfile.DIRTYPE})), f"'../evil' {OUT}"),
    "backslashes": (lambda p: zipped(p, ("..\\evil", b"x")), f"'..\\\\evil' {OUT}"),
    "symlink": (lambda p: tarred(p, ("to", _link(tarfile.SYMTYPE, "..")), ("to/evil", b"x")), f"'to' {LINK}"),
    "symlink in zip": (lambda p: zipped(p, ("to", b".."), mode=stat.S_IFLNK | 0o777), f"'to' {LINK}"),
    "symlink to a file": (
        lambda p: tarred(p, ("to", _link(tarfile.SYMTYPE, "../victim")), ("to", b"x")),
        f"'to' {LINK}",
    ),
    "hard link": (lambda p: tarred(p, ("to", _link(tarfile.LNKTYPE, "../victim")), ("to", b"x")), f"'to' {LINK}"),
    "fifo": (lambda p: tarred(p, ("pipe", {"type": tarfile.FIFOTYPE})), f"'pipe' {LINK}"),
    "device": (
        lambda p: tarred(p, ("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})),
        "'null' " + LINK,
    ),
    "device in zip": (lambda p: zipped(p, ("null", b""), mode=stat.S_IFCHR), f"'null' {LINK}"),
    "bomb": (_bomb, "with 'zeros' its files have more than 20000000 bytes or number 2097152"),
    "bomb in zip": (
        lambda p: zipped(p, *((f"{i}", bytes(12_000_000)) for i in range(2))),
        "with '1' its files have more than 20000000 bytes or number 2097152",
    ),
    "long header": (_long_header, "has a header of 1073741824 bytes, refused"),
    "twice": (lambda p: tarred(p, ("a", b"x"), ("./a", b"y")), "'./a' has the place of another member"),
    "file for a folder": (lambda p: tarred(p, ("a", b"x"), ("a/b", b"y")), "'a/b' has the place of another member"),
    "no name": (lambda p: zipped(p, (".", b"x")), "'.' has the place of another member"),
    "newline": (lambda p: tarred(p, ("../a\nb", b"x")), f"'../a\\nb' {OUT}"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_by_name_and_leave_nothing(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = HOSTILE[case]
    monkeypatch.setattr(module, "LEAST", 20_000_000)
    root = tmp_path / "work"
    root.mkdir()
    (root / "victim").write_bytes(b"mine")
    archive = make(tmp_path / "evil")
    with pytest.raises(DataError) as caught:
        unpack(archive, root / "out")
    assert str(caught.value) == f"{archive}: {message}".replace("ROOT", str(root))
    assert tree(root) == {"victim": b"mine"}
    assert {path.name for path in tmp_path.iterdir()} == {"work", "evil"}


def test_more_behind_the_end_is_not_lost_silently(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar", ("a", b"x"))
    archive.write_bytes(archive.read_bytes() * 2)
    with pytest.raises(DataError, match="damaged at byte 1024, or has more than one archive in it"):
        unpack(archive, tmp_path / "out")


def test_limits_are_as_they_are_said(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar", ("a", b"12345"), ("b", b"12345"))
    unpack(archive, tmp_path / "fits", most=10)
    with pytest.raises(DataError, match="with 'b' its files have more than 9 bytes"):
        unpack(archive, tmp_path / "not", most=9)
    assert module.LEAST == 2**30


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 3)
    with pytest.raises(DataError, match=r"with '3' its files .* number 3"):
        unpack(zipped(tmp_path / "a.zip", *((f"{i}", b"") for i in range(5))), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_zip_whose_sizes_lie(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", ("a", bytes(1000)))
    raw = archive.read_bytes().replace(struct.pack("<L", 1000), struct.pack("<L", 10))
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="not a readable archive"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_only_new_folders_are_filled(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar", ("a", b"x"))
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "there", tmp_path / "link", archive):
        with pytest.raises(UsageError, match="exists already; give a new folder"):
            unpack(archive, folder)
    with pytest.raises(DataError, match="none: no such file"):
        unpack(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["tar", "tgz", "tbz", "txz", "zip"])
def test_damage_never_leaves_half_of_an_archive(tmp_path: Path, kind: str) -> None:
    chance = random.Random(0)
    files = {f"{i}": chance.randbytes(700) for i in range(5)}
    archive = tmp_path / "a"
    if kind == "zip":
        zipped(archive, *files.items())
    else:
        tarred(archive, *files.items(), mode={"tar": "w", "tgz": "w:gz", "tbz": "w:bz2", "txz": "w:xz"}[kind])
    raw = archive.read_bytes()
    content = len(raw) if kind != "tar" else 5 * (512 + 1024)
    said: list[str] = []
    for number in range(80):
        damaged = bytearray(raw)
        place = chance.randrange(content)
        if number % 2:
            damaged[place] ^= 1 << chance.randrange(8)
        else:
            del damaged[place:]
        archive.write_bytes(damaged)
        try:
            unpack(archive, tmp_path / f"out{number}")
        except DataError as error:
            said.append(str(error))
            assert not (tmp_path / f"out{number}").exists()
        assert not list(tmp_path.glob(".*")), "no temporary folder is left"
    assert all(one.startswith(f"{archive}: ") and "\n" not in one for one in said)
    # Names, dates and padding may change, and a tar has no checksum of its content.
    assert len(said) >= {"tar": 40, "zip": 60}.get(kind, 75)


def test_a_full_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        unpack(tarred(tmp_path / "a.tar", ("a", b"x")), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]

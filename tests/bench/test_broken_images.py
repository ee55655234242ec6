"""A folder in which most images are broken, each in its own way: the run names them and goes on with the rest."""

import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segtrans.bench import plan as planning
from segtrans.cli import main
from segtrans.models import SegModel

CLASSES = 3
SIZE = (24, 20)
RGB = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
PHOTO = Image.fromarray(RGB)
IDS = RGB[..., 0] % CLASSES


def encoded(kind: str, image: Image.Image = PHOTO, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def cut(kind: str, share: float) -> bytes:
    raw = encoded(kind)
    return raw[: int(share * len(raw))]


def flipped(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 0x10]) + raw[place + 1 :]


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header says that it has so many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    raw = encoded("PNG")
    return raw[:12] + header + struct.pack(">I", zlib.crc32(header)) + raw[33:]


PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"

IMAGES: dict[str, bytes | Callable[[Path], object]] = {
    **{f"jpeg-{share}.jpg": cut("JPEG", share) for share in (0.1, 0.5, 0.9)},
    **{f"png-{share}.png": cut("PNG", share) for share in (0.005, 0.02, 0.5)},
    **{f"{kind.lower()}-cut.{kind.lower()}": cut(kind, 0.5) for kind in ("WEBP", "TIFF", "BMP", "PPM")},
    "flipped-header.png": flipped(encoded("PNG"), 20),
    "flipped-content.png": flipped(encoded("PNG"), 60),
    "empty.png": b"",
    "zeros.png": bytes(500),
    "noise.jpg": np.random.default_rng(1).bytes(500),
    "text.png": b"hello",
    "text16.png": "hello".encode("utf-16"),
    "page.jpg": PAGE,
    "pointer.png": POINTER,
    "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>',
    "postscript.jpg": POSTSCRIPT,
    "gif.png": encoded("GIF"),
    "zip.png": b"PK\x05\x06" + bytes(18),
    "huge.png": claiming(60_000, 60_000),
    "wide.png": claiming(2**31 - 1, 1),
    "flat.png": claiming(24, 0),
    "deep.png": encoded("PNG", Image.fromarray(IDS.astype(np.uint16) * 999)),
    "float.tif": encoded("TIFF", Image.fromarray(IDS.astype(np.float32))),
    "moving.png": encoded("PNG", save_all=True, append_images=[PHOTO.rotate(90)]),
    "moving.webp": encoded("WEBP", save_all=True, append_images=[PHOTO.rotate(90)]),
    "pages.tif": encoded("TIFF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "folder.png": Path.mkdir,
    "pipe.png": os.mkfifo,
    "lost.png": lambda path: path.symlink_to("nowhere.png"),
    "round.png": lambda path: path.symlink_to(path.name),
}
MASKS: dict[str, bytes | Callable[[Path], object]] = {
    "mask-size": encoded("PNG", Image.fromarray(IDS[:, :-1])),
    "mask-turned": encoded("PNG", Image.fromarray(np.ascontiguousarray(IDS.T))),
    "mask-class": encoded("PNG", Image.fromarray(IDS + 1)),
    "mask-value": encoded("PNG", Image.fromarray(IDS.astype(np.uint16) + 255)),
    "mask-colours": encoded("PNG"),
    "mask-lossy": encoded("JPEG", Image.fromarray(IDS)),
    "mask-cut": encoded("PNG", Image.fromarray(IDS))[:60],
    "mask-empty": b"",
    "mask-page": PAGE,
    "mask-folder": Path.mkdir,
}
GOOD = {
    "plain.png": encoded("PNG"),
    "cmyk.jpg": encoded("JPEG", PHOTO.convert("CMYK"), quality=95),
    "png-in-truth.jpg": encoded("PNG", PHOTO.rotate(180)),
}


def put(path: Path, what: bytes | Callable[[Path], object]) -> None:
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        what(path)


def toy(name: str, device: str = "cpu") -> SegModel:
    with torch.random.fork_rng():
        torch.manual_seed(int(name.partition(":")[2]))
        return SegModel(nn.Conv2d(3, CLASSES, 3, padding=1), CLASSES, name=name).to(device)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, dict, str]]:
    """A run on these images and masks: its exit code, its document and what it complained of."""
    monkeypatch.setattr(planning, "load_model", toy)

    def run(name: str, images: dict, masks: dict) -> tuple[object, dict, str]:
        root = tmp_path / name
        for kind, files in (("images", images), ("masks", masks)):
            (root / kind).mkdir(parents=True)
            for file, what in files.items():
                put(root / kind / file, what)
        options = ["-s", "toy:0", "-t", "toy:1", "-a", "mi", "--iterations", "2", "--pictures", "0", "--json"]
        data = ("--data", f"folder:{root}?classes={CLASSES}", "--out", str(tmp_path / f"{name}-out"))
        monkeypatch.setattr(sys, "argv", ["segtrans", "run", *options, *data])
        with pytest.raises(SystemExit) as done:
            main()
        said, complained = capsys.readouterr()
        return done.value.code, json.loads(said) if said else {}, complained

    return run


def test_every_broken_image_is_named_and_the_good_ones_count(run: Callable[..., tuple[object, dict, str]]) -> None:
    sound = encoded("PNG", Image.fromarray(IDS))
    goods = {f"{Path(name).stem}.png": sound for name in GOOD}
    # Stems are names, and two kinds of moving images share one.
    broken = {f"{number:02}-{name}": what for number, (name, what) in enumerate(IMAGES.items())}
    images = {**GOOD, **broken, **{f"{name}.png": encoded("PNG") for name in MASKS}}
    masks = {**goods, **{f"{Path(name).stem}.png": sound for name in broken}}
    masks |= {f"{name}.png": what for name, what in MASKS.items()}
    expected = {Path(name).stem for name in (*broken, *MASKS)}
    assert len(expected) == len(IMAGES) + len(MASKS) >= 30

    code, document, complained = run("broken", images, masks)
    assert code == 3
    assert {failure["image"] for failure in document["failures"]} == expected
    assert len(document["failures"]) == len(expected), "each is named once"
    for failure in document["failures"]:
        folder = "masks" if failure["image"] in MASKS else "images"
        assert f"broken/{folder}/{failure['image']}." in failure["reason"], failure
        assert complained.count(f"failed: {failure['image']} ") == 1
    code, alone, _ = run("good", GOOD, goods)
    assert code == 0
    (ours,), (theirs,) = document["cells"], alone["cells"]
    assert ours["images"] == 3
    # Intervals depend on how many images there are to draw from.
    assert {k: v for k, v in ours.items() if "interval" not in k} == {
        k: v for k, v in theirs.items() if "interval" not in k
    }


def test_nothing_but_broken_images_is_an_error(run: Callable[..., tuple[object, dict, str]]) -> None:
    code, _, complained = run("broken", {"a.png": PAGE}, {"a.png": encoded("PNG", Image.fromarray(IDS))})
    assert code == 4
    assert "no image of 'broken' can be read; the first: " in complained


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_named(run: Callable[..., tuple[object, dict, str]]) -> None:
    def locked(path: Path) -> None:
        path.write_bytes(encoded("PNG"))
        path.chmod(0)

    sound = encoded("PNG", Image.fromarray(IDS))
    code, document, _ = run("locked", {"a.png": locked, **GOOD}, {f"{Path(n).stem}.png": sound for n in ("a", *GOOD)})
    assert code == 3
    assert [failure["image"] for failure in document["failures"]] == ["a"]

"""Strict readers and atomic writers."""

import io
import os
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segtrans.errors import DataError
from segtrans.io import (
    FORMATS,
    file_hash,
    lies_on_its_side,
    read_image,
    read_mask,
    to_pixels,
    to_tensor,
    write_atomically,
    write_image,
    write_json,
    write_text,
)

RGB = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
IDS = np.arange(9 * 14, dtype=np.uint8).reshape(9, 14)


def refused(message: str) -> "pytest.RaisesExc[DataError]":
    return pytest.raises(DataError, match=re.escape(message))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims width × height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", "png"),
        ("1", "png"),
        ("P", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("RGB", "png"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("RGB", "ppm"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("YCbCr", "jpg"),
        ("L", "jpg"),
    ],
)
def test_every_photograph_becomes_rgb(tmp_path: Path, mode: str, suffix: str):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(RGB).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == RGB.shape
    assert image.dtype == np.uint8
    if mode == "L" and suffix == "png":
        assert (image == image[..., :1]).all()
    if mode == "CMYK" and suffix == "tif":
        assert np.abs(image.astype(int) - RGB).max() <= 2


def test_transparency_is_dropped_without_a_warning(tmp_path: Path):
    Image.fromarray(np.dstack([RGB, IDS])).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png"), RGB)
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.array(palette.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_photographs_and_masks_are_turned_upright(tmp_path: Path, orientation: int, suffix: str):
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
        8: lambda a: np.rot90(a),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif, **options)
    assert np.array_equal(read_image(path), upright(RGB))
    assert lies_on_its_side(path) == (orientation >= 5)
    if suffix != "webp":
        Image.fromarray(IDS).save(path, exif=exif)
        assert np.array_equal(read_mask(path), upright(IDS))


@pytest.mark.parametrize("kind", ["I;16", "I", "F"])
def test_photographs_of_more_than_8_bits_are_refused(tmp_path: Path, kind: str):
    path = tmp_path / "deep.tif"
    deep = IDS.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[kind])
    Image.fromarray(deep * 200).save(path)
    with refused(f"{path}: image has mode {kind}; allowed are 8 bits per channel in 1, L, "):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
class TestDamage:
    def test_missing(self, tmp_path: Path, read):
        with refused(f"{tmp_path}/x.png: no such file"):
            read(tmp_path / "x.png")

    def test_a_folder(self, tmp_path: Path, read):
        with refused(f"{tmp_path}: not a readable image"):
            read(tmp_path)

    def test_empty(self, tmp_path: Path, read):
        (tmp_path / "x.jpg").touch()
        with refused(f"{tmp_path}/x.jpg: 0 bytes that are no image of a format read here (BMP, JPEG, PNG"):
            read(tmp_path / "x.jpg")

    def test_text_named_png(self, tmp_path: Path, read):
        (tmp_path / "x.png").write_text("hello")
        with refused(f"{tmp_path}/x.png: 5 bytes that are no image"):
            read(tmp_path / "x.png")

    def test_postscript_is_never_run(self, tmp_path: Path, read):
        (tmp_path / "x.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
        assert "EPS" not in FORMATS
        with refused("bytes that are no image"):
            read(tmp_path / "x.jpg")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
    def test_truncated(self, tmp_path: Path, read, kind: str):
        large = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        raw = encoded(large.convert("L"), kind)
        (tmp_path / "x.png").write_bytes(raw[: len(raw) // 2])
        with refused(f"{tmp_path}/x.png: not a readable image ("):
            read(tmp_path / "x.png")

    @pytest.mark.parametrize("side", [8200, 10_000, 60_000])
    def test_decompression_bomb(self, tmp_path: Path, read, side: int):
        (tmp_path / "x.png").write_bytes(claiming(side, side))
        with refused(f"{tmp_path}/x.png: more than 67108864 pixels, refused"):
            read(tmp_path / "x.png")

    def test_random_damage_never_escapes(self, tmp_path: Path, read):
        rng = random.Random(0)
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "x"
        outcomes: set[str] = set()
        for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
            raw = encoded(Image.fromarray(IDS), kind, exif=exif)
            for _ in range(60):
                damaged = bytearray(raw[: rng.randrange(len(raw) // 2, len(raw))])
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
                path.write_bytes(damaged)
                try:
                    outcomes.add(str(read(path).dtype))
                except DataError as error:
                    outcomes.add(str(error).split(": ")[0])
        assert outcomes <= {"uint8", str(path)}
        assert str(path) in outcomes


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_masks_keep_their_ids(tmp_path: Path, kind: str):
    Image.fromarray(IDS).save(tmp_path / "m", kind)
    assert np.array_equal(read_mask(tmp_path / "m"), IDS)


def test_a_palette_mask_is_read_as_ids_whatever_its_colours(tmp_path: Path):
    image = Image.fromarray(IDS)
    image.putpalette([255 - i % 256 for i in range(768)])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), IDS)


def test_a_palette_of_four_colours_is_packed_and_read_as_ids(tmp_path: Path):
    image = Image.fromarray(IDS % 4)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(tmp_path / "m.png", bits=2)
    assert np.array_equal(read_mask(tmp_path / "m.png"), IDS % 4)


def test_a_mask_of_one_bit_holds_classes_0_and_1(tmp_path: Path):
    Image.fromarray(IDS % 2 == 1).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), IDS % 2)


def packed(bits: int, colour: int, rows: list[bytes], width: int) -> bytes:
    """A PNG of so many bits per channel, grey (0), in colour (2) or grey with alpha (4); Pillow cannot write all."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "row", "ids"), [(1, 0b10100000, [1, 0, 1, 0]), (2, 0b00011011, [0, 1, 2, 3]), (4, 0x1F, [1, 15])]
)
def test_masks_of_few_bits_keep_their_ids(tmp_path: Path, bits: int, row: int, ids: list[int]):
    (tmp_path / "x.png").write_bytes(packed(bits, 0, [bytes([row])] * 2, len(ids)))
    assert read_mask(tmp_path / "x.png").tolist() == [ids, ids]
    grey = [value * 255 // (2**bits - 1) for value in ids]
    assert read_image(tmp_path / "x.png")[0, :, 0].tolist() == grey, "as a photograph they are grey levels"


@pytest.mark.parametrize(
    ("head", "read"), [("P1 4 1", True), ("P2 4 1 255", True), ("P2 4 1 20", False), ("P2 4 1 300", False)]
)
def test_masks_in_text(tmp_path: Path, head: str, read: bool):
    path = tmp_path / "x.pgm"
    path.write_text(f"{head}\n0 1 1 0\n")
    if read:
        assert read_image(path).shape == (1, 4, 3)
        assert {*read_mask(path).flatten().tolist()} == {0, 1}
    else:
        reason = f"mask has grey levels of mode L up to {head.split()[-1]}, which are no class ids; allowed are 8 bits"
        with refused(f"{path}: {reason}"):
            read_mask(path)


@pytest.mark.parametrize(("colour", "channels", "mode"), [(2, 3, "RGB;16B"), (4, 2, "LA;16B"), (6, 4, "RGBA;16B")])
def test_photographs_of_16_bits_in_colour_are_refused(tmp_path: Path, colour: int, channels: int, mode: str):
    path = tmp_path / "x.png"
    path.write_bytes(packed(16, colour, [bytes(4 * channels)] * 2, 2))
    with refused(f"{path}: image has mode {mode}; allowed are 8 bits per channel"):
        read_image(path)


@pytest.mark.parametrize(("most", "read"), [(160, True), (16, True), (65535, False)])
def test_photographs_in_ppm_may_end_at_any_level_of_8_bits(tmp_path: Path, most: int, read: bool):
    path = tmp_path / "x.ppm"
    path.write_bytes(f"P6\n2 1\n{most}\n".encode() + bytes(6) * (1 if read else 2))
    if read:
        assert read_image(path).shape == (1, 2, 3)
    else:
        with refused(f"{path}: image has mode RGB up to 65535; allowed are 8 bits per channel"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_masks_of_16_bits(tmp_path: Path, suffix: str):
    path = tmp_path / f"m.{suffix}"
    Image.fromarray(IDS.astype(np.uint16)).save(path)
    assert np.array_equal(read_mask(path), IDS)
    Image.fromarray(IDS.astype(np.uint16) + 25_900).save(path)
    with refused(f"{path}: mask value {25_900 + int(IDS.max())} is out of range; allowed are 0 to 255"):
        read_mask(path)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_of_several_images_in_a_file_none_is_chosen_silently(tmp_path: Path, kind: str):
    frames = [Image.fromarray(IDS), Image.fromarray(IDS[::-1].copy())]
    frames[0].save(tmp_path / "x", kind, save_all=True, append_images=frames[1:])
    for read in (read_image, read_mask):
        with refused(f"{tmp_path}/x: 2 images in one file; allowed is one"):
            read(tmp_path / "x")


def test_a_camera_may_add_further_images_to_a_photograph(tmp_path: Path):
    photo = Image.fromarray(RGB)
    photo.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[photo.rotate(90)])
    photo.save(tmp_path / "alone.jpg")
    assert np.array_equal(read_image(tmp_path / "x.jpg"), read_image(tmp_path / "alone.jpg"))


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read):
    os.mkfifo(tmp_path / "x.png")
    with refused(f"{tmp_path}/x.png: not a readable image (it is no file)"):
        read(tmp_path / "x.png")


def test_negative_mask_values(tmp_path: Path):
    Image.fromarray(IDS.astype(np.int32) - 1).save(tmp_path / "m.tif")
    with refused(f"{tmp_path}/m.tif: mask value -1 is out of range; allowed are 0 to 255"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_in_colours_are_refused(tmp_path: Path, mode: str):
    path = tmp_path / "m.png"
    Image.fromarray(RGB).convert(mode).save(path)
    with refused(f"{path}: mask has mode {mode}; allowed are single-channel or palette images of class ids, not"):
        read_mask(path)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("TIFF", {"compression": "jpeg"})])
def test_lossy_masks_are_refused(tmp_path: Path, kind: str, options: dict[str, str]):
    path = tmp_path / "m.png"
    path.write_bytes(encoded(Image.fromarray(IDS), kind, **options))
    with refused(f"{path}: mask is compressed as JPEG, which alters class ids; allowed are lossless formats"):
        read_mask(path)


def test_names_with_spaces_and_unicode(tmp_path: Path):
    path = tmp_path / "Übung 1 — 写真?&=%20.png"
    write_image(path, RGB)
    assert np.array_equal(read_image(path), RGB)


def test_pixels_survive_the_round_trip_exactly():
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(every)
    assert tensor.shape == (3, 16, 16)
    assert (float(tensor.min()), float(tensor.max())) == (0, 1)
    assert np.array_equal(to_pixels(tensor), every)


def test_pixels_are_rounded_and_clamped():
    values = torch.tensor([7.6 / 255, 7.4 / 255, -0.1, 1.1]).view(1, 2, 2).repeat(3, 1, 1)
    assert to_pixels(values)[..., 0].flatten().tolist() == [8, 7, 0, 255]


def test_written_images_are_lossless(tmp_path: Path):
    write_image(tmp_path / "new" / "x.png", RGB)
    assert np.array_equal(read_image(tmp_path / "new" / "x.png"), RGB)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_json_is_readable_text(tmp_path: Path):
    write_json(tmp_path / "x.json", {"name": "Straße", "n": [1, 2]})
    assert "Straße" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_file_hash(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def bitmap(palette: list[int]) -> bytes:
    """A BMP of 8 bits per pixel, 0 and 1 in turns, with so many grey levels."""
    rows, start = bytes([0, 1] * 8) * 4, 54 + 4 * len(palette)
    colours = b"".join(bytes([level, level, level, 0]) for level in palette)
    head = struct.pack("<IiiHHIIiiII", 40, 16, 4, 1, 8, 0, len(rows), 0, 0, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + colours + rows


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_bytes_that_would_be_read_as_bits_are_refused(tmp_path: Path, read):
    path = tmp_path / "m.bmp"
    path.write_bytes(bitmap([0, 255]))
    with refused(f"{path}: a palette of two colours with 8 bits per pixel, which Pillow reads as single bits"):
        read(path)
    path.write_bytes(bitmap([7, 9]))
    assert read(path)[0, :2].tolist() in ([[7] * 3, [9] * 3], [0, 1])
    Image.fromarray(IDS % 2 == 1).save(path)
    assert read(path).shape[:2] == IDS.shape


def tiff(*tags: tuple[int, int], pixels: bytes, bits: list[int]) -> bytes:
    """An uncompressed TIFF of 4 × 1 pixels, which Pillow cannot write."""
    start = 8 + 2 + 12 * (len(tags) + 7) + 4
    plane, planes = len(pixels) // len(bits), len(bits)
    after = start + len(pixels)  # where what takes more than four bytes lies
    several = planes > 1
    shape = (256, 4, 1, 4), (257, 4, 1, 1), (259, 3, 1, 1), (277, 3, 1, planes)
    sizes = (258, 3, planes, after if several else bits[0]), (279, 4, planes, after + 6 * planes if several else plane)
    places = (273, 4, planes, after + 2 * planes if several else start)
    entries = sorted([*shape, *sizes, places, *((key, 3, 1, value) for key, value in tags)])
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    extra = struct.pack(f"<{planes}H", *bits)
    extra += struct.pack(f"<{planes}I", *(start + i * plane for i in range(planes)))
    extra += struct.pack(f"<{planes}I", *[plane] * planes)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + struct.pack("<I", 0)
    return head + pixels + (extra if several else b"")


def test_planes_of_16_bits_are_refused(tmp_path: Path):
    path = tmp_path / "planes.tif"
    path.write_bytes(tiff((262, 2), (284, 2), pixels=bytes(range(12)), bits=[8] * 3))
    assert read_image(path)[0].tolist() == [[i, 4 + i, 8 + i] for i in range(4)]
    path.write_bytes(tiff((262, 2), (284, 2), pixels=bytes(range(24)), bits=[16] * 3))
    with refused(f"{path}: image has mode R;16; allowed are 8 bits per channel"):
        read_image(path)


def test_bits_with_white_as_zero_are_no_class_ids(tmp_path: Path):
    path = tmp_path / "bits.tif"
    path.write_bytes(tiff((262, 1), (284, 1), pixels=b"\x50", bits=[1]))
    assert read_mask(path).tolist() == [[0, 1, 0, 1]]
    path.write_bytes(tiff((262, 0), (284, 1), pixels=b"\x50", bits=[1]))
    with refused(f"{path}: mask has grey levels of mode 1;I, which are no class ids"):
        read_mask(path)
    assert read_image(path)[0, :, 0].tolist() == [255, 0, 255, 0]

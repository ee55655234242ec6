"""Tiny synthetic data sets on disk, one per registered reader, in the layouts their owners publish."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZES = ((14, 9), (8, 11), (10, 10))
"""(width, height) of the three images of every tree."""


def photo(path: Path, size: tuple[int, int] = (14, 9), mode: str = "RGB", seed: int = 0) -> Path:
    """A noisy image of the given mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (14, 9), values: Sequence[int] = (0, 1), palette: bool = False) -> Path:
    """A single-channel (or palette) mask that runs through ``values`` pixel by pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.resize(np.array(values, dtype=np.uint8), (size[1], size[0]))
    image = Image.fromarray(ids)
    if palette:
        image.putpalette([(7 * i) % 256 for i in range(768)])
    image.save(path)
    return path


def _voc(root: Path) -> str:
    base = root / "VOCdevkit" / "VOC2012"
    for i, size in enumerate(SIZES):
        photo(base / "JPEGImages" / f"2007_00000{i}.jpg", size, seed=i)
        mask(base / "SegmentationClass" / f"2007_00000{i}.png", size, (0, i, 20, 255), palette=True)
    photo(base / "JPEGImages" / "2009_000001.jpg")  # an image of the detection task, in no segmentation list
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_000002\n2007_000000\n2007_000001\n")
    return f"voc:{root}"


def _cityscapes(root: Path) -> str:
    cities = ("aachen", "aachen", "bochum")
    for i, (city, size) in enumerate(zip(cities, SIZES, strict=True)):
        stem = f"{city}_00000{i}_000019"
        photo(root / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png", size, seed=i)
        fine = root / "gtFine" / "val" / city
        mask(fine / f"{stem}_gtFine_labelIds.png", size, range(34))
        photo(fine / f"{stem}_gtFine_color.png", size, "RGBA")
        mask(fine / f"{stem}_gtFine_instanceIds.png", size)
        (fine / f"{stem}_gtFine_polygons.json").write_text("{}")
    return f"cityscapes:{root}"


def _camvid(root: Path) -> str:
    lines: list[str] = []
    for i, size in enumerate(SIZES):
        photo(root / "test" / f"0001TP_00{i}.png", size, seed=i)
        mask(root / "testannot" / f"0001TP_00{i}.png", size, range(12))
        lines.append(f"/SegNet/CamVid/test/0001TP_00{i}.png /SegNet/CamVid/testannot/0001TP_00{i}.png")
    (root / "test.txt").write_text("\n".join(lines))
    return f"camvid:{root}"


def _ade20k(root: Path) -> str:
    base = root / "ADEChallengeData2016"
    for i, size in enumerate(SIZES):
        photo(base / "images" / "validation" / f"ADE_val_0000000{i}.jpg", size, seed=i)
        mask(base / "annotations" / "validation" / f"ADE_val_0000000{i}.png", size, (0, 1, 2 + i, 150))
    return f"ade20k:{root}"


def _folder(root: Path) -> str:
    for i, size in enumerate(SIZES):
        photo(root / "images" / f"Straße {i} – früh.v2.jpg", size, seed=i)
        mask(root / "masks" / f"Straße {i} – früh.v2.png", size, (0, 1, 2, 255))
    (root / "classes.txt").write_text("background\nred thing\nblue thing\n")
    return f"folder:{root}"


def _hf(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [], "annotation": []}
    for i, size in enumerate(SIZES):
        rows["image"].append(str(photo(root / f"{i}.jpg", size, seed=i)))
        rows["annotation"].append(str(mask(root / f"{i}.png", size, (0, 1, 2 + i, 150))))
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(dict.fromkeys(rows, datasets.Image())))
    table.save_to_disk(root / "saved")
    return f"hf:{root}/saved?mask=annotation&classes=150&first=1&cache={root}/copies"


def _photos(root: Path) -> str:
    return "photos?side=48"


TREES: dict[str, Callable[[Path], str]] = {
    "ade20k": _ade20k,
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "folder": _folder,
    "hf": _hf,
    "photos": _photos,
    "voc": _voc,
}
"""For each reader a function that builds its tree in a folder and returns how :func:`load_data` spells it."""

"""Cityscapes (Cordts et al., CVPR 2016), official layout with fine annotations."""

from pathlib import Path

from segtrans.data.base import VOID, Dataset, paired
from segtrans.errors import DataError

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each class; the other ids up to 33 are not evaluated."""


def _values() -> tuple[int, ...]:
    classes = {label: c for c, label in enumerate(LABEL_IDS)}
    return tuple(classes.get(v, VOID if v <= max(LABEL_IDS) or v == VOID else -1) for v in range(256))


def cityscapes(root: Path, split: str = "val") -> Dataset:
    """Cityscapes: the 19 evaluated classes, all other label ids = void.

    ``root`` holds ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``.
    """
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    cities = sorted(p.name for p in images.iterdir() if p.is_dir()) if images.is_dir() else []
    if not cities or not masks.is_dir():
        raise DataError(
            f"{root}: no Cityscapes split {split!r} here; expected leftImg8bit/{split}/CITY/*_leftImg8bit.png "
            f"and gtFine/{split}/CITY/*_gtFine_labelIds.png"
        )
    return Dataset(
        name="cityscapes",
        items=tuple(
            item
            for city in cities
            for item in paired(images / city, masks / city, image_tail="_leftImg8bit", mask_tail="_gtFine_labelIds")
        ),
        classes=CLASSES,
        palette=PALETTE,
        values=_values(),
    )

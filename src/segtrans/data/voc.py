"""PASCAL VOC 2012 (Everingham et al., IJCV 2015), official devkit layout or the SBD-augmented train folder."""

from pathlib import Path

from segtrans.data.base import Dataset, colours, identity_values, listed, paired
from segtrans.errors import DataError

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PALETTE = colours(len(CLASSES))


def voc(root: Path, split: str = "val") -> Dataset:
    """PASCAL VOC 2012 segmentation: 21 classes, 255 = void.

    ``root`` is the devkit (``VOCdevkit``, its parent, or ``VOC2012`` itself), or a folder with ``JPEGImages``,
    ``SegmentationClassAug`` and ``SPLIT.txt``.
    """
    for base in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        names = base / "ImageSets" / "Segmentation" / f"{split}.txt"
        if names.is_file():
            masks = base / "SegmentationClass"
            break
    else:
        base, names, masks = root, root / f"{split}.txt", root / "SegmentationClassAug"
        if not names.is_file():
            raise DataError(
                f"{root}: no PASCAL VOC split {split!r} here; expected JPEGImages/ beside "
                f"ImageSets/Segmentation/{split}.txt and SegmentationClass/, or {split}.txt and SegmentationClassAug/"
            )
    return Dataset(
        name="voc",
        items=paired(base / "JPEGImages", masks, listed(names)),
        classes=CLASSES,
        palette=PALETTE,
        values=identity_values(len(CLASSES)),
    )

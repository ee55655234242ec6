"""CamVid (Brostow et al., PRL 2009) in the 11-class SegNet layout."""

from pathlib import Path

from segtrans.data.base import Dataset, identity_values, listed, paired
from segtrans.errors import DataError

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
UNLABELLED = 11


def camvid(root: Path, split: str = "test") -> Dataset:
    """CamVid: 11 classes, mask value 11 = void; ``root`` holds ``SPLIT.txt``, ``SPLIT`` and ``SPLITannot``."""
    if not (root / f"{split}.txt").is_file():
        raise DataError(f"{root}: no CamVid split {split!r} here; expected {split}.txt, {split}/ and {split}annot/")
    # The SegNet list holds "image mask" path pairs, other copies bare names: the stem is what both share.
    names = [Path(line.split()[0]).stem for line in listed(root / f"{split}.txt")]
    return Dataset(
        name="camvid",
        items=paired(root / split, root / f"{split}annot", names),
        classes=CLASSES,
        palette=PALETTE,
        values=identity_values(len(CLASSES), void=(UNLABELLED,)),
    )

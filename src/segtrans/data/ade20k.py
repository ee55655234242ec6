"""ADE20K (Zhou et al., CVPR 2017) as in the Scene Parsing Challenge 2016."""

from pathlib import Path

from segtrans.data.base import VOID, Dataset, colours, paired
from segtrans.errors import DataError

CLASSES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet",
    "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
    "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk",
    "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column", "signboard",
    "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path",
    "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase",
    "blind", "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus", "towel", "light",
    "truck", "tower", "chandelier", "awning", "streetlight", "booth", "television receiver", "airplane",
    "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman", "bottle", "buffet", "poster",
    "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool",
    "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank",
    "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture",
    "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier", "crt screen", "plate", "monitor",
    "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
# The challenge names no colours; from the second on, so that no class is black.
PALETTE = colours(len(CLASSES), first=1)
SPLITS = {"val": "validation", "train": "training"}


def ade20k(root: Path, split: str = "validation") -> Dataset:
    """ADE20K: 150 classes, mask value 0 = void and 1 to 150 = classes 0 to 149.

    ``root`` is ``ADEChallengeData2016`` or its parent; ``split`` is ``validation`` or ``training``, or ``val`` or
    ``train`` for short.
    """
    split = SPLITS.get(split, split)
    for base in (root, root / "ADEChallengeData2016"):
        images, masks = base / "images" / split, base / "annotations" / split
        if images.is_dir() and masks.is_dir():
            break
    else:
        raise DataError(
            f"{root}: no ADE20K split {split!r} here; expected images/{split}/*.jpg and annotations/{split}/*.png"
        )
    return Dataset(
        name="ade20k",
        items=paired(images, masks),
        classes=CLASSES,
        palette=PALETTE,
        values=tuple(VOID if v == 0 else v - 1 if v <= len(CLASSES) else -1 for v in range(256)),
    )

"""What attacks look like: image, perturbation and predicted masks of one image on one surrogate, as one picture."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from segtrans.bench.store import slug
from segtrans.bench.summary import SAME_BACKBONE
from segtrans.data.base import VOID, Colour
from segtrans.errors import DataError, MissingError
from segtrans.io import Pixels, read_image, read_mask, write_image
from segtrans.report.content import CLEAN, Document, class_colours, is_control, short_names, targets
from segtrans.report.words import percent

Ids = npt.NDArray[np.uint8]

MOST_MODELS = 8
"""Columns of masks; further targets are in the tables only."""

AMPLIFICATION = 10
"""Perturbations are shown times this, around mid-grey."""

_TILE = 300  # side of a square tile; others have its area, as far as their captions fit and pages stay handy
_NARROWEST, _WIDEST = 210, 440
_MARGIN, _GAP, _GROUP_GAP = 28, 10, 30
_INK, _QUIET, _RULE, _PAPER = (24, 26, 30), (104, 108, 116), (200, 203, 208), (255, 255, 255)
VOID_COLOUR = (224, 224, 192)
_OPACITY = 0.68
# A class is in the legend if it covers this share of some mask: single stray pixels would fill the page with names.
_VISIBLE = 0.001


@dataclass(frozen=True)
class Picture:
    """A drawn picture: of which image, attacked on which surrogate, and where it lies."""

    image: str
    surrogate: str
    path: Path


@dataclass(frozen=True)
class Row:
    """Clean, or one attack: the image the models saw and what they made of it."""

    label: str
    note: str
    image: Pixels
    masks: list[Ids]


@dataclass(frozen=True)
class Column:
    """A model: its short name and its relation to the surrogate."""

    name: str
    note: str


@dataclass(frozen=True)
class Scene:
    """An image on a surrogate: the models that saw it, the surrogate first, with a column each; those of the document's
    rows of which all files are there, clean first; and the true mask, if there is one.
    """

    models: list[str]
    columns: list[Column]
    finished: list[dict[str, Any]]
    truth: Ids | None


def draw_pictures(run: Path, document: Document) -> list[Picture]:
    """Draw every pictured image of a finished run on every surrogate, with the run's first seed, as its document says.

    Each picture goes to ``RUN/pictures/IMAGE--SURROGATE.png``. Images and attacks that failed are left out. Pictures of
    images and surrogates that are not in the document, which an earlier run of the folder left, are removed.

    Raises:
        DataError: an image in the folder is damaged.
    """
    ours = {picture_path(run, entry) for entry in document["pictures"]}
    # Files that begin with a dot are being written.
    for stale in {*(run / "pictures").glob("[!.]*--*.png")} - ours:
        stale.unlink(missing_ok=True)
    drawn: list[Picture] = []
    for entry in document["pictures"]:
        canvas = _draw(document, run, entry)
        if canvas is not None:
            path = picture_path(run, entry)
            write_image(path, np.asarray(canvas))
            drawn.append(Picture(entry["name"], entry["surrogate"], path))
    return drawn


def picture_path(run: Path, entry: dict[str, Any]) -> Path:
    return run / "pictures" / f"{slug(entry['name'])}--{slug(entry['surrogate'])}.png"


def _draw(document: Document, run: Path, entry: dict[str, Any]) -> Image.Image | None:
    """The picture, or None where no attack on this image was finished."""
    scene = find_scene(document, run, entry, MOST_MODELS)
    if scene is None:
        return None
    others = [target for target in targets(document) if target != entry["surrogate"]]
    titles = ["surrogate", "target" if len(others) == 1 else "targets"]
    if len(others) >= MOST_MODELS:
        titles[1] = f"targets (the first {MOST_MODELS - 1} of {len(others)})"
    rows = [read_row(document, run, made, scene.models) for made in scene.finished]
    return _compose(rows, scene.columns, titles, scene.truth, class_colours(document))


def find_scene(document: Document, run: Path, entry: dict[str, Any], most: int | None = None) -> Scene | None:
    """What there is to show of a pictured image, on ``most`` models or all; None where no attack on it was finished,
    or a file of its clean row is lost.

    Raises:
        DataError: the true mask is damaged.
    """
    surrogate = entry["surrogate"]
    models = list(dict.fromkeys((surrogate, *targets(document))))[:most]

    def is_finished(made: dict[str, Any]) -> bool:
        files = (made["image"], made.get("labels"), *(made["masks"][model] for model in models))
        return all((run / file).is_file() for file in files if file is not None)

    # The control of the same name differs from the clean image in nothing that could be seen.
    attacked = [made for made in entry["rows"] if made["attack"] != CLEAN and is_finished(made)]
    if not (attacked and is_finished(entry)):
        return None
    names, ours = short_names(document), [cell for cell in document["cells"] if cell["surrogate"] == surrogate]
    akin = {cell["target"] for cell in ours if cell["block"] == SAME_BACKBONE}
    columns = [Column(names[model], SAME_BACKBONE if model in akin else "") for model in models]
    truth = None if entry["labels"] is None else read_mask(run / entry["labels"])
    return Scene(models, columns, [{"attack": CLEAN, **entry}, *attacked], truth)


def read_row(document: Document, run: Path, made: dict[str, Any], models: Sequence[str]) -> Row:
    """The image and the masks of these models of one of a scene's rows.

    Raises:
        DataError: one of the files is damaged, or a mask has another size than the image.
    """
    attack, image = made["attack"], run / made["image"]
    note = "control" if attack != CLEAN and is_control(document, attack) else ""
    row = Row(attack, note, read_image(image), [read_mask(run / made["masks"][model]) for model in models])
    if any(mask.shape != row.image.shape[:2] for mask in row.masks):
        raise DataError(f"{image}: its masks in this run's folder have another size")
    return row


def _compose(
    rows: Sequence[Row],
    headings: Sequence[Column],
    titles: Sequence[str],
    labels: Ids | None,
    classes: Sequence[tuple[str, Colour]],
) -> Image.Image:
    """Place everything on a white page: measure first, then draw."""
    clean = rows[0]
    height, width = clean.image.shape[:2]
    tile_width = min(max(round(_TILE * (width / height) ** 0.5), _NARROWEST), _WIDEST)
    tile = tile_width, max(1, round(tile_width * height / width))
    # Wide pictures are looked at smaller, so their letters are larger.
    size = 19 + max(0, len(headings) - 2)
    text, bold, small = _Type(size), _Type(size, bold=True), _Type(round(size * 0.84))

    lines = [bold.wrap(row.label, 9 * size, min(5, max(2, tile[1] // bold.height))) for row in rows]
    left = _MARGIN + max(bold.width(line) for line_set in lines for line in line_set)
    left = max(left, _MARGIN + small.width("control")) + _GROUP_GAP * 2 // 3
    columns = [left, left + tile[0] + _GAP]
    columns.append(columns[1] + tile[0] + _GROUP_GAP)
    columns += [columns[2] + tile[0] + _GROUP_GAP + i * (tile[0] + _GAP) for i in range(len(headings) - 1)]
    names = [text.wrap(heading.name, tile[0] - 6, 3) for heading in headings]
    header = text.height * max(2, max(map(len, names)))
    header += small.height if any(heading.note for heading in headings) else 0
    top = _MARGIN + small.height + 14 + header + 8
    captions = [small.height + 6 if row is not clean or labels is not None else 0 for row in rows]
    tops = [top + sum(tile[1] + _GAP + c for c in captions[:i]) for i in range(len(rows))]
    page_width = columns[-1] + tile[0] + _MARGIN
    swatches = legend(rows, labels, classes)
    places, bottom = _flow(swatches, small, left, page_width - _MARGIN, tops[-1] + tile[1] + captions[-1] + 22)
    page = Image.new("RGB", (page_width, bottom + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(page)

    _heads(pen, columns, tile[0], top, (titles, headings, names), (text, small))
    colours = np.array([colour for _, colour in classes], dtype=np.float32)
    grey = _grey(clean.image, tile)
    for row, y, label in zip(rows, tops, lines, strict=True):
        below = y + tile[1] + 4
        y_label = y + (tile[1] - bold.height * len(label) - (small.height if row.note else 0)) // 2
        for i, line in enumerate(label):
            pen.text((_MARGIN, y_label + i * bold.height), line, fill=_INK, font=bold.font)
        if row.note:
            pen.text((_MARGIN, y_label + len(label) * bold.height), row.note, fill=_QUIET, font=small.font)
        page.paste(photo(row.image, tile), (columns[0], y))
        if row is not clean or labels is None:
            page.paste(perturbation(row.image, clean.image, tile), (columns[1], y))
        if row is not clean:
            small.centred(pen, columns[1] + tile[0] // 2, below, strongest(row.image, clean.image))
        elif labels is not None:
            page.paste(_overlay(labels, grey, colours), (columns[1], y))
            small.centred(pen, columns[1] + tile[0] // 2, below, "ground truth")
        for x, mask, before in zip(columns[2:], row.masks, clean.masks, strict=True):
            page.paste(_overlay(mask, grey, colours), (x, y))
            note = caption(mask, before if row is not clean else None, labels)
            small.centred(pen, x + tile[0] // 2, below, note)
    for (x, y), (name, colour) in zip(places, swatches, strict=True):
        middle = y + small.height // 2
        pen.rectangle((x, middle - 8, x + 24, middle + 8), fill=blended(colour))
        pen.text((x + 32, y), name, fill=_INK, font=small.font)
    return page


class _Type:
    """A font at a size, and what is measured with it."""

    def __init__(self, size: int, *, bold: bool = False) -> None:
        # Matplotlib carries the only font that is surely there and knows Greek, Cyrillic and the signs we use.
        package = find_spec("matplotlib")
        if package is None or package.origin is None:
            raise MissingError("the font of pictures comes with matplotlib, which is not installed")
        fonts = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf"
        # The basic layout engine draws the same pixels whether or not libraqm is there.
        self.font = ImageFont.truetype(
            fonts / f"DejaVuSans{'-Bold' if bold else ''}.ttf", size, layout_engine=ImageFont.Layout.BASIC
        )
        self.height = round(size * 1.3)

    def width(self, text: str) -> int:
        return round(self.font.getlength(text))

    def centred(self, pen: ImageDraw.ImageDraw, x: int, y: int, text: str, fill: Colour = _QUIET) -> None:
        pen.text((x - self.width(text) // 2, y), text, fill=fill, font=self.font)

    def wrap(self, text: str, width: int, most: int) -> list[str]:
        """At most ``most`` lines of about equal length within ``width``, the last cut off where they do not suffice."""
        lines = self._broken(text, width)
        if len(lines) > most:
            last = lines[most - 1]
            while last and self.width(f"{last}…") > width:
                last = last[:-1]
            return [*lines[: most - 1], f"{last}…"]
        even, word = width, max(self.width(piece.rstrip()) for piece in _pieces(text))
        while even - 8 >= word and len(self._broken(text, even - 8)) == len(lines):
            even -= 8
        return self._broken(text, even)

    def _broken(self, text: str, width: int) -> list[str]:
        """Lines within ``width``, broken after separators, where need be within words."""
        lines = [""]
        for piece in _pieces(text):
            if self.width((lines[-1] + piece).rstrip()) > width and lines[-1]:
                lines.append("")
            for character in piece:
                if self.width((lines[-1] + character).rstrip()) > width:
                    lines.append("")
                lines[-1] += character
        return [line.strip() for line in lines if line.strip()] or [""]


def _pieces(text: str) -> list[str]:
    """A name with the separators after which it may be broken."""
    return re.findall(r"[^\s\-_/+,]*[\s\-_/+,]*", " ".join(text.split()))


def _heads(
    pen: ImageDraw.ImageDraw,
    columns: Sequence[int],
    width: int,
    top: int,
    heads: tuple[Sequence[str], Sequence[Column], Sequence[list[str]]],
    types: tuple[_Type, _Type],
) -> None:
    """Column headings that stand on the tiles, under a ruled line per group."""
    (titles, headings, names), (text, small) = heads, types
    y = _MARGIN + small.height + 5
    for title, first, last in zip(titles, columns[2:4], (columns[2], columns[-1]), strict=False):
        start, end = first, last + width
        small.centred(pen, (start + end) // 2, _MARGIN, title)
        pen.line((start, y, end, y), fill=_RULE, width=2)
    for x, lines in zip(columns, [["image"], text.wrap(f"perturbation × {AMPLIFICATION}", width, 2)], strict=False):
        for i, line in enumerate(reversed(lines), 1):
            text.centred(pen, x + width // 2, top - 8 - i * text.height, line, _INK)
    for x, heading, lines in zip(columns[2:], headings, names, strict=True):
        base = top - 8
        if heading.note:
            base -= small.height
            small.centred(pen, x + width // 2, base, heading.note)
        for i, line in enumerate(reversed(lines), 1):
            text.centred(pen, x + width // 2, base - i * text.height, line, _INK)


def caption(mask: Ids, before: Ids | None, labels: Ids | None) -> str:
    """How much of a mask the attack changed; for the clean image how much is right, if that can be known."""
    valid = np.ones(mask.shape, dtype=bool) if labels is None else labels != VOID
    if before is None:
        return "" if labels is None else _share(mask == labels, valid, "right")
    return _share(mask != before, valid, "changed")


def _share(hit: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_], what: str) -> str:
    return f"{percent(float(hit[valid].mean()))} % {what}" if valid.any() else "–"


def strongest(image: Pixels, clean: Pixels) -> str:
    """The largest change of any channel value, in grey levels."""
    return f"max {int(np.abs(image.astype(int) - clean).max())}/255"


def photo(image: Pixels, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)


def _grey(image: Pixels, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(photo(image, size).convert("L"), dtype=np.float32)[..., None]


def perturbation(image: Pixels, clean: Pixels, size: tuple[int, int]) -> Image.Image:
    amplified = np.clip(128 + AMPLIFICATION * (image.astype(int) - clean), 0, 255).astype(np.uint8)
    # Nearest, since averaging neighbours would make noise look weaker than it is.
    return Image.fromarray(amplified).resize(size, Image.Resampling.NEAREST)


def _overlay(mask: Ids, grey: npt.NDArray[np.float32], colours: npt.NDArray[np.float32]) -> Image.Image:
    """Class colours over the dim photograph, with a light line where classes meet."""
    height, width = grey.shape[:2]
    ids = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    table = np.full((256, 3), VOID_COLOUR, dtype=np.float32)
    table[: len(colours)] = colours
    pixels = _OPACITY * table[ids] + (1 - _OPACITY) * grey
    edge = np.zeros(ids.shape, dtype=bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    pixels[edge] = 0.25 * pixels[edge] + 0.75 * 255
    return Image.fromarray(pixels.round().astype(np.uint8))


def blended(colour: Colour) -> Colour:
    """A class colour as it looks in masks over mid-grey, so that the legend matches them."""
    r, g, b = (round(_OPACITY * channel + (1 - _OPACITY) * 128) for channel in colour)
    return r, g, b


def legend(rows: Sequence[Row], labels: Ids | None, classes: Sequence[tuple[str, Colour]]) -> list[tuple[str, Colour]]:
    """The classes to be seen in some mask, in the order of their ids; void last."""
    masks = [mask for row in rows for mask in row.masks] + ([] if labels is None else [labels])
    shares = np.stack([np.bincount(mask.ravel(), minlength=256) / mask.size for mask in masks]).max(0)
    seen = [entry for entry, share in zip(classes, shares, strict=False) if share >= _VISIBLE]
    return [*seen, ("void", VOID_COLOUR)] if shares[VOID] >= _VISIBLE else seen


def _flow(
    swatches: Sequence[tuple[str, Colour]], small: _Type, left: int, right: int, top: int
) -> tuple[list[tuple[int, int]], int]:
    """Where the legend's entries go, line after line, and where they end."""
    places: list[tuple[int, int]] = []
    x, y = left, top
    for name, _ in swatches:
        width = 32 + small.width(name)
        if x + width > right and x > left:
            x, y = left, y + small.height + 6
        places.append((x, y))
        x += width + 28
    return places, y + small.height

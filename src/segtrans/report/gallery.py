"""The pictures inside the page: image, perturbation and every model's mask before and after an attack, small."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segtrans.data.base import VOID, Colour
from segtrans.report.content import Document, class_colours
from segtrans.report.heat import css
from segtrans.report.pictures import (
    VOID_COLOUR,
    Column,
    Ids,
    Row,
    blended,
    caption,
    find_scene,
    legend,
    perturbation,
    photo,
    picture_path,
    read_row,
    strongest,
)
from segtrans.report.ranking import ranking

GALLERY_BYTES = 3_000_000
"""What all embedded pictures may weigh together; base64 adds a third, and the page should stay below 5 MB."""

MOST_ATTACKS = 10
"""Of each image; those that rank first, controls after them."""

_WIDTHS = (420, 320, 240, 160)


@dataclass(frozen=True)
class Attacked:
    """What an attack did: its image, its perturbation and all masks under each other, as ``data:`` addresses."""

    attack: str
    strongest: str
    image: str
    perturbation: str
    masks: str
    notes: list[str]


@dataclass(frozen=True)
class Example:
    """One image on one surrogate; the models are the surrogate and all targets, after them the ground truth if there
    is one.
    """

    image: str
    surrogate: str
    file: str
    width: int
    height: int
    clean: str
    masks: str
    models: list[Column]
    attacks: list[Attacked]
    left_out: int
    legend: list[tuple[str, str]]

    @property
    def bytes(self) -> int:
        made = [self.clean, self.masks, *(s for a in self.attacks for s in (a.image, a.perturbation, a.masks))]
        return sum(map(len, made)) * 3 // 4


def examples(run: Path, document: Document) -> list[Example]:
    """The pictured images, each as large as its share of :data:`GALLERY_BYTES` allows, while it lasts.

    Raises:
        DataError: an image in the run's folder is damaged.
    """
    found: list[Example] = []
    left, entries = GALLERY_BYTES, document["pictures"]
    for number, entry in enumerate(entries):
        share = left // (len(entries) - number)
        example = _example(run, document, entry, share)
        if example is not None:
            left -= example.bytes
            if left < 0:
                break
            found.append(example)
    return found


def _example(run: Path, document: Document, entry: dict[str, Any], most: int) -> Example | None:
    """The example in the largest width that takes at most ``most`` bytes, or in the smallest."""
    scene = find_scene(document, run, entry)
    if scene is None:
        return None
    place, truth = {ranked.attack: i for i, ranked in enumerate(ranking(document))}, scene.truth
    first, *attacked = scene.finished
    attacked.sort(key=lambda made: place[made["attack"]])
    clean, *shown = (read_row(document, run, made, scene.models) for made in (first, *attacked[:MOST_ATTACKS]))
    columns = [replace(scene.columns[0], note="surrogate"), *scene.columns[1:]]
    changes = [strongest(row.image, clean.image) for row in shown]
    notes = [[caption(after, before, truth) for after, before in zip(row.masks, clean.masks, strict=True)]
             for row in shown]  # fmt: skip
    if truth is not None:
        columns.append(Column("ground truth", ""))
        notes = [[*below, ""] for below in notes]
    classes = class_colours(document)
    colours = [(name, css(blended(colour))) for name, colour in legend([clean, *shown], truth, classes)]
    height, width = clean.image.shape[:2]
    example = None
    for side in sorted({min(side, width) for side in _WIDTHS}, reverse=True):
        size = side, max(1, round(side * height / width))
        example = Example(
            image=entry["name"],
            surrogate=columns[0].name,
            file=picture_path(run, entry).relative_to(run).as_posix(),
            width=width,
            height=height,
            clean=_jpeg(photo(clean.image, size), 82),
            masks=_sprite(clean, truth, size, [colour for _, colour in classes]),
            models=columns,
            attacks=[
                Attacked(
                    attack=row.label,
                    strongest=change,
                    image=_jpeg(photo(row.image, size), 82),
                    perturbation=_jpeg(perturbation(row.image, clean.image, size), 70),
                    masks=_sprite(row, truth, size, [colour for _, colour in classes]),
                    notes=below,
                )
                for row, change, below in zip(shown, changes, notes, strict=True)
            ],
            left_out=len(attacked) - len(shown),
            legend=colours,
        )
        if example.bytes <= most:
            break
    return example


def _sprite(row: Row, truth: Ids | None, size: tuple[int, int], colours: Sequence[Colour]) -> str:
    """All masks of a row under each other in one palette PNG, half as large as the photographs."""
    half = max(1, size[0] // 2), max(1, size[1] // 2)
    masks = [*row.masks, *([] if truth is None else [truth])]
    ids = np.concatenate([np.asarray(Image.fromarray(m).resize(half, Image.Resampling.NEAREST)) for m in masks])
    # Void follows the classes, so that the palette is no longer than it must be.
    image = Image.fromarray(np.where(ids == VOID, len(colours), ids).astype(np.uint8), "P")
    image.putpalette([channel for colour in (*colours, VOID_COLOUR) for channel in colour])
    return _address(image, "PNG", optimize=True)


def _jpeg(image: Image.Image, quality: int) -> str:
    return _address(image, "JPEG", quality=quality)


def _address(image: Image.Image, kind: str, **settings: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"

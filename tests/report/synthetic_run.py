"""The folder of a finished run, made up without any model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cells import leads
from segtrans.bench.results import FORMAT
from segtrans.bench.store import Store
from segtrans.bench.summary import (
    OTHER_BACKBONE,
    SAME_BACKBONE,
    WHITE_BOX,
    Replicates,
    comparison,
    key,
    summary,
)
from segtrans.catalogue import ENTRIES
from segtrans.config import RunConfig
from segtrans.io import write_image, write_json, write_mask

CLASSES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle")
BACKBONES = ("resnet50", "resnet50", "mobilenet", "mit_b0")


def make_run(
    root: Path,
    *,
    surrogates: Sequence[str] = ("zoo:voc/one", "zoo:voc/two"),
    targets: Sequence[str] = ("zoo:voc/one", "zoo:voc/two", "zoo:voc/three"),
    attacks: Sequence[str] = ("noise", "mi", "segtrans"),
    seeds: Sequence[int] = (0, 1),
    images: dict[str, tuple[int, int]] | None = None,
    labelled: bool = False,
    **config: Any,
) -> dict[str, Any]:
    """Write ``result.json`` and what pictures need into ``root``; returns the document."""
    images = {"cat": (40, 60)} if images is None else images
    random = np.random.default_rng(0)
    names = list(dict.fromkeys((*surrogates, *targets)))
    backbone = {name: BACKBONES[i % len(BACKBONES)] for i, name in enumerate(names)}
    cells = [
        _cell(random, a, s, t, seed, _block(backbone, s, t))
        for seed in seeds
        for s in surrogates
        for a in attacks
        for t in targets
    ]
    document = {
        "segtrans": "0.1.0",
        "format": FORMAT,
        "config": RunConfig(
            surrogates=tuple(surrogates),
            targets=tuple(targets),
            attacks=tuple(attacks),
            seeds=tuple(seeds),
            out=Path("runs/made-up"),
            **config,
        ).model_dump(mode="json"),
        "data": {
            "name": "made up",
            "images": 7,
            "classes": list(CLASSES) if labelled else [],
            "palette": [[40 * i, 200 - 40 * i, 128] for i in range(len(CLASSES))] if labelled else [],
            "reference": "masks" if labelled else "each target's own clean prediction",
            "hash": "d" * 64,
        },
        "models": {
            name: {
                "name": name,
                "backbone": backbone[name],
                "classes": len(CLASSES),
                "class_names": list(CLASSES),
                "parameters": 4_100_000,
                "hash": f"{i:064x}",
            }
            for i, name in enumerate(names)
        },
        "attacks": {name: _attack(name) for name in attacks},
        "cells": cells,
        "pictures": [],
        "costs": [
            {
                "surrogate": s,
                "attack": a,
                "seed": seed,
                "images": 7,
                "gradient_evaluations": _attack(a)["gradient_evaluations_of_preparation"] + _attack(a)["iterations"],
                "gradient_evaluations_per_iteration": _attack(a)["gradient_evaluations_per_iteration"],
                "gradient_evaluations_of_preparation": _attack(a)["gradient_evaluations_of_preparation"],
                "seconds": 12.5,
                "seconds_per_image": 12.5 / 7,
                "peak_memory": 2**30,
                "zero_gradient_images": 0,
            }
            for seed in seeds
            for s in surrogates
            for a in attacks
        ],
        "summary": summary(cells, replicates(cells)),
        "comparison": comparison(cells, leads(cells, replicates(cells)), config["baseline"])
        if "baseline" in config
        else [],
        "class_iou": [
            {"attack": a, "iou_clean": [0.8, 0.6, None, 0.5, 0.4, 0.7], "iou": [0.7, 0.0, None, 0.5, 0.41, 0.2]}
            for a in attacks
        ]
        if labelled
        else [],
        "objects": [],
        "failures": [],
        "interrupted": False,
        "environment": {"python": "3.11.9", "torch": "2.13.0", "device": "cpu", "tf32": False, "libraries": {}},
    }
    for image, size in images.items():
        document["pictures"] += _draw(root, random, document, image, size)
    write_json(root / "result.json", document)
    return document


def replicates(cells: Sequence[dict[str, Any]]) -> Replicates:
    """As if every cell had been resampled, ten points around what it says."""
    around = torch.linspace(-0.05, 0.05, 100, dtype=torch.float64)
    return {key(cell): {name: cell[name] + around for name in ("asr_miou", "asr_pixel")} for cell in cells}


def _block(backbone: dict[str, str], surrogate: str, target: str) -> str:
    if surrogate == target:
        return WHITE_BOX
    return SAME_BACKBONE if backbone[surrogate] == backbone[target] else OTHER_BACKBONE


def _cell(
    random: np.random.Generator, attack: str, surrogate: str, target: str, seed: int, block: str
) -> dict[str, Any]:
    strength = 0.02 if attack in ("clean", "noise") else 0.9 if block == WHITE_BOX else float(random.uniform(0.1, 0.8))
    return {
        "surrogate": surrogate,
        "target": target,
        "attack": attack,
        "seed": seed,
        "block": block,
        "images": 7,
        "image_set": "0123abcd",
        "miou_clean": 0.7,
        "miou": 0.7 * (1 - strength),
        "asr_miou": strength,
        "asr_pixel": strength / 2,
        "asr_miou_interval": [strength * 0.9, strength * 1.05],
        "asr_pixel_interval": [strength * 0.45, strength * 0.52],
    }


def _attack(name: str) -> dict[str, Any]:
    entry = ENTRIES.get(name)
    control = entry is not None and entry.provenance == "control"
    return {
        "value": repr(entry.attack) if entry else name,
        "title": entry.title if entry else "",
        "paper": entry.paper if entry else "",
        "provenance": entry.provenance if entry else "custom",
        "norm": "L-inf",
        "eps": "8/255",
        "iterations": 0 if control else 10,
        "step": "" if control else "eps/4",
        "draws": entry is None or entry.attack.draws,
        "gradient_evaluations_per_iteration": 0 if control else 1,
        "gradient_evaluations_of_preparation": entry.attack.preparation if entry else 0,
    }


def _draw(
    root: Path, random: np.random.Generator, document: dict[str, Any], image: str, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """A sky-like image, blobs as masks that attacks shift, and a ground truth with a void rim; what tells of them."""
    height, width = size
    y, x = np.mgrid[:height, :width] / max(size)
    clean = np.stack([60 + 150 * y, 90 + 120 * x, 200 - 100 * y], -1).astype(np.uint8)
    store = Store(root)

    def picture(folder: str, pixels: np.ndarray) -> str:
        path = store.png(folder, image)
        write_image(path, pixels)
        return path.relative_to(root).as_posix()

    def mask(folder: str, ids: np.ndarray) -> str:
        path = store.png(folder, image)
        write_mask(path, torch.from_numpy(ids))
        return path.relative_to(root).as_posix()

    labels = None
    if document["data"]["reference"] == "masks":
        label = _blob(y, x, 0.4, 1)
        label[:2] = 255
        labels = mask("masks/labels", label)
    models = {model: f"model{i}" for i, model in enumerate(document["models"])}
    found = []
    for surrogate in document["config"]["surrogates"]:
        rows = []
        for number, attack in enumerate(document["attacks"]):
            moved = np.clip(clean + random.integers(-8, 9, clean.shape), 0, 255).astype(np.uint8)
            folder = f"{models[surrogate]}/attack{number}"
            masks = {
                model: mask(
                    f"masks/{short}/{folder}",
                    _blob(y, x, float(random.uniform(0.2, 0.6)), int(random.integers(1, len(CLASSES)))),
                )
                for model, short in models.items()
            }
            rows.append({"attack": attack, "image": picture(f"images/{folder}", moved), "masks": masks})
        before = {m: mask(f"masks/{s}/clean", _blob(y, x, 0.4, 1 + i % 2)) for i, (m, s) in enumerate(models.items())}
        found.append(
            {
                "name": image,
                "surrogate": surrogate,
                "image": picture("images/clean", clean),
                "labels": labels,
                "masks": before,
                "rows": rows,
            }
        )
    return found


def _blob(y: np.ndarray, x: np.ndarray, radius: float, value: int) -> np.ndarray:
    return np.where((y - y.max() / 2) ** 2 + (x - x.max() / 2) ** 2 < (radius * y.max()) ** 2, value, 0).astype(
        np.int64
    )

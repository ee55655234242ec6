"""From finished units to one JSON-able document: cells, costs, averages per block, failures, provenance."""

import csv
import io
import math
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

import segtrans
from segtrans.bench.plan import Plan, Unit
from segtrans.bench.runner import Outcome
from segtrans.bench.store import Shard
from segtrans.catalogue import ENTRIES
from segtrans.metrics import HEADLINES, Counts
from segtrans.threat import in_grey_levels

WHITE_BOX, SAME_BACKBONE, OTHER_BACKBONE = "white box", "same backbone", "other backbone"


def document(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Everything a run found, with fractions for measures and null for what is undefined."""
    cells = [
        cell
        for unit, shard in outcome.units.items()
        for number, target in enumerate(plan.targets)
        if (cell := _cell(plan, unit, shard, number, target)) is not None
    ]
    return _without_nan(
        {
            "segtrans": segtrans.__version__,
            "config": plan.config.model_dump(mode="json"),
            "data": {
                "name": plan.data.name,
                "images": len(plan.data),
                "pictured": [item.name for item in plan.data.items[: plan.config.pictures]],
                "classes": list(plan.data.classes),
                "palette": [list(colour) for colour in plan.data.palette],
                "reference": "masks" if plan.labelled else "each target's own clean prediction",
                "hash": plan.hashes["data"],
            },
            "models": {name: _model(plan, name) for name in plan.models},
            "attacks": {name: _attack(plan, name) for name in plan.config.attacks},
            "cells": cells,
            "costs": [_cost(plan, unit, shard) for unit, shard in outcome.units.items()],
            "summary": summary(cells),
            "failures": [asdict(failure) for failure in outcome.failures],
            "interrupted": outcome.interrupted,
            "environment": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "device": str(plan.device),
                "tf32": torch.backends.cuda.matmul.allow_tf32,
            },
        }
    )


def _cell(plan: Plan, unit: Unit, shard: Shard, number: int, target: str) -> dict[str, Any] | None:
    if f"{number}.attacked" not in shard.tensors:
        return None
    names = ("clean", "attacked", "flipped", "changed")
    counts = Counts(**{name: shard.tensors[f"{number}.{name}"].long() for name in names})
    intervals = {f"{name}_interval": list(ends) for name, ends in counts.intervals().items()}
    return {
        "surrogate": unit.surrogate,
        "target": target,
        "attack": unit.attack,
        "seed": unit.seed,
        "block": _block(plan, unit.surrogate, target),
        "images": len(counts),
        **counts.measures(),
        **intervals,
    }


def _block(plan: Plan, surrogate: str, target: str) -> str:
    """Transfer within a backbone is nearly a white-box attack, so it is never averaged with the rest."""
    if plan.hashes[surrogate] == plan.hashes[target]:
        return WHITE_BOX
    ours, theirs = plan.models[surrogate].backbone, plan.models[target].backbone
    return SAME_BACKBONE if ours and ours == theirs else OTHER_BACKBONE


def _cost(plan: Plan, unit: Unit, shard: Shard) -> dict[str, Any]:
    header, attack = shard.header, plan.attacks[unit.attack]
    images = len(header["images"]) + len(header["failures"])
    return {
        "surrogate": unit.surrogate,
        "attack": unit.attack,
        "seed": unit.seed,
        "images": images,
        "gradient_evaluations": header["evaluations"],
        "gradient_evaluations_per_iteration": attack.evaluations_per_iteration,
        "seconds": header["seconds"],
        "seconds_per_image": header["seconds"] / images if images else math.nan,
        "peak_memory": header["peak_memory"],
        "zero_gradient_images": header["stalled"],
    }


def _model(plan: Plan, name: str) -> dict[str, Any]:
    model = plan.models[name]
    return {
        "name": model.name,
        "backbone": model.backbone,
        "classes": len(model.classes),
        "class_names": list(model.classes),
        "parameters": sum(p.numel() for p in model.parameters()),
        "hash": plan.hashes[name],
    }


def _attack(plan: Plan, name: str) -> dict[str, Any]:
    attack = plan.attacks[name]
    entry = ENTRIES.get(name)
    return {
        "value": repr(attack),
        "title": entry.title if entry else "",
        "paper": entry.paper if entry else "",
        "provenance": entry.provenance if entry else "custom",
        "norm": attack.threat.norm,
        "eps": in_grey_levels(attack.threat.radius),
        "iterations": attack.iterations,
        "step_size": attack.alpha,
        "gradient_evaluations_per_iteration": attack.evaluations_per_iteration,
    }


def summary(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per attack and block, the mean of each headline measure over pairs of models and seeds."""
    groups: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[cell["attack"], cell["block"]].append(cell)
    return [
        {
            "attack": attack,
            "block": block,
            "pairs": len({(cell["surrogate"], cell["target"]) for cell in group}),
            **{name: statistics.fmean(cell[name] for cell in group) for name in HEADLINES},
        }
        for (attack, block), group in groups.items()
    ]


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value


def as_csv(cells: list[dict[str, Any]]) -> str:
    """The cells as CSV, intervals as two columns."""
    rows = [
        {
            key: value
            for name, entry in cell.items()
            for key, value in (
                [(f"{name}_low", entry[0]), (f"{name}_high", entry[1])] if isinstance(entry, list) else [(name, entry)]
            )
        }
        for cell in cells
    ]
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return buffer.getvalue()

"""From finished units to one JSON-able document: cells, costs, averages per block, failures, provenance."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import segtrans
from segtrans.attack import Evaluations
from segtrans.bench.identity import versions
from segtrans.bench.plan import Plan, Trial, Unit
from segtrans.bench.runner import Outcome
from segtrans.bench.store import Shard, fingerprint
from segtrans.bench.summary import (
    OTHER_BACKBONE,
    OTHER_FAMILY,
    SAME_BACKBONE,
    UNKNOWN_BACKBONE,
    WHITE_BOX,
    Key,
    Lead,
    class_means,
    comparison,
    key,
    summary,
)
from segtrans.catalogue import ENTRIES
from segtrans.interop.foreign import Foreign
from segtrans.listing import step
from segtrans.metrics import HEADLINES, Counts, interval, iou, resamples
from segtrans.models.base import is_transformer, plain_backbone
from segtrans.models.ensemble import members_of
from segtrans.threat import in_grey_levels
from segtrans.worst import AnyAttack

FORMAT = 2
"""Counts up whenever what reports read from the document changes its place or meaning."""

LEAST_SHARE = 0.01
"""Where a model's own prediction is the reference, classes with less than this share of it are left out of mIoU: they
are more often its mistakes than something in the picture, and each would weigh as much as all of the background.
"""


@dataclass(frozen=True)
class _Score:
    """What a target did with ``images``: counts, measures, and the replicates ``drawn`` (R,) of the headline ones."""

    counts: Counts
    images: Sequence[str]
    measures: Mapping[str, float]
    drawn: Mapping[str, Tensor]


_Scorer = Callable[[Counts, Sequence[str]], _Score]
"""What counts of images, which are given by name, come to."""


def document(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Everything a run found, with fractions for measures and null for what is undefined."""
    scorer = _scorer(plan)
    cells, scores = _cells(plan, outcome.scores, scorer)
    baseline = plan.config.baseline

    def lead(ours: Key, theirs: Key) -> Lead:
        return _lead(scores[ours], scores[theirs], scorer)

    return _without_nan(
        {
            "segtrans": segtrans.__version__,
            "format": FORMAT,
            "config": plan.config.model_dump(mode="json"),
            "data": _data(plan),
            "models": {name: _model(plan, name) for name in plan.models},
            "attacks": {name: _attack(plan, name) for name in plan.config.attacks},
            "cells": cells,
            "pictures": _pictures(plan, outcome),
            "costs": [_cost(plan, trial, shard) for trial, shard in outcome.trials.items()],
            "summary": summary(cells, {key: score.drawn for key, score in scores.items()}),
            "comparison": [] if baseline is None else comparison(cells, lead, baseline),
            "class_iou": class_means(cells, {key: _ious(score.counts) for key, score in scores.items()})
            if plan.labelled
            else [],
            "failures": [asdict(failure) for failure in outcome.failures],
            "objects": list(plan.objects),
            "interrupted": outcome.interrupted,
            "environment": _environment(plan),
        }
    )


def trial_document(plan: Plan, trial: Trial, crafted: Shard, scores: Mapping[str, Shard]) -> dict[str, Any]:
    """``cells`` and ``costs`` of one trial, as they will be in the run's document."""
    cells, _ = _cells(plan, {(trial, target): shard for target, shard in scores.items()}, _scorer(plan))
    return _without_nan({"cells": cells, "costs": [_cost(plan, trial, crafted)]})


def _scorer(plan: Plan) -> _Scorer:
    """What resamples all of a run's cells alike."""
    weights, least = resamples(len(plan.data)), 0.0 if plan.labelled else LEAST_SHARE

    def score(counts: Counts, images: Sequence[str]) -> _Score:
        drawn = counts.resampled(weights[:, [plan.places[image] for image in images]], least=least)
        if counts.counted < 2:
            # Drawn again and again, one image tells nothing of others.
            drawn = {name: torch.full_like(values, torch.nan) for name, values in drawn.items()}
        return _Score(counts, images, counts.measures(least=least), drawn)

    return score


def _cells(
    plan: Plan, shards: Mapping[tuple[Trial, str], Shard], scorer: _Scorer
) -> tuple[list[dict[str, Any]], dict[Key, _Score]]:
    """The cells of trials and targets that have a scored image, and their scores."""
    cells: list[dict[str, Any]] = []
    scores: dict[Key, _Score] = {}
    for (trial, target), shard in shards.items():
        if shard.tensors:
            counts = Counts(**{name: tensor.long() for name, tensor in shard.tensors.items()})
            score = scorer(counts, shard.header["images"])
            cells.append(_cell(plan, trial, target, score))
            scores[key(cells[-1])] = score
    return cells, scores


def _lead(ours: _Score, theirs: _Score, scorer: _Scorer) -> Lead:
    """On the images of both, of which either attack may have failed on some."""
    if ours.images != theirs.images:
        places = [{image: n for n, image in enumerate(score.images)} for score in (ours, theirs)]
        shared = [image for image in ours.images if image in places[1]]
        ours, theirs = (
            scorer(score.counts[[at[image] for image in shared]], shared)
            for score, at in zip((ours, theirs), places, strict=True)
        )
    return {n: (ours.measures[n] - theirs.measures[n], ours.drawn[n] - theirs.drawn[n]) for n in HEADLINES}


def _cell(plan: Plan, trial: Trial, target: str, score: _Score) -> dict[str, Any]:
    return {
        "surrogate": trial.surrogate,
        "target": target,
        "attack": trial.attack,
        "seed": trial.seed,
        "block": _block(plan, trial.surrogate, target),
        "images": score.counts.counted,
        "image_set": fingerprint(sorted(score.images))[:8],
        **score.measures,
        **{f"{name}_interval": list(interval(values)) for name, values in score.drawn.items()},
    }


def _ious(counts: Counts) -> Tensor:
    """IoU before and after (2, C) of the classes that the truth contains."""
    totals = torch.stack([counts.clean.sum(0), counts.attacked.sum(0)])
    return iou(totals).where(totals[:, 1] > 0, torch.nan)


def _block(plan: Plan, surrogate: str, target: str) -> str:
    """Transfer within a backbone is nearly a white-box attack, and between CNNs and transformers another matter than
    among CNNs, so these are never averaged. An ensemble counts as whichever of its members is nearest.
    """
    if plan.member_hashes[surrogate] & plan.member_hashes[target]:
        return WHITE_BOX
    ours, theirs = ({member.backbone for member in members_of(plan.models[name])} for name in (surrogate, target))
    if {*map(plain_backbone, ours)} & {*map(plain_backbone, theirs)} - {""}:
        return SAME_BACKBONE
    if "" in ours | theirs:
        return UNKNOWN_BACKBONE
    return OTHER_BACKBONE if {*map(is_transformer, ours)} & {*map(is_transformer, theirs)} else OTHER_FAMILY


def _pictures(plan: Plan, outcome: Outcome) -> list[dict[str, Any]]:
    """Where the images and masks of each pictured image lie, per surrogate, for the run's first seed."""

    def relative(path: Path) -> str:
        return path.relative_to(plan.store.root).as_posix()

    def row(unit: Unit, image: str, names: list[str]) -> dict[str, Any]:
        return {
            "attack": unit.trial.attack,
            "image": relative(plan.adversarial_path(unit, image)),
            "masks": {name: relative(plan.mask_path(unit, name, image)) for name in names},
        }

    found: list[dict[str, Any]] = []
    for image, surrogate in product(plan.pictured, plan.surrogates):
        names = list(dict.fromkeys((surrogate, *plan.targets)))
        rows = [
            row(unit, image, names)
            for trial, crafted in outcome.trials.items()
            if (trial.surrogate, trial.seed) == (surrogate, plan.config.seeds[0]) and image in crafted.header["images"]
            for unit in plan.units_of(trial)
            if plan.places[image] in unit.images
        ]
        if rows:
            found.append(
                {
                    "name": image,
                    "surrogate": surrogate,
                    "image": relative(plan.image_path(image)),
                    "labels": relative(plan.label_path(image)) if plan.labelled else None,
                    "masks": {name: relative(plan.clean_path(name, image)) for name in names},
                    "rows": rows,
                }
            )
    return found


def _cost(plan: Plan, trial: Trial, shard: Shard) -> dict[str, Any]:
    header = shard.header
    images = header["attacked"]
    return {
        "surrogate": trial.surrogate,
        "attack": trial.attack,
        "seed": trial.seed,
        "images": images,
        "gradient_evaluations": header["evaluations"] if images else 0,
        **_gradients(plan.attacks[trial.attack], plan.evaluations_per_image(trial)),
        "seconds": header["seconds"],
        "seconds_per_image": header["seconds"] / images if images else math.nan,
        "peak_memory": header["peak_memory"],
        "zero_gradient_images": header["stalled"],
    }


def _data(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.data.name,
        "images": len(plan.data),
        "classes": list(plan.data.classes),
        "palette": [list(colour) for colour in plan.data.palette],
        "reference": "masks" if plan.labelled else "each target's own clean prediction",
        "hash": fingerprint(plan.image_hashes),
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
    foreign = isinstance(attack, Foreign)
    return {
        "value": repr(attack),
        "title": entry.title if entry else f"{attack.name} of {attack.library} {attack.version}" if foreign else "",
        "paper": entry.paper if entry else "",
        "provenance": entry.provenance if entry else "foreign" if foreign else "custom",
        "norm": attack.threat.norm,
        "eps": in_grey_levels(attack.threat.radius),
        "iterations": attack.iterations,
        "step": step(attack),
        "draws": attack.draws,
        **_gradients(attack, attack.evaluations_on(1)),
    }


def _gradients(attack: AnyAttack, asked: Evaluations) -> dict[str, int]:
    return {
        "gradient_evaluations_per_iteration": asked.per_iteration if attack.iterations else 0,
        "gradient_evaluations_of_preparation": asked.preparation,
    }


def _environment(plan: Plan) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(plan.device),
        "threads": torch.get_num_threads(),
        "tf32": False,
        "libraries": versions(),
    }


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value

"""Means of cells over pairs of models and seeds, and attacks compared with a baseline, with intervals over images.

All cells of a run are resampled alike: replicate ``r`` of one cell is about the same images as replicate ``r`` of any
other. Means and differences are therefore taken replicate by replicate, and what all attacks find hard on an image
cancels out of a difference.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segtrans.metrics import HEADLINES, interval

WHITE_BOX, SAME_BACKBONE, OTHER_BACKBONE = "white box", "same backbone", "other backbone"
OTHER_FAMILY, UNKNOWN_BACKBONE = "CNN ↔ transformer", "unknown backbone"
TRANSFER = (OTHER_BACKBONE, OTHER_FAMILY, UNKNOWN_BACKBONE, SAME_BACKBONE)
"""Blocks of transfer, from what matters most; pairs of a CNN and a CNN, or of two transformers, are the first."""

Cell = Mapping[str, Any]
Key = tuple[str, str, str, int]
"""Attack, surrogate, target and seed of a cell."""
Replicates = Mapping[Key, Mapping[str, Tensor]]
"""For each cell the bootstrap replicates (R,) of the headline measures."""
Lead = Mapping[str, tuple[float, Tensor]]
"""How far one attack is ahead of another in each headline measure, and the replicates (R,) of that."""


def key(cell: Cell) -> Key:
    return cell["attack"], cell["surrogate"], cell["target"], cell["seed"]


def summary(cells: Sequence[Cell], replicates: Replicates) -> list[dict[str, Any]]:
    """Per attack and block, the mean of each headline measure over pairs of models and seeds where it is defined."""
    groups: defaultdict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell["attack"], cell["block"]].append(cell)
    rows: list[dict[str, Any]] = []
    for (attack, block), group in groups.items():
        known = {name: [cell for cell in group if _defined(cell, name)] for name in HEADLINES}
        pairs = {(cell["surrogate"], cell["target"]) for cell in known[HEADLINES[0]]}
        means = {name: _mean([cell[name] for cell in cells]) for name, cells in known.items()}
        intervals = {
            f"{name}_interval": _interval([replicates[key(cell)][name] for cell in cells])
            for name, cells in known.items()
        }
        rows.append({"attack": attack, "block": block, "pairs": len(pairs), **means, **intervals})
    return rows


def comparison(cells: Sequence[Cell], lead: Callable[[Key, Key], Lead], baseline: str) -> list[dict[str, Any]]:
    """Per other attack, its mean lead over ``baseline`` on the pairs, seeds and images that both were scored on: over
    all of transfer, which is every pair but white-box ones, and in ``blocks`` over each of its blocks. ``ahead`` counts
    the surrogates with a lead over all of transfer; ``lead`` tells that of a cell over another, on their images.
    """
    transfer = {key(cell): cell["block"] for cell in cells if cell["block"] != WHITE_BOX}
    rows: list[dict[str, Any]] = []
    for attack in dict.fromkeys(cell["attack"] for cell in cells):
        both = [(k, (baseline, *k[1:])) for k in transfer if k[0] == attack and (baseline, *k[1:]) in transfer]
        found = {ours: lead(ours, theirs) for ours, theirs in both} if attack != baseline else {}
        found = {ours: ahead for ours, ahead in found.items() if not math.isnan(ahead[HEADLINES[0]][0])}
        if not found:
            continue
        surrogates: defaultdict[str, list[float]] = defaultdict(list)
        blocks: defaultdict[str, dict[Key, Lead]] = defaultdict(dict)
        for ours, ahead in found.items():
            surrogates[ours[1]].append(ahead[HEADLINES[0]][0])
            blocks[transfer[ours]][ours] = ahead
        leads = {surrogate: statistics.fmean(values) for surrogate, values in surrogates.items()}
        rows.append(
            {
                "attack": attack,
                **_mean_lead(found),
                "surrogates": leads,
                "ahead": sum(lead > 0 for lead in leads.values()),
                "blocks": {block: _mean_lead(blocks[block]) for block in TRANSFER if block in blocks},
            }
        )
    return rows


def _mean_lead(leads: Mapping[Key, Lead]) -> dict[str, Any]:
    mean: dict[str, Any] = {"pairs": len({key[1:3] for key in leads})}
    for name in HEADLINES:
        known = [lead[name] for lead in leads.values() if not math.isnan(lead[name][0])]
        mean[name] = _mean([value for value, _ in known])
        mean[f"{name}_interval"] = _interval([drawn for _, drawn in known])
    return mean


def class_means(cells: Sequence[Cell], ious: Mapping[Key, Tensor]) -> list[dict[str, Any]]:
    """Per attack, IoU before and after of each class, means over the pairs of transfer and seeds that show the class,
    over white-box pairs where there are no others; ``ious`` holds both (2, C) for each cell.
    """
    used = [cell for cell in cells if cell["block"] != WHITE_BOX] or cells
    groups: defaultdict[str, list[Tensor]] = defaultdict(list)
    for cell in used:
        groups[cell["attack"]].append(ious[key(cell)])
    means = {attack: torch.stack(group).nanmean(0) for attack, group in groups.items()}
    return [{"attack": a, "iou_clean": mean[0].tolist(), "iou": mean[1].tolist()} for a, mean in means.items()]


def _interval(replicates: Sequence[Tensor]) -> list[float]:
    """Of the mean of several cells, over the replicates in which none is undefined, since a mean over other cells in
    each would tell how the cells differ. There is none where one of the cells has none.
    """
    return list(interval(torch.stack([*replicates]).mean(0))) if replicates else [math.nan, math.nan]


def _defined(cell: Cell, name: str) -> bool:
    return cell[name] is not None and not math.isnan(cell[name])


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.nan

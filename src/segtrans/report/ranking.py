"""Which attack is ahead: means per block, places, and leads over the baseline."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from segtrans.bench.summary import (
    OTHER_BACKBONE,
    OTHER_FAMILY,
    SAME_BACKBONE,
    TRANSFER,
    UNKNOWN_BACKBONE,
    WHITE_BOX,
)
from segtrans.report.content import Document, is_control, mixed_budgets
from segtrans.report.costs import mean_seconds
from segtrans.report.words import Interval, as_interval, counted, joined, percent

_KIND = {
    OTHER_BACKBONE: "models with other backbones",
    OTHER_FAMILY: "a CNN and a transformer",
    UNKNOWN_BACKBONE: "models of which one's backbone is unknown",
    SAME_BACKBONE: "models with the same backbone",
}


@dataclass(frozen=True)
class Scores:
    """Mean headline measures over the pairs of models of one block, and seeds."""

    asr_miou: float | None
    asr_pixel: float | None
    pairs: int
    asr_miou_interval: Interval | None = None
    asr_pixel_interval: Interval | None = None


@dataclass(frozen=True)
class Ranked:
    """One attack of the ranking; ``place`` is None for controls, which are no competitors. Gradient evaluations are
    what each surrogate took, since each member of an ensemble counts.
    """

    attack: str
    title: str
    place: int | None
    scores: dict[str, Scores]
    evaluations_per_iteration: set[int]
    preparation: set[int]
    seconds_per_image: float | None

    @property
    def gradients(self) -> str:
        """Gradient evaluations per iteration, and after a plus those before the first."""
        return _span(self.evaluations_per_iteration) + (f" +{_span(self.preparation)}" if self.prepared else "")

    @property
    def prepared(self) -> bool:
        return any(self.preparation)

    @property
    def differs(self) -> bool:
        """Whether surrogates took different numbers of gradients."""
        return max(len(self.evaluations_per_iteration), len(self.preparation)) > 1


def ranked_blocks(document: Document) -> list[str]:
    """The blocks that a ranking shows apart: those of transfer, or white box where no other model was scored."""
    measured = {entry["block"] for entry in document["summary"]}
    return [block for block in TRANSFER if block in measured] or [WHITE_BOX]


def ranking(document: Document) -> list[Ranked]:
    """Attacks by mean ``asr_miou`` in the first of the blocks, ties by the next; undefined is last, controls after."""
    scores: dict[str, dict[str, Scores]] = {attack: {} for attack in document["attacks"]}
    for entry in document["summary"]:
        scores[entry["attack"]][entry["block"]] = _scores(entry)
    blocks = ranked_blocks(document)
    spent: dict[str, list[dict[str, Any]]] = {attack: [] for attack in document["attacks"]}
    for unit in document["costs"]:
        if unit["images"]:
            spent[unit["attack"]].append(unit)

    def strength(attack: str) -> tuple[bool, list[float]]:
        means = [scores[attack][block].asr_miou if block in scores[attack] else None for block in blocks]
        return not is_control(document, attack), [-math.inf if mean is None else mean for mean in means]

    return [
        Ranked(
            attack=attack,
            title=document["attacks"][attack]["title"],
            place=None if is_control(document, attack) else place,
            scores=scores[attack],
            evaluations_per_iteration={unit["gradient_evaluations_per_iteration"] for unit in spent[attack]},
            preparation={unit["gradient_evaluations_of_preparation"] for unit in spent[attack]},
            seconds_per_image=mean_seconds(spent[attack]),
        )
        for place, attack in enumerate(sorted(document["attacks"], key=strength, reverse=True), 1)
    ]


def lacking(document: Document, block: str) -> dict[str, str]:
    """The attacks whose means over ``block`` cannot be compared with others', and why in words: they lack pairs or
    seeds on which another attack is defined, or were scored there on other images than the attack with the most.
    """
    scored: dict[str, dict[tuple[str, str, int], tuple[int, str]]] = {attack: {} for attack in document["attacks"]}
    for cell in document["cells"]:
        if cell["block"] == block and cell["asr_miou"] is not None:
            place = cell["surrogate"], cell["target"], cell["seed"]
            scored[cell["attack"]][place] = cell["images"], cell["image_set"]
    sets = Counter(item for cells in scored.values() for item in cells.items())
    # The last of a place stays: that of most images, and among as many that of most attacks.
    whole = dict(item for item, _ in sorted(sets.items(), key=lambda found: (found[0][1][0], found[1])))
    seeds = Counter(place[:2] for place in whole)
    words: dict[str, str] = {}
    for attack, cells in scored.items():
        here = Counter(place[:2] for place in cells)
        less = max(seeds, key=lambda pair: seeds[pair] - here[pair], default=None)
        other = [(images[0], whole[place][0]) for place, images in cells.items() if images != whole[place]]
        fewer, all_ = max(other, key=lambda counts: counts[1] - counts[0], default=(0, 0))
        if len(here) < len(seeds):
            words[attack] = f"{len(here)} of {len(seeds)} pairs"
        elif less and here[less] < seeds[less]:
            words[attack] = f"{here[less]} of {seeds[less]} seeds"
        elif other:
            words[attack] = f"{fewer} of {all_} images" if fewer < all_ else "on other images"
    return words


def incomplete(document: Document) -> list[str]:
    """What :func:`lacking` finds in the blocks of the ranking, in words."""
    return [
        f"{attack} ({words} in {block})"
        for block in ranked_blocks(document)
        for attack, words in lacking(document, block).items()
    ]


def headline(document: Document) -> str:
    """The ranking's first line as a sentence, with the controls to compare it with."""
    block, budgets = ranked_blocks(document)[0], mixed_budgets(document)
    apart = lacking(document, block)
    known = [
        (r, r.scores[block])
        for r in ranking(document)
        if block in r.scores and r.scores[block].asr_miou is not None and r.attack not in apart
    ]
    best = next((r.attack for r, _ in known if r.place is not None), None)
    if best is None:
        return ""
    # What has another budget cannot be compared.
    known = [(r, score) for r, score in known if budgets.get(r.attack) == budgets.get(best)]
    attacks = [(r.attack, score) for r, score in known if r.place is not None]
    (_, score), *others = attacks
    leader = f"{best} (budget {budgets[best]})" if budgets else best
    compared = [f" ({name} {percent(s.asr_miou)} %)" for name, s in others[:1]]
    where = (
        "on the surrogate itself" if block == WHITE_BOX else f"over {counted(score.pairs, 'pair')} of {_KIND[block]}"
    )
    said = f"{leader} takes {percent(score.asr_miou)} % of the clean mIoU away on average {where}{''.join(compared)}."
    # Images as they were take nothing.
    controls = [(r.attack, s) for r, s in known if r.place is None and s.asr_miou]
    return " ".join([said, *(_beside(name, s, attacks) for name, s in controls)])


def _beside(control: str, score: Scores, attacks: list[tuple[str, Scores]]) -> str:
    """What a control takes, and which attacks take no more than that."""
    taken = score.asr_miou or 0.0
    behind = [name for name, s in attacks if (s.asr_miou or 0.0) <= taken]
    named = joined(behind) if len(behind) <= 3 else counted(len(behind), "attack")
    said = f"{control} alone takes {percent(taken)} %"
    return f"{said}, no less than {named}." if behind else f"{said}."


@dataclass(frozen=True)
class Lead:
    """An attack's mean lead over the baseline in the same measures, over all pairs of transfer and over those of each
    block, and on how many of the surrogates it is ahead in ``asr_miou``.
    """

    attack: str
    overall: Scores
    blocks: dict[str, Scores]
    ahead: int
    surrogates: int


def leads(document: Document) -> list[Lead]:
    """The comparison with the baseline, the largest lead first; empty where the run has no baseline."""
    found = [
        Lead(
            attack=row["attack"],
            overall=_scores(row),
            blocks={block: _scores(lead) for block, lead in row["blocks"].items()},
            ahead=row["ahead"],
            surrogates=len(row["surrogates"]),
        )
        for row in document["comparison"]
    ]
    return sorted(
        found, key=lambda lead: -math.inf if lead.overall.asr_miou is None else lead.overall.asr_miou, reverse=True
    )


def lead_blocks(document: Document) -> list[str]:
    """The blocks in which leads are shown apart; none where there is only one, which is all there is."""
    found = [block for block in ranked_blocks(document) if any(block in lead.blocks for lead in leads(document))]
    return found if len(found) > 1 else []


@dataclass(frozen=True)
class ClassDrops:
    """An attack's mean IoU per class, before and after, None for classes that no image shows."""

    attack: str
    before: list[float | None]
    after: list[float | None]

    @property
    def drops(self) -> list[float | None]:
        both = zip(self.before, self.after, strict=True)
        return [None if before is None or after is None else before - after for before, after in both]


def class_drops(document: Document) -> list[ClassDrops]:
    """What attacks take from each class, in the order of the ranking; empty where the data have no masks."""
    found = {e["attack"]: ClassDrops(e["attack"], e["iou_clean"], e["iou"]) for e in document["class_iou"]}
    return [found[ranked.attack] for ranked in ranking(document) if ranked.attack in found]


def clean_iou(document: Document) -> list[float | None]:
    """IoU per class on the clean images, of the attack that was scored on the most; empty without masks."""
    images: Counter[str] = Counter()
    for cell in document["cells"]:
        images[cell["attack"]] += cell["images"]
    return max(document["class_iou"], key=lambda entry: images[entry["attack"]], default={"iou_clean": []})["iou_clean"]


def _scores(entry: dict[str, Any]) -> Scores:
    return Scores(
        entry["asr_miou"],
        entry["asr_pixel"],
        entry["pairs"],
        as_interval(entry["asr_miou_interval"]),
        as_interval(entry["asr_pixel_interval"]),
    )


def _span(counts: set[int]) -> str:
    """The number, or the fewest and the most."""
    return "–".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else "–"

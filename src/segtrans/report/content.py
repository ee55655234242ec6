"""What a finished run says, shaped for tables and pages: names, ranking, cells over seeds, costs."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from segtrans.bench.summary import (
    OTHER_BACKBONE,
    OTHER_FAMILY,
    SAME_BACKBONE,
    TRANSFER,
    UNKNOWN_BACKBONE,
    WHITE_BOX,
)
from segtrans.data.base import Colour, colours
from segtrans.errors import DataError
from segtrans.models.load import ENSEMBLES
from segtrans.spec import RunConfig

Document = dict[str, Any]
"""What :func:`segtrans.bench.results.document` makes."""

Interval = tuple[float, float]

CLEAN = "clean"
"""The row that every table and picture starts from."""

PROVENANCE = {
    "code": "the authors' code",
    "paper": "the paper",
    "third-party": "third-party code",
    "reconstruction": "reconstruction",
    "control": "control, no attack",
    "custom": "composed for this run",
    "foreign": "another library's code",
}

_MOST_NAMES = 3

_KIND = {
    OTHER_BACKBONE: "models with other backbones",
    OTHER_FAMILY: "a CNN and a transformer",
    UNKNOWN_BACKBONE: "models of which one's backbone is unknown",
    SAME_BACKBONE: "models with the same backbone",
}


def read_document(run: Path) -> Document:
    """The ``result.json`` of a run's folder.

    Raises:
        DataError: there is none, or it is no such document.
    """
    path = run / "result.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: no such file; a finished run leaves one in its folder") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable result ({error})") from None
    if not isinstance(document, dict) or not {"config", "cells", "comparison"} <= {*document}:
        raise DataError(f"{path}: not the result of a run")
    return document  # pyright: ignore[reportUnknownVariableType]


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage without its sign; a dash for what is undefined."""
    if value is None:
        return "–"
    text = f"{100 * value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def short_names(document: Document) -> dict[str, str]:
    """For each model the last part of its name (of each of its members' names, for an ensemble), or as much of its
    specification as tells it from the others.
    """

    def last(path: str) -> str:
        fuse, _, members = path.partition(":")
        if fuse in ENSEMBLES and "," in members:
            return f"{fuse}:{','.join(map(last, members.split(',')))}"
        return re.split(r"[/\\:]", path.rstrip("/\\"))[-1] or path

    short = {key: last(str(model["name"])) for key, model in document["models"].items()}
    with_options = {key: "?".join((last(key.partition("?")[0]), *key.split("?")[1:])) for key in short}
    for longer in (with_options, {key: key for key in short}):
        twice = {name for name in short.values() if [*short.values()].count(name) > 1}
        short = {key: longer[key] if name in twice else name for key, name in short.items()}
    return short


def class_colours(document: Document) -> list[tuple[str, Colour]]:
    """Name and colour of each class: the data's, or what the models call them where the data have no masks."""
    data = document["data"]
    palette: list[Colour] = [(int(r), int(g), int(b)) for r, g, b in data["palette"]]
    names: list[str] = list(data["classes"])
    if not names:
        # Models without names of their own count their classes; one that has names knows better.
        candidates = [list(model["class_names"]) for model in document["models"].values()]
        names = next((c for c in candidates if c[:1] != ["class 0"]), candidates[0])
        palette = list(colours(len(names)))
    return list(zip(names, palette, strict=True))


def is_control(document: Document, attack: str) -> bool:
    return document["attacks"][attack]["provenance"] == "control"


def provenance(document: Document, attack: str) -> str:
    """What our version of an attack rests on, in words."""
    entry = document["attacks"][attack]
    kind = str(entry["provenance"])
    words = PROVENANCE.get(kind, kind)
    return f"{words} from the abstract" if kind == "reconstruction" and "abstract" in entry["title"] else words


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
            seconds_per_image=_seconds_per_image(spent[attack]),
        )
        for place, attack in enumerate(sorted(document["attacks"], key=strength, reverse=True), 1)
    ]


def fewer_pairs(document: Document) -> list[str]:
    """Attacks whose means are over fewer pairs than others', in words: they were not made on every surrogate, or are
    undefined somewhere.
    """
    found: list[str] = []
    for block in ranked_blocks(document):
        counts = {r.attack: r.scores[block].pairs if block in r.scores else 0 for r in ranking(document)}
        most = max(counts.values(), default=0)
        found += [f"{attack} ({count} of {most} in {block})" for attack, count in counts.items() if count < most]
    return found


def headline(document: Document) -> str:
    """The ranking's first line as a sentence, with the controls to compare it with."""
    block, ranked = ranked_blocks(document)[0], ranking(document)
    known = [(r, r.scores[block]) for r in ranked if block in r.scores and r.scores[block].asr_miou is not None]
    # What was made on other surrogates cannot be compared.
    most = max((score.pairs for _, score in known), default=0)
    known = [(r, score) for r, score in known if score.pairs == most]
    attacks = [(r.attack, score) for r, score in known if r.place is not None]
    if not attacks:
        return ""
    (best, score), *others = attacks
    compared = [f"{name} {percent(s.asr_miou)} %" for name, s in others[:1]]
    compared += [f"{r.attack} {percent(s.asr_miou)} %" for r, s in known if r.place is None]
    where = (
        "on the surrogate itself" if block == WHITE_BOX else f"over {counted(score.pairs, 'pair')} of {_KIND[block]}"
    )
    return f"{best} takes {percent(score.asr_miou)} % of the clean mIoU away on average {where}" + (
        f" ({', '.join(compared)})." if compared else "."
    )


def _scores(entry: dict[str, Any]) -> Scores:
    return Scores(
        entry["asr_miou"],
        entry["asr_pixel"],
        entry["pairs"],
        _ends(entry["asr_miou_interval"]),
        _ends(entry["asr_pixel_interval"]),
    )


def _span(counts: set[int]) -> str:
    """The number, or the fewest and the most."""
    return "–".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else "–"


def _seconds_per_image(costs: Iterable[dict[str, Any]]) -> float | None:
    units = list(costs)
    images = sum(unit["images"] for unit in units)
    return sum(unit["seconds"] for unit in units) / images if images else None


@dataclass(frozen=True)
class Pair:
    """An attack made on one model and scored on another, means over seeds."""

    block: str
    seeds: int
    images: int
    miou_clean: float | None
    miou: float | None
    asr_miou: float | None
    asr_pixel: float | None
    asr_miou_interval: Interval | None
    asr_pixel_interval: Interval | None


def pairs(document: Document) -> dict[tuple[str, str, str], Pair]:
    """The cells by (attack, surrogate, target), means over seeds; intervals are the means of their ends."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell in document["cells"]:
        groups.setdefault((cell["attack"], cell["surrogate"], cell["target"]), []).append(cell)
    return {
        key: Pair(
            block=group[0]["block"],
            seeds=len(group),
            images=min(cell["images"] for cell in group),
            miou_clean=_mean(cell["miou_clean"] for cell in group),
            miou=_mean(cell["miou"] for cell in group),
            asr_miou=_mean(cell["asr_miou"] for cell in group),
            asr_pixel=_mean(cell["asr_pixel"] for cell in group),
            asr_miou_interval=_interval(group, "asr_miou_interval"),
            asr_pixel_interval=_interval(group, "asr_pixel_interval"),
        )
        for key, group in groups.items()
    }


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
    found = {e["attack"]: ClassDrops(e["attack"], e["iou_clean"], e["iou"]) for e in document.get("class_iou", [])}
    return [found[ranked.attack] for ranked in ranking(document) if ranked.attack in found]


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


def signed(value: float | None) -> str:
    """A difference of fractions in points, with its sign."""
    text = percent(value)
    return text if value is None or text.startswith("−") or not float(text) else f"+{text}"


def ends(interval: Interval | None) -> str:
    """An interval in words; nothing where there is none."""
    return "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def _ends(interval: Sequence[float | None]) -> Interval | None:
    low, high = interval
    return None if low is None or high is None else (low, high)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is defined, as in the document's own summary."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _interval(cells: Sequence[dict[str, Any]], name: str) -> Interval | None:
    return _ends((_mean(cell[name][0] for cell in cells), _mean(cell[name][1] for cell in cells)))


def surrogates(document: Document) -> list[str]:
    return list(document["config"]["surrogates"])


def targets(document: Document) -> list[str]:
    """The models that were scored: the surrogates themselves where the configuration names no targets."""
    return list(document["config"]["targets"] or document["config"]["surrogates"])


@dataclass(frozen=True)
class Cost:
    """What an attack cost on one surrogate, over all seeds."""

    attack: str
    surrogate: str
    images: int
    gradient_evaluations: int
    gradient_evaluations_per_iteration: int
    gradient_evaluations_of_preparation: int
    seconds: float
    seconds_per_image: float | None
    peak_memory: int
    zero_gradient_images: int


def costs(document: Document) -> list[Cost]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for unit in document["costs"]:
        groups.setdefault((unit["attack"], unit["surrogate"]), []).append(unit)
    return [
        Cost(
            attack=attack,
            surrogate=surrogate,
            images=sum(unit["images"] for unit in units),
            # With one seed an attack may have failed on every image, which is then not what it takes.
            gradient_evaluations=max(unit["gradient_evaluations"] for unit in units),
            gradient_evaluations_per_iteration=units[0]["gradient_evaluations_per_iteration"],
            gradient_evaluations_of_preparation=units[0]["gradient_evaluations_of_preparation"],
            seconds=sum(unit["seconds"] for unit in units),
            seconds_per_image=_seconds_per_image(units),
            peak_memory=max(unit["peak_memory"] for unit in units),
            zero_gradient_images=sum(unit["zero_gradient_images"] for unit in units),
        )
        for (attack, surrogate), units in groups.items()
    ]


@dataclass(frozen=True)
class Failure:
    """Images that could not be used somewhere, all for the same reason."""

    where: str
    reason: str
    images: list[str]

    @property
    def named(self) -> str:
        """The first three images' names, and how many more there are."""
        more = len(self.images) - _MOST_NAMES
        return ", ".join(self.images[:_MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def failures(document: Document) -> list[Failure]:
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in document["failures"]:
        groups.setdefault((failure["where"], failure["reason"]), []).append(failure["image"])
    return [Failure(where, reason, images) for (where, reason), images in groups.items()]


def clean_miou(document: Document, model: str) -> float | None:
    """A target's mIoU on the clean images; None where its own predictions are the reference, or it was no target."""
    if document["data"]["reference"] != "masks":
        return None
    return next((cell["miou_clean"] for cell in document["cells"] if cell["target"] == model), None)


def joined(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def sentence(document: Document) -> str:
    """What was run."""
    config, data = document["config"], document["data"]
    attacks = [entry for entry in document["attacks"].values() if entry["provenance"] != "control"]
    # Shorter numbers first: 4/255 before 16/255.
    budgets = sorted({f"{e['norm']} {e['eps']}" for e in document["attacks"].values()}, key=lambda b: (len(b), b))
    iterations = sorted({entry["iterations"] for entry in attacks})
    size = f" at {config['size']} × {config['size']} pixels" if config["size"] else ""
    parts = [
        f"{counted(len(attacks), 'attack')} on {counted(len(surrogates(document)), 'surrogate')}, "
        f"scored on {counted(len(targets(document)), 'target')} over {counted(data['images'], 'image')} "
        f"of {data['name']}{size}",
        f"budget {joined(budgets)}",
    ]
    if iterations:
        parts.append(f"{joined([str(n) for n in iterations])} iteration{'' if iterations == [1] else 's'}")
    parts.append(counted(len(config["seeds"]), "seed"))
    return "; ".join(parts) + "."


_OPTIONS = {
    "surrogates": "--surrogate",
    "targets": "--target",
    "attacks": "--attack",
    "data": "--data",
    "limit": "--limit",
    "size": "--size",
    "eps": "--eps",
    "iterations": "--iterations",
    "step_size": "--step-size",
    "seeds": "--seed",
    "device": "--device",
    "batch": "--batch",
    "pictures": "--pictures",
    "out": "--out",
}


def command(document: Document) -> list[str]:
    """The command that does the same run, one line per option; what has its default value is left out."""
    defaults = RunConfig(surrogates=("any",)).model_dump(mode="json")
    changed = {k: v for k, v in document["config"].items() if k == "surrogates" or v != defaults.get(k)}
    lines = ["segtrans run"]
    if changed.get("data") == "images":
        # What `segtrans attack` calls the files it was given; their paths are not kept.
        lines = ["segtrans attack IMAGE…"]
        changed = {k: v for k, v in changed.items() if k not in ("data", "pictures")}
    for key, value in changed.items():
        if isinstance(value, list) and key in _OPTIONS:
            lines += [f"{_OPTIONS[key]} {shlex.quote(str(one))}" for one in value]  # pyright: ignore[reportUnknownVariableType]
        elif key in _OPTIONS:
            lines.append(f"{_OPTIONS[key]} {shlex.quote(str(value))}")
        else:
            lines.append(f"-o {shlex.quote(f'{key}={json.dumps(value)}')}")
    return lines


def seconds(value: float | None) -> str:
    """Three significant figures, more or less."""
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2}f}"

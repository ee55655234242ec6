"""Two runs beside each other, on the attacks and pairs of models that both have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from segtrans.bench.summary import WHITE_BOX, key
from segtrans.report.content import Document, pairs, short_names, surrogates, targets

# What decides no number, and what is plain from the tables; which device it came to be is told.
_NOT_TELLING = (
    *("out", "pictures", "save_images", "track", "baseline", "attacks", "surrogates", "targets"),
    *("batch", "slice", "workers", "engine", "address", "cpus", "gpus", "slurm", "device"),
)


@dataclass(frozen=True)
class Difference:
    """An attack in both runs: means of ``asr_miou`` over the shared pairs of transfer, or the white-box ones where
    there are no others, and the difference of each shared pair, rows being surrogates.
    """

    attack: str
    pairs: int
    white_box: bool
    ours: float
    theirs: float
    rows: list[tuple[str, list[float | None]]]


@dataclass(frozen=True)
class Comparison:
    """``conditions`` says what else differs between the runs, so that nobody takes it for the attacks' doing."""

    name: str
    differences: list[Difference]
    conditions: list[str]


def compare(document: Document, other: Document, name: str) -> Comparison:
    """This run minus the ``other``, which is called ``name``; attacks in the order of this run."""
    ours, theirs, names = pairs(document), pairs(other), short_names(document)
    both: dict[tuple[str, str, str], tuple[float, float]] = {}
    for place, pair in ours.items():
        a, b = pair.asr_miou, theirs[place].asr_miou if place in theirs else None
        if a is not None and b is not None:
            both[place] = a, b
    leads = {place: a - b for place, (a, b) in both.items()}
    differences: list[Difference] = []
    for attack in document["attacks"]:
        shared = [place for place in both if place[0] == attack]
        transfer = [place for place in shared if ours[place].block != WHITE_BOX]
        used = transfer or shared
        if not used:
            continue
        rows = [(names[s], [leads.get((attack, s, t)) for t in targets(document)]) for s in surrogates(document)]
        means = [fmean(both[place][i] for place in used) for i in (0, 1)]
        differences.append(Difference(attack, len(used), not transfer, means[0], means[1], rows))
    return Comparison(name, differences, _conditions(document, other, both))


def _conditions(document: Document, other: Document, shared: Collection[tuple[str, str, str]]) -> list[str]:
    found = _unequal(_settings(document), _settings(other), "not set")
    same_data = document["data"]["hash"] == other["data"]["hash"]
    if not same_data:
        found.append("the images are not the same")
    for kind, value in (("models", "hash"), ("attacks", "value")):
        changed = [name for name, entry in document[kind].items()
                   if name in other[kind] and entry[value] != other[kind][name][value]]  # fmt: skip
        found += [f"{name} is not the same {kind[:-1]}" for name in changed]
    # What failed, or was not done yet, is told nowhere else.
    seeds = {*document["config"]["seeds"]} & {*other["config"]["seeds"]}
    ours, theirs = (
        {
            key(cell): cell["image_set"]
            for cell in run["cells"]
            if key(cell)[:3] in shared and cell["seed"] in seeds and cell["asr_miou"] is not None
        }
        for run in (document, other)
    )
    for attack in document["attacks"]:
        if any(attack == k[0] for k in ours.keys() ^ theirs.keys()):
            found.append(f"{attack} was not scored with the same seeds")
        if same_data and any(attack == k[0] and ours[k] != theirs[k] for k in ours.keys() & theirs.keys()):
            found.append(f"{attack} was not scored on the same images")
    return found + _unequal(_surroundings(document), _surroundings(other), "not installed")


def _settings(document: Document) -> dict[str, Any]:
    return {name: value for name, value in document["config"].items() if name not in _NOT_TELLING}


def _surroundings(document: Document) -> dict[str, str]:
    environment = document["environment"]
    made = {"segtrans": document["segtrans"], "device": environment["device"]}
    return {**made, **environment["libraries"], "torch": environment["torch"]}


def _unequal(ours: Mapping[str, Any], theirs: Mapping[str, Any], missing: str) -> list[str]:
    def said(value: object) -> str:
        return missing if value is None else str(value)

    return [
        f"{name} is {said(ours.get(name))} here and {said(theirs.get(name))} there"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]

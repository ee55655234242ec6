"""Two runs beside each other, on the attacks and pairs of models that both have."""

from dataclasses import dataclass
from statistics import fmean

from segtrans.bench.summary import WHITE_BOX
from segtrans.report.content import Document, pairs, short_names, surrogates, targets

# What decides no number, and what is plain from the tables.
_NOT_TELLING = ("out", "pictures", "save_images", "batch", "baseline", "attacks", "surrogates", "targets")


@dataclass(frozen=True)
class Difference:
    """An attack in both runs: means of ``asr_miou`` over the shared pairs of transfer, or the white-box ones where
    there are no others, and the difference of each shared pair, rows being surrogates.
    """

    attack: str
    pairs: int
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
    for key, pair in ours.items():
        a, b = pair.asr_miou, theirs[key].asr_miou if key in theirs else None
        if a is not None and b is not None:
            both[key] = a, b
    leads = {key: a - b for key, (a, b) in both.items()}
    differences: list[Difference] = []
    for attack in document["attacks"]:
        shared = [key for key in both if key[0] == attack]
        used = [key for key in shared if ours[key].block != WHITE_BOX] or shared
        if not used:
            continue
        rows = [(names[s], [leads.get((attack, s, t)) for t in targets(document)]) for s in surrogates(document)]
        means = [fmean(both[key][i] for key in used) for i in (0, 1)]
        differences.append(Difference(attack, len(used), means[0], means[1], rows))
    return Comparison(name, differences, _conditions(document, other))


def _conditions(document: Document, other: Document) -> list[str]:
    ours, theirs = document["config"], other["config"]

    def said(value: object) -> str:
        return "not set" if value is None else str(value)

    found = [
        f"{key} is {said(ours.get(key))} here and {said(theirs.get(key))} there"
        for key in {**ours, **theirs}
        if key not in _NOT_TELLING and ours.get(key) != theirs.get(key)
    ]
    if document["data"]["hash"] != other["data"]["hash"]:
        found.append("the images are not the same")
    for kind, value in (("models", "hash"), ("attacks", "value")):
        changed = [name for name, entry in document[kind].items()
                   if name in other[kind] and entry[value] != other[kind][name][value]]  # fmt: skip
        found += [f"{name} is not the same {kind[:-1]}" for name in changed]
    if document["segtrans"] != other["segtrans"]:
        found.append(f"segtrans is {document['segtrans']} here and {other['segtrans']} there")
    return found

"""Where a run's numbers come from: what was run, by which command, and what its attacks rest on."""

import json
import shlex

from segtrans.config import RunConfig
from segtrans.data.folder import FILES
from segtrans.report.content import Document, budget, surrogates, targets
from segtrans.report.words import counted, joined

PROVENANCE = {
    "code": "the authors' code",
    "paper": "the paper",
    "third-party": "third-party code",
    "reconstruction": "reconstruction",
    "control": "control, no attack",
    "custom": "composed for this run",
    "foreign": "another library's code",
}

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


def sentence(document: Document) -> str:
    """What was run."""
    config, data = document["config"], document["data"]
    attacks = [entry for entry in document["attacks"].values() if entry["provenance"] != "control"]
    # Shorter numbers first: 4/255 before 16/255; none at all is last.
    budgets = sorted({budget(document, name) for name in document["attacks"]}, key=lambda b: (b == "none", len(b), b))
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


def command(document: Document) -> list[str]:
    """The command that does the same run, one line per option; what has its default value is left out."""
    defaults = RunConfig(surrogates=("any",)).model_dump(mode="json")
    changed = {k: v for k, v in document["config"].items() if k == "surrogates" or v != defaults.get(k)}
    lines = ["segtrans run"]
    if changed.get("data") == FILES:
        # Given to `segtrans attack`, and their paths are not kept.
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


def provenance(document: Document, attack: str) -> str:
    """What our version of an attack rests on, in words."""
    entry = document["attacks"][attack]
    kind = str(entry["provenance"])
    words = PROVENANCE.get(kind, kind)
    return f"{words} from the abstract" if kind == "reconstruction" and "abstract" in entry["title"] else words

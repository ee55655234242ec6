"""Every attack of the catalogue on held-out images: four runs that go on where they were stopped, and their tables.

    python benchmarks/catalogue.py --data voc:VOC [--images 12] [--gradients 50] [-t MODEL …] [-o KEY=VALUE …]

Surrogates and attacks are those of configs/catalogue.yaml, -ensembles.yaml, -searches.yaml and -ops.yaml. Targets are
all VOC models of the zoo and those that are given. With ``--gradients`` there is the first run alone, and of it what
costs no more than so many per image. Images are done twelve at a time, so a run on a larger multiple of twelve keeps
what it has, but for the universal perturbation, which is made on all images at once.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from segtrans import bench
from segtrans.bench.summary import OTHER_BACKBONE, SAME_BACKBONE, WHITE_BOX
from segtrans.catalogue import attack
from segtrans.config import make_config, read_config
from segtrans.report.content import pairs
from segtrans.report.costs import costs
from segtrans.report.ranking import Scores, ranking
from segtrans.report.words import ends, percent, seconds
from segtrans.zoo import cards

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = ("catalogue", "catalogue-ensembles", "catalogue-searches", "catalogue-ops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="VOC with masks")
    parser.add_argument("--images", type=int, default=48, help="at most so many")
    parser.add_argument("--gradients", type=int, help="only attacks of at most so many per image")
    parser.add_argument("--target", "-t", action="append", default=[], help="one more model to score; repeatable")
    parser.add_argument("-o", action="append", default=[], metavar="KEY=VALUE", help="a key of the runs; repeatable")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the four runs")
    given = parser.parse_args()
    targets = [f"zoo:{name}" for name in cards() if name.startswith("voc/")] + given.target
    for name in NAMES if given.gradients is None else NAMES[:1]:
        values = read_config(CONFIGS / f"{name}.yaml")
        values |= {"targets": targets, "data": given.data, "out": given.out / name}
        values["limit"] = min(values["limit"], given.images)
        if given.gradients is not None:
            kept = [t for t in values["attacks"] if t == values["baseline"] or attack(t).evaluations <= given.gradients]
            values["attacks"] = kept
        values |= {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in given.o)}
        document = bench.run(make_config(values))
        print(f"{name}, {document['data']['images']} images:\n\n{table(document)}")


def table(document: dict[str, Any]) -> str:
    """Attacks by mean ``asr_miou`` over pairs of models with different backbones, the strongest first."""
    own: defaultdict[str, list[float]] = defaultdict(list)
    for (name, _, _), pair in pairs(document).items():
        if pair.block == WHITE_BOX and pair.miou is not None:
            own[name].append(pair.miou)
    gradients = {cost.attack: cost.gradient_evaluations for cost in costs(document)}
    lines = [
        "| attack | K | gradients | s per image | own mIoU | other backbone: `asr_miou` | `asr_pixel` "
        "| same backbone: `asr_miou` | `asr_pixel` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for ranked in ranking(document):
        reached = percent(fmean(own[ranked.attack])) if own[ranked.attack] else "–"
        other, same = (ranked.scores.get(block, Scores(None, None, 0)) for block in (OTHER_BACKBONE, SAME_BACKBONE))
        lines.append(
            f"| {ranked.attack} | {ranked.gradients} | {gradients.get(ranked.attack, '–')} "
            f"| {seconds(ranked.seconds_per_image)} | {reached} "
            f"| {percent(other.asr_miou)} ({ends(other.asr_miou_interval)}) | {percent(other.asr_pixel)} "
            f"| {percent(same.asr_miou)} | {percent(same.asr_pixel)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Every attack of the catalogue on held-out images: three runs that go on where they were stopped, and their tables.

    python benchmarks/catalogue.py --data voc:VOCdevkit/VOC2012 [--images 12] [-t MODEL …] [--out FOLDER]

Surrogates and attacks are those of configs/catalogue.yaml, -ensembles.yaml and -ops.yaml. Targets are all VOC models of
the zoo and those that are given. Images are done twelve at a time, so a run on more of them keeps what it has.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from segtrans import bench
from segtrans.bench.summary import OTHER_BACKBONE, SAME_BACKBONE, WHITE_BOX
from segtrans.report.words import ends, percent, seconds
from segtrans.spec import make_config, read_config
from segtrans.zoo import cards

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = ("catalogue", "catalogue-ensembles", "catalogue-ops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="VOC with masks")
    parser.add_argument("--images", type=int, default=48, help="at most so many")
    parser.add_argument("--target", "-t", action="append", default=[], help="one more model to score; repeatable")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the three runs")
    given = parser.parse_args()
    targets = [f"zoo:{name}" for name in cards() if name.startswith("voc/")] + given.target
    for name in NAMES:
        values = read_config(CONFIGS / f"{name}.yaml")
        values |= {"targets": targets, "data": given.data, "out": given.out / name}
        values["limit"] = min(values["limit"], given.images)
        document = bench.run(make_config(values))
        print(f"{name}, {document['data']['images']} images:\n\n{table(document)}")


def table(document: dict[str, Any]) -> str:
    """Attacks by mean ``asr_miou`` over pairs of models with different backbones, the strongest first."""
    blocks: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for row in document["summary"]:
        blocks[row["attack"]][row["block"]] = row
    own: defaultdict[str, list[float]] = defaultdict(list)
    for cell in document["cells"]:
        if cell["block"] == WHITE_BOX:
            own[cell["attack"]].append(cell["miou"])
    cost: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in document["costs"]:
        cost[row["attack"]].append(row)
    lines = [
        "| attack | K | gradients | s per image | own mIoU | other backbone: `asr_miou` | `asr_pixel` "
        "| same backbone: `asr_miou` | `asr_pixel` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    block = OTHER_BACKBONE if any(OTHER_BACKBONE in found for found in blocks.values()) else SAME_BACKBONE
    for attack in sorted(blocks, key=lambda a: -blocks[a][block]["asr_miou"]):
        other, same = (blocks[attack].get(which, {}) for which in (OTHER_BACKBONE, SAME_BACKBONE))
        lines.append(
            f"| {attack} | {cost[attack][0]['gradient_evaluations_per_iteration']} "
            f"| {cost[attack][0]['gradient_evaluations']} "
            f"| {seconds(fmean(row['seconds_per_image'] for row in cost[attack]))} "
            f"| {percent(fmean(own[attack])) if own[attack] else '–'} "
            f"| {percent(other.get('asr_miou'))} ({ends(other.get('asr_miou_interval'))}) "
            f"| {percent(other.get('asr_pixel'))} "
            f"| {percent(same.get('asr_miou'))} | {percent(same.get('asr_pixel'))} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""The table of docs/catalogue.md from finished runs of configs/catalogue.yaml and configs/catalogue-many.yaml.

python benchmarks/catalogue_table.py runs/catalogue runs/catalogue-many
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from segtrans.bench.summary import OTHER_BACKBONE, SAME_BACKBONE, WHITE_BOX
from segtrans.report.content import read_document
from segtrans.report.words import ends, percent, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    for run in parser.parse_args().runs:
        document = read_document(run)
        print(f"{document['data']['images']} images:\n")
        print(table(document))


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
        "| attack | gradients | s per image | own mIoU | other backbone: `asr_miou` | `asr_pixel` "
        "| same backbone: `asr_miou` | `asr_pixel` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for attack in sorted(blocks, key=lambda a: -blocks[a][OTHER_BACKBONE]["asr_miou"]):
        other, same = blocks[attack][OTHER_BACKBONE], blocks[attack].get(SAME_BACKBONE, {})
        lines.append(
            f"| {attack} | {cost[attack][0]['gradient_evaluations']} "
            f"| {seconds(fmean(row['seconds_per_image'] for row in cost[attack]))} "
            f"| {percent(fmean(own[attack])) if own[attack] else '–'} "
            f"| {percent(other['asr_miou'])} ({ends(tuple(other['asr_miou_interval']))}) "
            f"| {percent(other['asr_pixel'])} "
            f"| {percent(same.get('asr_miou'))} | {percent(same.get('asr_pixel'))} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Draws what benchmarks/why.py measured.

python benchmarks/why_figure.py why.json docs/why.png --names "MI" "SegPGD + MI" "DI" "DI + TI" "segtrans"
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOURS = ("#9aa5b1", "#56697d", "#e69f00", "#b35c00", "#0072b2", "#009e73", "#cc79a7")
SIZES = ("up to 1%", "up to 5%", "up to 20%", "up to 100%", "background")


def bars(axes: Axes, rows: list[dict[str, float]], groups: tuple[str, ...]) -> None:
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        at = [group + (place - (len(rows) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(at, [100 * row.get(name, 0) for name in groups], width, color=COLOURS[place])
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.set_ylabel("%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--names", nargs="+", help="of the attacks, in their order")
    options = parser.parse_args()
    document = json.loads(options.json.read_text())
    attacks = document["options"]["attack"]
    names = options.names or attacks

    figure, ((context, size), (moved, flat)) = plt.subplots(2, 2, figsize=(10, 6.6))
    bars(context, [document["context"][a] for a in attacks], ("own", "another image", "noise", "grey"))
    context.set_title("Pixels turned in the central quarter, by what surrounds it", fontsize=9)
    bars(size, [document["object size"][a] for a in attacks], SIZES)
    size.set_title("Pixels turned, by the object's share of the image", fontsize=9)

    for place, attack in enumerate(attacks):
        style = {"color": COLOURS[place], "marker": "o", "markersize": 4, "linewidth": 1.5}
        at = document["features of the surrogate"][attack]["1"], document["features of targets"][attack]["1"]
        moved.scatter(*at, s=60, color=COLOURS[place], label=names[place])
        radii = document["flatness"][attack]
        flat.plot([int(r.partition("/")[0]) for r in radii], [100 * v for v in radii.values()], **style)
    moved.set_title("How far features move at the last layer, relative to their length", fontsize=9)
    moved.set_xlabel("on the surrogate")
    moved.set_ylabel("on the targets")
    moved.legend(fontsize=8, frameon=False)
    flat.set_title("Loss gained on the surrogate that outlives random signs", fontsize=9)
    flat.set_xlabel("grey levels of the random signs")
    flat.set_ylabel("%")
    for axes in (context, size, moved, flat):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(options.out, dpi=130)


if __name__ == "__main__":
    main()

"""The picture of docs/zoo.md from a finished run of configs/diversity.yaml, with means over backbones.

python benchmarks/diversity_figure.py runs/diversity docs/diversity.png
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt

from segtrans.report.content import pairs, read_document, short_names, surrogates, targets
from segtrans.report.words import percent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of one attack")
    parser.add_argument("picture", type=Path, help="where to write the picture")
    arguments = parser.parse_args()
    document = read_document(arguments.run)
    (attack,) = document["attacks"]
    found, names = pairs(document), short_names(document)
    rows, columns = surrogates(document), targets(document)
    values = [[100 * (found[attack, s, t].asr_miou or 0) for t in columns] for s in rows]

    figure, axes = plt.subplots(figsize=(1.5 + 1.15 * len(columns), 1.6 + 0.5 * len(rows)), layout="constrained")
    axes.imshow(values, cmap="YlOrRd", vmin=0, vmax=100, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axes.text(j, i, percent(value / 100), ha="center", va="center", color="white" if value > 65 else "black")
    axes.set_xticks(range(len(columns)), [names[t].replace("-", "\n") for t in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), [names[s] for s in rows], fontsize=8)
    axes.set_xlabel("scored on")
    axes.set_ylabel("made on")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"asr_miou in % under {attack}, {document['data']['images']} images", fontsize=10)
    figure.savefig(arguments.picture, dpi=130)
    print(f"wrote {arguments.picture}")

    means: defaultdict[str, list[float]] = defaultdict(list)
    for (_, surrogate, target), pair in found.items():
        if pair.asr_miou is not None:
            ours, theirs = (document["models"][name]["backbone"] for name in (surrogate, target))
            means[f"{ours} to {'itself' if surrogate == target else theirs}"].append(pair.asr_miou)
            means[pair.block].append(pair.asr_miou)
    for what, shares in means.items():
        print(f"{what}: {percent(fmean(shares))} over {len(shares)} pairs")


if __name__ == "__main__":
    main()

"""Why some perturbations transfer: what they need of the context, what they do to features, how flat their loss is, and
on which objects they work.

    .venv/bin/python benchmarks/why.py --data voc:VOCdevkit --skip 48 --limit 24 \
        -s zoo:voc/deeplabv3-mobilenetv3s -s zoo:voc/pspnet-efficientnetlite0 \
        -t zoo:voc/deeplabv3plus-mobilenetv3s -t zoo:voc/deeplabv3plus-efficientnetlite0 \
        -a mi -a "segpgd(random_start=False) + mi" -a segtrans --out why.json

Prints tables in Markdown, means over images, surrogates and the targets of other backbones, and writes all numbers.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy import ndimage
from torch import Tensor

from segtrans.catalogue import attack
from segtrans.data import load_data
from segtrans.data.base import VOID, resize
from segtrans.features import find_layer, forward_with
from segtrans.io import to_tensor
from segtrans.logits import predicted_classes
from segtrans.models import SegModel, load_model
from segtrans.objectives.base import pixel_losses, valid_mean

BINS = (0.01, 0.05, 0.2, 1.0)
"""Upper bounds of the share of the image that an object covers."""
RADII = (2, 4, 8)
"""Grey levels of the random signs that are added where the loss's flatness is asked."""
DEPTHS = (0.5, 1.0)
"""Shares of a network's depth at which features are compared."""
DRAWS = 4


@dataclass(frozen=True)
class Case:
    """One image as a surrogate's attack left it, rounded to 8 bits."""

    x: Tensor
    adversarial: Tensor
    y: Tensor
    other: Tensor
    """Another image of the data, for its content."""


def context(model: SegModel, case: Case) -> Iterator[tuple[str, float, float]]:
    """Of the pixels in the central quarter that are right, how many an attack turns, whatever lies around: the rest of
    the picture, or grey, noise, or another picture, which is the same before and after.
    """
    height, width = case.y.shape[-2:]
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    noise = torch.rand(case.x.shape, generator=torch.Generator().manual_seed(0))
    fillers = {"own": None, "grey": torch.full_like(case.x, 0.5), "noise": noise, "another image": case.other}
    for name, filler in fillers.items():
        before, after = (
            predicted_classes(model(image if filler is None else image.where(inside, filler)))
            for image in (case.x, case.adversarial)
        )
        right = (before == case.y) & (case.y != VOID) & inside
        yield name, float((right & (after != case.y)).sum()), float(right.sum())


def features(model: SegModel, case: Case) -> Iterator[tuple[str, float, float]]:
    """How far an attack moves a model's features, as a share of their length."""
    for depth in DEPTHS:
        layer = find_layer(model, depth, case.x)
        before, after = (forward_with(layer, model, z, stop=True)[1] for z in (case.x, case.adversarial))
        yield f"{depth:g}", float((after - before).norm() / before.norm()), 1.0


def flatness(model: SegModel, case: Case) -> Iterator[tuple[str, float, float]]:
    """What of the loss that an attack gained on its surrogate is left after random signs are added to its image."""

    def loss(image: Tensor) -> float:
        return float(valid_mean(pixel_losses(model(image), case.y), case.y)[0])

    random, clean, attacked = torch.Generator().manual_seed(0), loss(case.x), loss(case.adversarial)
    for radius in RADII:
        signs = [torch.randint(0, 2, case.x.shape, generator=random) * 2 - 1 for _ in range(DRAWS)]
        left = sum(loss((case.adversarial + s * radius / 255).clamp(0, 1)) for s in signs) / DRAWS
        yield f"{radius}/255", left - clean, attacked - clean


def sizes(model: SegModel, case: Case) -> Iterator[tuple[str, float, float]]:
    """Of the pixels that are right, how many an attack turns, by the size of the object that they belong to."""
    before, after = (predicted_classes(model(image)) for image in (case.x, case.adversarial))
    right, labels = (before == case.y) & (case.y != VOID), case.y[0]
    turned = right & (after != case.y)
    yield "background", float((turned & (case.y == 0)).sum()), float((right & (case.y == 0)).sum())
    for label in labels.unique().tolist():
        if label in (0, VOID):
            continue
        parts, count = ndimage.label((labels == label).numpy())
        for number in range(1, count + 1):
            part = torch.from_numpy(parts == number)[None]
            share = float(part.float().mean())
            name = next(f"up to {bound:.0%}" for bound in BINS if share <= bound)
            yield name, float((turned & part).sum()), float((right & part).sum())


def quotients(found: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Sum over sum, so that what counts is pixels and not images."""
    return {name: sum(a for a, _ in pairs) / max(sum(b for _, b in pairs), 1e-9) for name, pairs in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    for name in ("surrogate", "target", "attack"):
        parser.add_argument(f"-{name[0]}", f"--{name}", action="append", required=True)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    samples = [resize(s, options.size) for s in load_data(options.data).take(options.limit, skip=options.skip)]
    images = [to_tensor(sample.image)[None] for sample in samples]
    labels = [sample.label[None] for sample in samples if sample.label is not None]
    models = {name: load_model(name) for name in dict.fromkeys((*options.surrogate, *options.target))}
    document: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for text in options.attack:
        found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        crafted = attack(text)
        for surrogate in options.surrogate:
            own = models[surrogate]
            others = [models[t] for t in options.target if models[t].backbone != own.backbone]
            for place, (x, y) in enumerate(zip(images, labels, strict=True)):
                adversarial = crafted.threat.quantise(crafted(own, x, y), x)
                case = Case(x, adversarial, y, images[(place + 1) % len(images)])
                with torch.inference_mode():
                    probes = [("flatness", flatness, own), ("features of the surrogate", features, own)]
                    for other in others:
                        probes += [("context", context, other), ("features of targets", features, other)]
                        probes += [("object size", sizes, other)]
                    for title, probe, model in probes:
                        for name, a, b in probe(model, case):
                            found[title][name].append((a, b))
        for title, by_name in found.items():
            document[title][text] = quotients(by_name)
        print(f"measured {text}", flush=True)
    for title, rows in document.items():
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        print(f"\n{title}\n\n| attack | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
        for text, row in rows.items():
            print(f"| {text} | " + " | ".join(f"{row[name]:.3f}" if name in row else "" for name in names) + " |")
    given = {name: value for name, value in vars(options).items() if name != "out"}
    options.out.write_text(json.dumps({"options": given, **document}, indent=2) + "\n")


if __name__ == "__main__":
    main()

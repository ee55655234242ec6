"""From a name to trained weights with a card."""

import subprocess
from dataclasses import asdict, replace
from pathlib import Path

from segtrans.data import Dataset, load_data
from segtrans.devices import pick_device
from segtrans.errors import UsageError, check_whole, unknown
from segtrans.zoo.cards import Card, publish
from segtrans.zoo.networks import BACKBONES, HEADS
from segtrans.zoo.train import RECIPES, load_canvas, train


def train_and_publish(
    name: str,
    data: str,
    evaluation: str,
    weights: Path,
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> Card:
    """Train the network that ``name`` (GROUP/HEAD-BACKBONE) spells and write its weights and card into ``out``.

    Raises:
        UsageError: a name of another form, unknown group, head or backbone, no steps, or data without masks or of
            different numbers of classes. DataError: an image, a mask or a checkpoint that cannot be read.
    """
    group, slash, network = name.partition("/")
    head, dash, backbone = network.partition("-")
    if not (slash and dash and group):
        raise UsageError(f"zoo model is {name!r}; expected GROUP/HEAD-BACKBONE, such as voc/pspnet-mobilenetv3s")
    if group not in RECIPES:
        raise unknown("zoo group", group, RECIPES)
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    if backbone not in BACKBONES:
        raise unknown("backbone", backbone, BACKBONES)
    if steps is not None:
        check_whole("steps", steps, 1)
    recipe = RECIPES[group] if steps is None else replace(RECIPES[group], steps=steps)
    training, held_out = load_data(data), load_data(evaluation)
    _check(training, held_out)
    canvas = load_canvas(training, recipe.side)
    found = train(
        head,
        backbone,
        canvas,
        len(training.classes),
        recipe=recipe,
        weights=weights,
        checkpoint=out / f"{name}.ckpt",
        seed=seed,
        device=pick_device(device),
        quiet=quiet,
    )
    return publish(
        out,
        {
            "name": name,
            "head": head,
            "backbone": backbone,
            "max_side": recipe.max_side,
            "training_data": f"{training.name}, {len(training)} images",
            "recipe": asdict(recipe),
            "seed": seed,
            "commit": _commit(),
            "evaluation_data": held_out.name,
        },
        found,
        held_out,
    )


def _check(training: Dataset, held_out: Dataset) -> None:
    """That what is trained on the one can be evaluated on all of the other, which would else show hours later."""
    for data, use in (training, "train"), (held_out, "evaluate"):
        if not data.classes:
            raise UsageError(f"data set {data.name!r} has no masks to {use} on")
    if len(training.classes) != len(held_out.classes):
        raise UsageError(
            f"training data {training.name!r} has {len(training.classes)} classes, evaluation data {held_out.name!r} "
            f"{len(held_out.classes)}; they must be the same"
        )
    for _ in held_out:
        pass  # read, or refused


def _commit() -> str:
    """The commit of this source tree, or nothing outside a repository."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()

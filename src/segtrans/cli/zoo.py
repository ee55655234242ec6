"""Commands on the embedded models."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from segtrans.cli.options import DATA, AsJson, Quiet, Shown, What, Where, command, zoo_app
from segtrans.cli.output import print_json
from segtrans.errors import UsageError


@command("segtrans zoo verify --data voc:VOCdevkit/VOC2012", to=zoo_app)
def verify(
    data: Annotated[str, What("--data", help="The evaluation data of the cards, such as voc:PATH.", **DATA)],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Recompute every card's figures on the data it names."""
    from segtrans.data import load_data
    from segtrans.zoo.cards import verify_cards

    dataset = load_data(data)
    found: list[dict[str, Any]] = []
    for card, score, accuracy in verify_cards(dataset):
        same = abs(score - card.miou) <= 0.1 and abs(accuracy - card.pixel_accuracy) <= 0.1
        found.append({"name": card.name, "miou": score, "pixel_accuracy": accuracy, "same": same})
        if not as_json and not (quiet and same):
            sys.stdout.write(
                f"{card.name}: mIoU {score:.2f} (card {card.miou:.2f}), pixel accuracy {accuracy:.2f} "
                f"(card {card.pixel_accuracy:.2f}) {'ok' if same else 'DIFFERENT'}\n"
            )
    if not found:
        raise UsageError(f"no card was made on data of the kind {dataset.name!r} with its classes")
    if as_json:
        print_json(found)
    raise typer.Exit(0 if all(card["same"] for card in found) else 1)


@command("segtrans zoo table", name="table", to=zoo_app)
def table_() -> None:
    """Print the cards as a Markdown table, as docs/zoo.md shows it."""
    from segtrans.zoo.cards import table

    sys.stdout.write(table())


@command(
    "segtrans zoo train voc/pspnet-mobilenetv3s --data 'voc:VOCdevkit/VOC2012?split=train' \\\n"
    "      --evaluation voc:VOCdevkit/VOC2012 --weights backbones --out zoo",
    to=zoo_app,
)
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="GROUP/HEAD-BACKBONE, such as voc/pspnet-mobilenetv3s.")],
    data: Annotated[str, What("--data", help="Training data, such as voc:PATH?split=train.", **DATA)],
    evaluation: Annotated[str, What("--evaluation", help="Evaluation data of the card, such as voc:PATH.", **DATA)],
    weights: Annotated[Path, What(metavar="FOLDER", help="Folder with the ImageNet backbones.")],
    out: Annotated[Path, Shown(metavar="FOLDER", help="Folder for weights, card and checkpoint.")],
    steps: Annotated[int | None, typer.Option(metavar="N", help="Optimisation steps; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Start of the random numbers.")] = 0,
    device: Annotated[str, Where("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a zoo model, store it as fp16 with its card; a run that was killed goes on."""
    from dataclasses import asdict

    from segtrans.zoo.recipe import train_and_publish

    card = train_and_publish(name, data, evaluation, weights, out, steps=steps, seed=seed, device=device, quiet=quiet)
    if as_json:
        print_json(asdict(card))
    elif not quiet:
        sys.stdout.write(f"{card.name}: mIoU {card.miou:.2f}, pixel accuracy {card.pixel_accuracy:.2f}\n")

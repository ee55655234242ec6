"""The zoo on disk: fp16 weights, and beside each file a card that says what it is and what it reached."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segtrans.data import Dataset
from segtrans.errors import DataError, UsageError, unknown
from segtrans.io import file_hash, to_tensor, write_atomically, write_json
from segtrans.logits import predicted_classes
from segtrans.metrics import miou, tally
from segtrans.models.base import Preprocessing, SegModel
from segtrans.zoo.networks import BACKBONES, OUTPUT_STRIDE, build

SHIPPED = Path(__file__).parent / "weights"
"""Models inside the package, which work offline."""

ROOTS = (SHIPPED, Path(__file__).parents[3] / "zoo")
"""Where models are looked for: the package, then the folder of a checkout that holds those too many for a wheel."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a zoo model is, how it was trained, and what it reaches at native image size.

    ``half_agreement`` is the share of pixels, in percent, that the stored fp16 weights predict as the trained float32
    ones did; None for models trained before it was measured.
    """

    name: str
    head: str
    backbone: str
    classes: tuple[str, ...]
    max_side: int
    training_data: str
    recipe: dict[str, Any]
    seed: int
    commit: str
    parameters: int
    evaluation_data: str
    images: int
    miou: float
    pixel_accuracy: float
    sha256: str
    half_agreement: float | None = None


def cards(roots: Sequence[Path] = ROOTS) -> dict[str, Path]:
    """Card files by model name, such as ``voc/pspnet-mobilenetv3s``."""
    paths = [(path.relative_to(root), path) for root in roots for path in root.glob("*/*.json")]
    return {relative.with_suffix("").as_posix(): path for relative, path in sorted(paths)}


def read_card(path: Path) -> Card:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values["classes"] = tuple(values["classes"])
        return Card(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a readable model card ({error})") from None


def load_zoo(name: str, roots: Sequence[Path] = ROOTS) -> SegModel:
    """A zoo model by its card's name, frozen and in evaluation mode.

    Raises:
        UsageError: no such model. DataError: the weights are not those the card was written for.
    """
    found = cards(roots)
    if name not in found:
        raise unknown("zoo model", name, found)
    card = read_card(found[name])
    weights = found[name].with_suffix(".safetensors")
    if not weights.is_file() or file_hash(weights) != card.sha256:
        raise DataError(f"{weights}: missing, or its hash differs from the one on its card; restore the file")
    network = build(card.head, card.backbone, len(card.classes))
    network.load_state_dict(in_precision(torch.float32, load_file(weights)))
    return as_model(network, card.head, card.backbone, card.classes, card.max_side, f"zoo:{name}")


def as_model(
    network: nn.Module, head: str, backbone: str, classes: tuple[str, ...], max_side: int, name: str
) -> SegModel:
    """A network of the zoo with its preprocessing."""
    encoder = BACKBONES[backbone]
    preprocessing = Preprocessing(
        mean=encoder.mean,
        std=encoder.std,
        max_side=max_side,
        # torchvision's FCN takes any size, smp's heads want whole strides.
        multiple=1 if head == "fcn" else OUTPUT_STRIDE,
    )
    return SegModel(network, classes, preprocessing=preprocessing, name=name, backbone=encoder.encoder)


def in_precision(dtype: torch.dtype, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of that type, counters as they are."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}


def predictions(model: SegModel, data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Truth and prediction, both (H, W), of every image at native size."""
    device = next(model.parameters()).device
    for sample in data:
        if sample.label is None:
            raise UsageError(f"image {sample.name!r} has no mask to evaluate on")
        # The mode is the caller's wherever the generator stops.
        with torch.inference_mode():
            prediction = predicted_classes(model(to_tensor(sample.image)[None].to(device)))[0].cpu()
        yield sample.label, prediction


def evaluate(model: SegModel, data: Dataset) -> tuple[float, float]:
    """mIoU and pixel accuracy, in percent, over the whole set at native size."""
    classes = len(data.classes)
    total = torch.zeros(3, classes, dtype=torch.int64)
    for truth, prediction in predictions(model, data):
        total += tally(truth[None], prediction[None], classes)[0]
    return 100 * float(miou(total)), 100 * float(total[0].sum() / total[1].sum())


def agreement(one: SegModel, other: SegModel, data: Dataset) -> float:
    """Share of all pixels, in percent, that two models predict alike at native size."""
    same = pixels = 0
    for (_, ours), (_, theirs) in zip(predictions(one, data), predictions(other, data), strict=True):
        same, pixels = same + int((ours == theirs).sum()), pixels + ours.numel()
    return 100 * same / pixels


def publish(root: Path, card: dict[str, Any], weights: dict[str, Tensor], data: Dataset) -> Card:
    """Store weights as fp16, evaluate what was stored, and write the card: ``card`` holds all but what is measured."""
    path = root / f"{card['name']}.safetensors"
    write_atomically(path, lambda temporary: save_file(in_precision(torch.float16, weights), temporary))

    def model(state: dict[str, Tensor]) -> SegModel:
        network = build(card["head"], card["backbone"], len(data.classes))
        network.load_state_dict(state)
        return as_model(network, card["head"], card["backbone"], data.classes, card["max_side"], card["name"])

    stored = model(in_precision(torch.float32, load_file(path)))
    score, accuracy = evaluate(stored, data)
    full = Card(
        **card,
        classes=data.classes,
        parameters=sum(p.numel() for p in stored.parameters()),
        images=len(data),
        miou=round(score, 2),
        pixel_accuracy=round(accuracy, 2),
        sha256=file_hash(path),
        half_agreement=round(agreement(stored, model(weights), data), 3),
    )
    write_json(path.with_suffix(".json"), asdict(full))
    return full


def verify_cards(data: Dataset) -> Iterator[tuple[Card, float, float]]:
    """Each card that names ``data``'s kind and classes, with mIoU and pixel accuracy computed anew."""
    for name, path in cards().items():
        card = read_card(path)
        if (card.evaluation_data, card.classes) == (data.name, data.classes):
            yield card, *evaluate(load_zoo(name), data)


def table() -> str:
    """The cards as a Markdown table, for the documents."""
    rows = [
        "| model | parameters | trained on | mIoU | pixel accuracy | fp16 as fp32 |",
        "|---|---|---|---|---|---|",
    ]
    for card in map(read_card, cards().values()):
        samples = f"{card.recipe['steps'] * card.recipe['batch']:,} windows of {card.training_data.split(', ')[1]}"
        half = "not measured" if card.half_agreement is None else f"{card.half_agreement:.3f} %"
        rows.append(
            f"| `zoo:{card.name}` | {card.parameters / 1e6:.1f} M | {samples} | {card.miou:.2f} % | "
            f"{card.pixel_accuracy:.2f} % | {half} |"
        )
    return "\n".join(rows) + "\n"

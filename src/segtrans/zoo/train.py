"""The recipe that trained the zoo: `segtrans zoo train NAME`. Runs on one GPU or on CPU cores, resumes when killed."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segtrans.data.base import VOID, Dataset, fit
from segtrans.errors import DataError, UsageError, first_line, lacks_memory
from segtrans.io import write_atomically
from segtrans.zoo.augment import augment
from segtrans.zoo.networks import BACKBONES, build, coarse_logits, encoder_of, load_backbone, shallow_layers


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained; the values are part of its card.

    Attributes:
        side: the long side, in pixels, at which training images are kept; the network sees windows of them.
        max_side: the long side at which the trained network sees images.
        crops: sides of these windows, each for an equal share of the steps: small ones first, since they are cheap.
        visible: bounds of a window's side as a share of the image's longer side.
        steps, batch: optimisation steps and images per step.
        lr, backbone_lr, weight_decay: of AdamW, with linear warm-up over ``warmup`` steps and cosine decay to zero.
        paste: probability of pasting objects of another image.
        dice: weight of the soft Dice term beside cross-entropy.
        average: decay of the exponential moving average of the weights, which is what is kept.
    """

    side: int = 288
    max_side: int = 320
    crops: tuple[int, ...] = (128, 160, 192, 224)
    visible: tuple[float, float] = (0.45, 1.2)
    steps: int = 4500
    batch: int = 16
    lr: float = 1.5e-3
    backbone_lr: float = 5e-4
    weight_decay: float = 0.03
    warmup: int = 100
    paste: float = 0.2
    dice: float = 0.5
    average: float = 0.995


RECIPES = {
    "voc": Recipe(),
    # Street scenes are wide and full of thin things: more pixels, and windows that never look beyond the image. Every
    # image holds nearly every class, so there is nothing to paste.
    "camvid": Recipe(side=480, max_side=480, crops=(160, 192, 224, 256), visible=(0.35, 0.8), steps=2000, paste=0.0),
}
"""The recipe of each group of the zoo."""


@dataclass(frozen=True)
class Canvas:
    """A whole data set as tensors of one size.

    Attributes:
        images: uint8 (N, 3, H, W), padded at the bottom and right with the mean colour.
        labels: uint8 (N, H, W), padded with void.
        weights: float (N,), from 1; images are drawn in proportion to them, ones with rare classes more often.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor

    def fingerprint(self) -> str:
        """SHA-256 of images and labels."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


def load_canvas(data: Dataset, side: int) -> Canvas:
    """Decode every image with its long side at ``side`` and weigh each by the rarity of its rarest class."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for sample in (fit(sample, side) for sample in data):
        if sample.label is None:
            raise UsageError(f"data set {data.name!r} has no masks to train on")
        images.append(torch.from_numpy(sample.image).permute(2, 0, 1))
        labels.append(sample.label.to(torch.uint8))
    height = max(i.shape[-2] for i in images)
    width = max(i.shape[-1] for i in images)
    # Padding is the mean colour of the set, so that borders look like nothing in particular.
    mean = torch.stack([i.float().mean((1, 2)) for i in images]).mean(0).round().to(torch.uint8)
    canvas = mean.view(1, 3, 1, 1).expand(len(images), 3, height, width).clone()
    ids = torch.full((len(images), height, width), VOID, dtype=torch.uint8)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        canvas[i, :, : image.shape[-2], : image.shape[-1]] = image
        ids[i, : label.shape[-2], : label.shape[-1]] = label
    return Canvas(canvas, ids, _rarity(ids, len(data.classes)))


def _rarity(labels: Tensor, classes: int) -> Tensor:
    """Sampling weight per image: the largest 1/sqrt(image frequency) among its classes."""
    present = torch.stack([torch.bincount(y.flatten().long(), minlength=256)[:classes] > 50 for y in labels])
    frequency = present.float().mean(0).clamp_min(1 / len(labels))
    return (present / frequency.sqrt()).amax(1).clamp_min(1.0)


def _loss(logits: Tensor, labels: Tensor, dice: float) -> Tensor:
    if dice == 0:
        return F.cross_entropy(logits, labels, ignore_index=VOID)
    valid = (labels != VOID)[:, None]
    truth = F.one_hot(torch.where(labels == VOID, 0, labels), logits.shape[1]).permute(0, 3, 1, 2) * valid
    p = logits.softmax(1) * valid
    overlap, total, present = (p * truth).sum((0, 2, 3)), (p + truth).sum((0, 2, 3)), truth.sum((0, 2, 3)) > 0
    score = (2 * overlap + 1) / (total + 1)
    soft = ((1 - score) * present).sum() / present.sum().clamp_min(1)
    return F.cross_entropy(logits, labels, ignore_index=VOID) + dice * soft


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 pays: on CPU cores without units for it, it is slower than float32."""
    return device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


class Trainer:
    """Weights, optimiser, average and step count of one training run; everything a checkpoint holds."""

    def __init__(self, network: nn.Module, backbone: str, data: Canvas, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.weights = data.weights.to(device)
        self.mean = torch.tensor(BACKBONES[backbone].mean, device=device)
        self.std = torch.tensor(BACKBONES[backbone].std, device=device)
        self.frozen = shallow_layers(network)
        for layer in self.frozen:
            layer.requires_grad_(False)
        encoder = {id(p) for p in encoder_of(network).parameters()}
        trained = [p for p in network.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) in encoder]},
            {"params": [p for p in trained if id(p) not in encoder]},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.step = 0

    def batch(self) -> tuple[Tensor, Tensor]:
        """A class-balanced, augmented batch, normalised for the backbone."""
        index = torch.multinomial(self.weights, self.recipe.batch, replacement=True)
        images, labels = augment(
            self.images[index].float() / 255,
            self.labels[index].long(),
            self.mean,
            crop=self.crop,
            visible=self.recipe.visible,
            paste=self.recipe.paste,
        )
        normal = (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        return normal.contiguous(memory_format=torch.channels_last), labels

    @property
    def crop(self) -> int:
        """The window's side at the present step."""
        crops = self.recipe.crops
        return crops[min(self.step * len(crops) // self.recipe.steps, len(crops) - 1)]

    def set_rates(self) -> None:
        """Warm-up, then cosine decay, for backbone and head."""
        r = self.recipe
        done = (self.step - r.warmup) / max(1, r.steps - r.warmup)
        factor = min(1.0, (self.step + 1) / r.warmup) * 0.5 * (1 + math.cos(math.pi * max(0.0, done)))
        for group, rate in zip(self.optimiser.param_groups, (r.backbone_lr, r.lr), strict=True):
            group["lr"] = rate * factor

    def optimise(self, images: Tensor, labels: Tensor) -> Tensor:
        """One gradient step; returns the loss."""
        self.network.train()
        for layer in self.frozen:
            layer.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=_multiplies_bfloat16(self.device)):
            logits = coarse_logits(self.network, images)
        # Comparing at a quarter of the resolution costs a sixteenth and loses next to nothing.
        coarse = labels[:, 2::4, 2::4]
        logits = F.interpolate(logits.float(), coarse.shape[-2:], mode="bilinear", align_corners=False)
        loss = _loss(logits, coarse, self.recipe.dice)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.detach()

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"].cpu())
        if state["device_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_rng"].cpu())


def train(
    head: str,
    backbone: str,
    data: Canvas,
    classes: int,
    *,
    recipe: Recipe,
    weights: Path,
    checkpoint: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    every: int = 500,
    quiet: bool = False,
) -> dict[str, Tensor]:
    """Train one network and return the averaged weights (float32, on the CPU).

    A checkpoint is written every ``every`` steps; a run that was killed goes on from it, with the same random numbers
    as if it had not been killed.
    """
    device = torch.device(device)
    torch.manual_seed(seed)
    network = build(head, backbone, classes)
    load_backbone(network, backbone, weights)
    trainer = Trainer(network, backbone, data, recipe, device)
    identity = {"head": head, "backbone": backbone, "seed": seed, "data": data.fingerprint(), **asdict(recipe)}
    if checkpoint.exists():
        try:
            saved = torch.load(checkpoint, map_location=device, weights_only=True)
            if saved["identity"] != identity:
                raise UsageError(f"{checkpoint}: belongs to another run; delete it or name another checkpoint")
            trainer.restore(saved["state"])
        except (UsageError, OSError):
            raise
        except Exception as error:
            # Only what is wrong with the file is a reason to delete it.
            if lacks_memory(error):
                raise
            raise DataError(f"{checkpoint}: not a readable checkpoint ({first_line(error)}); delete it") from error

    def save() -> None:
        write_atomically(checkpoint, lambda path: torch.save({"identity": identity, "state": trainer.state()}, path))

    loss = torch.zeros(())
    for _ in _bar(trainer.step, recipe.steps, f"{head}-{backbone}", quiet):
        trainer.set_rates()
        loss = trainer.optimise(*trainer.batch())
        trainer.step += 1
        trainer.average.update_parameters(trainer.network)
        if trainer.step % every == 0 and trainer.step < recipe.steps:
            save()
    found = {name: value.cpu().contiguous() for name, value in trainer.average.module.state_dict().items()}
    if not math.isfinite(float(loss)) or not all(v.isfinite().all() for v in found.values() if v.is_floating_point()):
        raise UsageError(f"training {head}-{backbone} diverged; lower the learning rate")
    save()
    return found


def _bar(start: int, stop: int, what: str, quiet: bool) -> Iterator[int]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=quiet) as progress:
        task = progress.add_task(what, total=stop, completed=start)
        for step in range(start, stop):
            yield step
            progress.advance(task)

"""Doing a plan: craft on each surrogate, round to 8 bits, re-read, score on every target, keep what is finished."""

import resource
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from segtrans.bench.plan import Plan, Unit
from segtrans.bench.store import Shard, slug
from segtrans.data.base import Sample, resize
from segtrans.errors import DataError, ModelError
from segtrans.io import to_pixels, to_tensor, write_image
from segtrans.metrics import Counts, confusion
from segtrans.models import SegModel


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, where, and why."""

    image: str
    where: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a run left: a clean shard per model, a shard per finished unit, failures, and whether it was stopped."""

    clean: dict[str, Shard]
    units: dict[Unit, Shard]
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False
    resumed: int = 0


@dataclass
class _Stop:
    """Whether the user asked to stop."""

    asked: bool = field(default=False)


def execute(plan: Plan, *, quiet: bool = False) -> Outcome:
    """Run every unit of a plan that is not finished yet.

    Ctrl-C once finishes the unit in hand, twice stops at once; finished units stay on disk either way.

    Raises:
        DataError: not one image could be read.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress, _interruptible() as stop:
        clean = _predict_clean(plan, progress)
        units: dict[Unit, Shard] = {}
        resumed = 0
        overall = progress.add_task("units", total=len(plan.units))
        for unit in plan.units:
            if stop.asked:
                break
            identity = plan.unit_identity(unit)
            shard = plan.store.read(unit.name, identity)
            if shard is None:
                shard = _work(plan, unit, clean, progress)
                plan.store.write(unit.name, identity, shard)
            else:
                resumed += 1
            units[unit] = shard
            progress.advance(overall)
    shards = [(f"clean {model}", shard) for model, shard in clean.items()]
    shards += [(f"{u.attack} on {u.surrogate}, seed {u.seed}", shard) for u, shard in units.items()]
    failures = [Failure(f[0], where, f[1]) for where, shard in shards for f in shard.header["failures"]]
    return Outcome(clean, units, tuple(_once(failures)), stop.asked, resumed)


def _once(failures: list[Failure]) -> list[Failure]:
    """An unreadable image is met by every model; it is reported once."""
    seen = {(f.image, f.reason): f for f in reversed(failures)}
    return [f for f in failures if seen[f.image, f.reason] is f]


@contextmanager
def _interruptible() -> Generator[_Stop]:
    """The first Ctrl-C asks to stop, the second stops."""
    stop = _Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        print("finishing the unit in hand; press Ctrl-C again to stop at once", file=sys.stderr)  # noqa: T201

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread, where signals cannot be handled
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _batches(plan: Plan, names: set[str] | None, failures: list[tuple[str, str]]) -> Iterator[list[Sample]]:
    """The run's images in batches of one size; an unreadable one goes to ``failures`` and is left out."""
    batch: list[Sample] = []
    for index, item in enumerate(plan.data.items):
        if names is not None and item.name not in names:
            continue
        try:
            sample = plan.data[index]
        except DataError as error:
            failures.append((item.name, str(error)))
            continue
        if plan.config.size is not None:
            sample = resize(sample, plan.config.size)
        if batch and (len(batch) == plan.config.batch or sample.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _predict_clean(plan: Plan, progress: Progress) -> dict[str, Shard]:
    """Every model's clean masks, on disk, and their confusion counts."""
    shards: dict[str, Shard] = {}
    for name, model in plan.models.items():
        unit, identity = f"clean--{slug(name)}", plan.clean_identity(name)
        shard = plan.store.read(unit, identity)
        if shard is None:
            shard = _clean(plan, name, model, progress)
            plan.store.write(unit, identity, shard)
        shards[name] = shard
    return shards


def _clean(plan: Plan, name: str, model: SegModel, progress: Progress) -> Shard:
    images: list[str] = []
    unreadable: list[tuple[str, str]] = []
    unusable: list[tuple[str, str]] = []
    counts: list[Tensor] = []
    task = progress.add_task(f"clean {model.name}", total=len(plan.data))
    for samples in _batches(plan, None, unreadable):
        predictions, finite = _predict(model, _images(samples, plan.device))
        for sample, prediction, fine in zip(samples, predictions, finite, strict=True):
            if fine:
                plan.store.write_mask(plan.store.clean_mask_path(name, sample.name), prediction)
                truth = prediction if sample.label is None else sample.label
                counts.append(confusion(truth[None], prediction[None], len(model.classes)))
                images.append(sample.name)
            else:
                unusable.append((sample.name, f"model {name!r} returned NaN or infinite logits"))
        progress.advance(task, len(samples))
    progress.remove_task(task)
    if unusable and not images:
        raise ModelError(f"{unusable[0][1]} on every image")
    if not images:
        raise DataError(f"no image of {plan.data.name!r} can be read; the first: {unreadable[0][1]}")
    return Shard({"clean": torch.cat(counts).int()}, {"images": images, "failures": unreadable + unusable})


def _images(samples: list[Sample], device: torch.device) -> Tensor:
    return torch.stack([to_tensor(sample.image) for sample in samples]).to(device)


def _predict(model: SegModel, x: Tensor) -> tuple[Tensor, list[bool]]:
    """Class ids (N, H, W) on the CPU, and for which images the logits were finite."""
    with torch.inference_mode():
        logits = model(x)
        return logits.argmax(1).cpu(), logits.isfinite().flatten(1).all(1).tolist()


def _work(plan: Plan, unit: Unit, clean: dict[str, Shard], progress: Progress) -> Shard:
    """One unit from start to end."""
    surrogate, attack, config, store = plan.models[unit.surrogate], plan.attacks[unit.attack], plan.config, plan.store
    targets = {name: plan.models[name] for name in plan.targets}
    # An image counts only where every model could make something of the clean one, so that all cells see the same set.
    usable = set.intersection(*(set(clean[name].header["images"]) for name in (unit.surrogate, *targets)))
    pictured = {item.name for item in plan.data.items[: config.pictures]}
    images: list[str] = []
    failures: list[tuple[str, str]] = []
    parts: dict[str, list[Counts]] = {name: [] for name in targets}
    stalled, seconds = 0, 0.0
    _reset_memory(plan.device)
    task = progress.add_task(f"{unit.attack} on {surrogate.name}", total=len(plan.data))
    for samples in _batches(plan, usable, []):
        x = _images(samples, plan.device)
        y = None if samples[0].label is None else torch.stack([_label(s) for s in samples]).to(plan.device)
        started = time.perf_counter()
        result = attack.perturb(surrogate, x, y, seed=unit.seed, chunk=config.batch)
        grid = attack.threat.quantise(result.adversarial, x)
        _synchronise(plan.device)
        seconds += time.perf_counter() - started
        stalled += int(result.stalled.sum())
        pixels = [to_pixels(image) for image in grid]
        for i, sample in enumerate(samples):
            if config.save_images or sample.name in pictured:
                path = store.image_path(unit.surrogate, unit.attack, unit.seed, sample.name)
                pixels[i] = store.keep_image(path, pixels[i])
        attacked = torch.stack([to_tensor(p) for p in pixels]).to(plan.device)
        fine = [not failed for failed in result.failed.tolist()]
        reasons = {
            i: f"surrogate {unit.surrogate!r} returned NaN or infinite logits" for i, ok in enumerate(fine) if not ok
        }
        predictions: dict[str, Tensor] = {}
        viewers = {unit.surrogate: surrogate} if pictured & {s.name for s in samples} else {}
        for name, model in {**targets, **viewers}.items():
            predictions[name], finite = _predict(model, attacked)
            for i, ok in enumerate(finite):
                if not ok and i not in reasons:
                    reasons[i] = f"model {name!r} returned NaN or infinite logits on the adversarial image"
        for i, sample in enumerate(samples):
            if i in reasons:
                failures.append((sample.name, reasons[i]))
                continue
            images.append(sample.name)
            for name in targets:
                before = store.read_mask(store.clean_mask_path(name, sample.name))
                truth = before if sample.label is None else sample.label
                after = predictions[name][i]
                parts[name].append(Counts.of(truth[None], before[None], after[None], len(plan.models[name].classes)))
            if sample.name in pictured:
                write_image(store.clean_image_path(sample.name), sample.image)
                if sample.label is not None:
                    store.write_mask(store.label_path(sample.name), sample.label)
                for name, prediction in predictions.items():
                    path = store.mask_path(name, unit.surrogate, unit.attack, unit.seed, sample.name)
                    store.write_mask(path, prediction[i])
        progress.advance(task, len(samples))
    progress.remove_task(task)
    tensors: dict[str, Tensor] = {}
    for number, name in enumerate(targets):
        if parts[name]:
            counts = Counts.concatenate(parts[name])
            tensors |= {f"{number}.attacked": counts.attacked.int(), f"{number}.clean": counts.clean.int()}
            tensors |= {f"{number}.flipped": counts.flipped, f"{number}.changed": counts.changed}
    header = {
        "images": images,
        "failures": failures,
        "stalled": stalled,
        "seconds": seconds,
        "peak_memory": _peak_memory(plan.device),
        "evaluations": attack.evaluations,
    }
    return Shard(tensors, header)


def _label(sample: Sample) -> Tensor:
    if sample.label is None:
        raise DataError(f"image {sample.name!r} has no mask but others of its data set have")
    return sample.label


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU the most allocated since the unit began, elsewhere the process's peak so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

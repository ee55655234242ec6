"""One piece of work: a model's clean predictions of some images, or an attack on them that is crafted, rounded to
8 bits, re-read, scored on every target and kept.
"""

import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import Progress
from torch import Tensor

from segtrans.bench.plan import Plan, Unit
from segtrans.bench.store import Shard
from segtrans.data.base import Sample, resize
from segtrans.errors import DataError, ModelError, UsageError
from segtrans.io import Pixels, read_image, to_pixels, to_tensor
from segtrans.logits import finite_images, predicted_classes
from segtrans.metrics import Counts
from segtrans.models import SegModel

NOT_FINITE = "returned NaN or infinite logits"
TOO_LARGE = "does not fit into memory even with one image at a time"

WRITERS = 8
"""Threads that write images."""

_LACKING = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED")
"""How PyTorch and CUDA's libraries say so where the error is of no kind of its own."""

Found = TypeVar("Found")
Item = TypeVar("Item")
Clean = Mapping[tuple[str, range], Shard]
"""Per model and slice of the images on which of them the model is usable."""


@contextmanager
def exact(device: torch.device) -> Generator[None]:
    """Full float32 on GPUs: TensorFloat-32, which convolutions use unless told otherwise, is another attack."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def clean_work(plan: Plan, model: str, images: range, progress: Progress) -> Shard:
    """A model's clean masks of some images, on disk, and on which of them it is usable."""
    name, identity = plan.clean_name(model, images), plan.clean_identity(model, images)
    found = plan.store.read(name, identity)
    if found is not None:
        return found
    plan.check_device()
    usable: list[str] = []
    unreadable: list[tuple[str, str]] = []
    unusable: list[tuple[str, str]] = []
    task = progress.add_task(f"clean {plan.models[model].name}", total=len(images))
    for samples in _ahead(batches(plan, images, None, unreadable)):
        predictions, faults = predict(plan.models[model], images_of(samples, plan.device))
        for sample, prediction, fault in zip(samples, predictions, faults, strict=True):
            if fault:
                unusable.append((sample.name, f"model {model!r} {fault}"))
            else:
                plan.store.write_mask(plan.clean_path(model, sample.name), prediction)
                usable.append(sample.name)
        progress.advance(task, len(samples))
    progress.remove_task(task)
    shard = Shard({}, {"images": usable, "failures": unreadable + unusable})
    _keep(plan, name, identity, shard)
    return shard


def batches(
    plan: Plan, images: range, names: set[str] | None, failures: list[tuple[str, str]], most: int | None = None
) -> Iterator[list[Sample]]:
    """Some images, of them those named if any are, in batches of one size, ``most`` in each or as many as the
    configuration says; an unreadable one goes to ``failures`` and is left out.
    """
    most = plan.config.batch if most is None else most
    batch: list[Sample] = []
    for place in images:
        item = plan.data.items[place]
        if names is not None and item.name not in names:
            continue
        try:
            sample = plan.data[place]
        except DataError as error:
            failures.append((item.name, str(error)))
            continue
        if plan.config.size is not None:
            sample = resize(sample, plan.config.size)
        if batch and (len(batch) == most or sample.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same, of which each is made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _clean_mask(plan: Plan, name: str, sample: Sample) -> Tensor:
    """A model's mask of a clean image; made again where its file was lost or damaged."""
    path = plan.clean_path(name, sample.name)
    try:
        return plan.store.read_mask(path)
    except DataError:
        (prediction,), (fault,) = predict(plan.models[name], images_of([sample], plan.device))
        if fault:
            raise ModelError(f"model {name!r} {fault} on {sample.name!r}, though not before") from None
        plan.store.write_mask(path, prediction)
        return prediction


def images_of(samples: list[Sample], device: torch.device) -> Tensor:
    return torch.stack([to_tensor(sample.image) for sample in samples]).to(device)


def predict(model: SegModel, x: Tensor) -> tuple[Tensor, list[str]]:
    """Class ids (N, H, W) on the CPU, and what was wrong with each image, or nothing."""

    def chunked(chunk: int) -> tuple[Tensor, list[str]]:
        masks: list[Tensor] = []
        faults: list[str] = []
        for part in x.split(chunk):
            logits = model(part)
            masks.append(predicted_classes(logits).cpu())
            faults += ["" if fine else NOT_FINITE for fine in finite_images(logits).tolist()]
        return torch.cat(masks), faults

    with torch.inference_mode():
        found, _ = _fitting(chunked, len(x))
    return found or (torch.zeros_like(x[:, 0], dtype=torch.int64, device="cpu"), [TOO_LARGE] * len(x))


def _fitting(do: Callable[..., Found], chunk: int) -> tuple[Found | None, int]:
    """What ``do`` finds with ``chunk`` images in the model at once, or with half as many as often as memory does not
    suffice, and that number; None where not even one fits.
    """
    while True:
        try:
            return do(chunk=chunk), chunk
        except (RuntimeError, MemoryError) as error:
            lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or _LACKING.search(str(error))
            if not lacking:
                raise
        # Out of the except clause, since the error holds on to what was in memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if chunk == 1:
            return None, 1
        chunk //= 2


def _keep(plan: Plan, name: str, identity: str, shard: Shard, *basis: Shard) -> None:
    """Put a finished shard on disk, unless it or one that it builds on lacks an image for want of memory, of which
    there may be more another time.
    """
    reasons = [reason for one in (shard, *basis) for _, reason in one.header["failures"]]
    if not any(reason.endswith(TOO_LARGE) for reason in reasons):
        plan.store.write(name, identity, shard)


class UnitWork:
    """One unit: what of it is on disk already, and the rest."""

    def __init__(self, plan: Plan, unit: Unit, clean: Clean, progress: Progress) -> None:
        self.plan, self.unit, self.trial, self.progress = plan, unit, unit.trial, progress
        self.chunk, self.complete = plan.config.batch, True
        self.basis: dict[str, list[Shard]] = defaultdict(list)
        for view in plan.views_of(unit):
            self.basis[view[0]].append(clean[view])
        self.usable = {name: {i for shard in of for i in shard.header["images"]} for name, of in self.basis.items()}
        self.crafted = plan.store.read(plan.unit_name(unit), plan.unit_identity(unit))
        found = {t: plan.store.read(plan.score_name(unit, t), plan.score_identity(unit, t)) for t in plan.targets}
        self.scores = {target: shard for target, shard in found.items() if shard is not None}
        self.parts: dict[str, list[Counts]] = {t: [] for t in plan.targets if t not in self.scores}
        self.scored: dict[str, list[str]] = {target: [] for target in self.parts}
        self.failures: dict[str, list[tuple[str, str]]] = {target: [] for target in self.parts}

    def finish(self) -> tuple[Shard, dict[str, Shard]]:
        """Do what is missing; what was crafted, and a score per target."""
        drawable = self._drawable()
        if self.parts or not drawable:
            self.plan.check_device()
            if not (drawable and self._reread()):
                self._craft()
        assert self.crafted is not None
        for target, parts in self.parts.items():
            tensors: dict[str, Tensor] = {}
            if parts:
                counts = Counts.concatenate(parts)
                tensors = {"attacked": counts.attacked.int(), "clean": counts.clean.int()}
                tensors |= {"flipped": counts.flipped, "changed": counts.changed}
            shard = Shard(tensors, {"images": self.scored[target], "failures": self.failures[target]})
            name, identity = self.plan.score_name(self.unit, target), self.plan.score_identity(self.unit, target)
            if self.complete:
                basis = [self.crafted, *self.basis[self.trial.surrogate], *self.basis[target]]
                _keep(self.plan, name, identity, shard, *basis)
            self.scores[target] = shard
        return self.crafted, self.scores

    def _drawable(self) -> bool:
        """Whether the unit is crafted, and those of its images that are to be drawn can be read."""
        if self.crafted is None:
            return False
        try:
            for image in {*self.crafted.header["images"]} & {*self.plan.pictured}:
                read_image(self.path(image))
        except DataError:
            return False
        return True

    def path(self, image: str) -> Path:
        return self.plan.adversarial_path(self.unit, image)

    def _craft(self) -> None:
        """Attack every usable image, and score each batch while it is in memory."""
        plan, unit, trial = self.plan, self.unit, self.trial
        surrogate, attack = plan.models[trial.surrogate], plan.attacks[trial.attack]
        images: list[str] = []
        failures: list[tuple[str, str]] = []
        attacked, stalled, seconds, spent = 0, 0, 0.0, 0
        _reset_memory(plan.device)
        task = self.progress.add_task(f"{trial.attack} on {surrogate.name}", total=len(unit.images))
        # What all images share is made on all of them at once.
        most = len(unit.images) if attack.shared else None
        # What could be read for the clean predictions and cannot be now, may be read another time.
        lost: list[tuple[str, str]] = []
        for samples in _ahead(batches(plan, unit.images, self.usable[trial.surrogate], lost, most)):
            x = images_of(samples, plan.device)
            labels = [s.label for s in samples if s.label is not None]
            y = torch.stack(labels).to(plan.device) if labels else None
            started = time.perf_counter()
            reason = f"attack {trial.attack!r} on {trial.surrogate!r} {TOO_LARGE}"
            try:
                result, self.chunk = _fitting(partial(attack.perturb, surrogate, x, y, seed=trial.seed), self.chunk)
            except (ModelError, UsageError) as error:
                # A network may have no residual blocks for an attack that changes them, an image be smaller than a
                # patch; others can do it. Attacks that nothing can do were refused when planning.
                result, reason = None, f"attack {trial.attack!r} cannot be made on {trial.surrogate!r}: {error}"
            self.progress.advance(task, len(samples))
            if result is None:
                failures += [(sample.name, reason) for sample in samples]
                continue
            grid = attack.threat.quantise(result.adversarial, x)
            synchronise(plan.device)
            seconds += time.perf_counter() - started
            attacked += len(samples)
            stalled += int(result.stalled.sum())
            spent = max(spent, result.evaluations)
            failed = result.failed.tolist()
            reason = f"surrogate {trial.surrogate!r} {NOT_FINITE}"
            failures += [(sample.name, reason) for sample, bad in zip(samples, failed, strict=True) if bad]
            fine = [(sample, image) for sample, image, bad in zip(samples, grid, failed, strict=True) if not bad]
            # Packed and flushed side by side: a disk takes longer to say that it has a file than a GPU to fill it.
            with ThreadPoolExecutor(WRITERS) as threads:
                kept = list(threads.map(self._kept, *zip(*fine, strict=True))) if fine else []
            images += [sample.name for sample, _ in kept]
            for first in range(0, len(kept), plan.config.batch):
                self._score(kept[first : first + plan.config.batch])
        self.progress.remove_task(task)
        self.complete = not lost
        header = {
            "images": images,
            "failures": failures + lost,
            "attacked": attacked,
            "stalled": stalled,
            "seconds": seconds,
            "peak_memory": _peak_memory(plan.device),
            # Other libraries' attacks do not know beforehand.
            "evaluations": plan.evaluations_per_image(trial).total if attack.attacks else spent,
        }
        self.crafted = Shard({}, header)
        if self.complete:
            name, identity = plan.unit_name(unit), plan.unit_identity(unit)
            _keep(plan, name, identity, self.crafted, *self.basis[trial.surrogate])

    def _kept(self, sample: Sample, image: Tensor) -> tuple[Sample, Pixels]:
        """An adversarial image as it is on disk, or would be if all were kept."""
        pixels = to_pixels(image)
        if self.plan.config.save_images or sample.name in self.plan.pictured:
            pixels = self.plan.store.keep_image(self.path(sample.name), pixels)
        return sample, pixels

    def _reread(self) -> bool:
        """Score the adversarial images on disk; false, and nothing is scored, if one is not there or damaged."""
        assert self.crafted is not None
        lost: list[tuple[str, str]] = []
        try:
            for samples in _ahead(batches(self.plan, self.unit.images, set(self.crafted.header["images"]), lost)):
                self._score([(sample, read_image(self.path(sample.name))) for sample in samples])
        except DataError:
            for found in (self.parts, self.scored, self.failures):
                for values in found.values():
                    values.clear()
            return False
        for failures in self.failures.values():
            failures += lost
        self.complete = not lost
        return True

    def _score(self, kept: list[tuple[Sample, Pixels]]) -> None:
        if not kept:
            return
        plan = self.plan
        attacked = torch.stack([to_tensor(pixels) for _, pixels in kept]).to(plan.device)
        for name, parts in self.parts.items():
            model = plan.models[name]
            use = [i for i, (sample, _) in enumerate(kept) if sample.name in self.usable[name]]
            if not use:
                continue
            predictions, faults = predict(model, attacked[use])
            for i, after, fault in zip(use, predictions, faults, strict=True):
                sample = kept[i][0]
                if fault:
                    self.failures[name].append((sample.name, f"on the adversarial image model {name!r} {fault}"))
                    continue
                before = _clean_mask(plan, name, sample)
                truth = before if sample.label is None else sample.label
                parts.append(Counts.of(truth[None], before[None], after[None], len(model.classes)))
                self.scored[name].append(sample.name)
                if sample.name in plan.pictured:
                    plan.store.write_mask(plan.mask_path(self.unit, name, sample.name), after)


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU the most allocated since the unit began, elsewhere the process's peak so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes, but for macOS.
    return peak if sys.platform == "darwin" else peak * 1024

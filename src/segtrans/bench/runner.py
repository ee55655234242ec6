"""Doing a plan: craft on each surrogate, round to 8 bits, re-read, score on every target, keep what is finished."""

import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from segtrans.bench.plan import Plan, Unit, members
from segtrans.bench.store import Shard, slug
from segtrans.data.base import Sample, resize
from segtrans.errors import DataError, ModelError, SegtransError
from segtrans.io import Pixels, read_image, to_pixels, to_tensor, write_image
from segtrans.metrics import Counts
from segtrans.models import SegModel

NOT_FINITE = "returned NaN or infinite logits"
TOO_LARGE = "does not fit into memory even with one image at a time"

_LACKING = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED")
"""How PyTorch and CUDA's libraries say so where the error is of no kind of its own."""

Found = TypeVar("Found")
Task = TypeVar("Task")


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, where, and why."""

    image: str
    where: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a run left: a clean shard per model, a crafted shard per finished unit, a score per unit and target,
    failures, and whether it was stopped before all was done.
    """

    clean: dict[str, Shard]
    units: dict[Unit, Shard]
    scores: dict[tuple[Unit, str], Shard]
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False


def execute(
    plan: Plan, *, quiet: bool = False, on_unit: Callable[[Unit, Shard, dict[str, Shard]], None] | None = None
) -> Outcome:
    """Run what a plan asks for and is not finished yet; ``on_unit`` is called, in this process, with each unit that is
    finished or was before, what was crafted, and its score per target.

    Other processes at work in the same folder, the plan's own workers or further runs, share it: what one of them is at
    the others leave to it, and what it leaves undone they do.

    Ctrl-C or SIGTERM once finishes the unit in hand, twice stops at once; finished work stays on disk either way.

    Raises:
        DataError: not one image could be read. ModelError: every model failed on every image.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=quiet, transient=True)
    with progress, _interruptible() as stop:
        with _helped(plan, stop, console):
            clean, done = _finish(plan, progress, stop, on_unit)
        with _exact(plan.device):
            _draw_masks(plan, {unit: crafted for unit, (crafted, _) in done.items()})
    units = {unit: done[unit][0] for unit in plan.units if unit in done}
    scores = {(unit, target): done[unit][1][target] for unit in units for target in plan.targets}
    found = [(f"clean {model}", shard) for model, shard in clean.items()]
    found += [(f"{u.attack} on {u.surrogate}, seed {u.seed}", shard) for u, shard in units.items()]
    found += [(f"{u.attack} on {u.surrogate}, seed {u.seed}", shard) for (u, _), shard in scores.items()]
    failures = [Failure(f[0], where, f[1]) for where, shard in found for f in shard.header["failures"]]
    return Outcome(clean, units, scores, tuple(_once(failures)), len(units) < len(plan.units))


def _finish(
    plan: Plan,
    progress: Progress,
    stop: Connection,
    on_unit: Callable[[Unit, Shard, dict[str, Shard]], None] | None = None,
) -> tuple[dict[str, Shard], dict[Unit, tuple[Shard, dict[str, Shard]]]]:
    """Every model's clean predictions, and every unit with its scores; less where asked to stop."""
    found: dict[str, Shard] = {}
    done: dict[Unit, tuple[Shard, dict[str, Shard]]] = {}

    def predict(name: str) -> None:
        found[name] = _clean(plan, name, progress)

    def finish(unit: Unit) -> None:
        done[unit] = _Work(plan, unit, clean, progress).finish()
        if on_unit is not None:
            on_unit(unit, *done[unit])
        progress.advance(overall)

    with _exact(plan.device):
        _share(plan, {name: plan.clean_identity(name) for name in plan.models}, predict, stop)
        clean = {name: found[name] for name in plan.models if name in found}
        if len(clean) == len(plan.models):
            _check_usable(plan, clean)
            overall = progress.add_task("units", total=len(plan.units))
            _share(plan, {unit: plan.unit_identity(unit) for unit in plan.units}, finish, stop)
    return clean, done


def _share(plan: Plan, identities: Mapping[Task, str], do: Callable[[Task], None], stop: Connection) -> None:
    """``do`` every task, which takes no time where it is done, but none that another process is at until it is not."""
    left = list(identities)
    while left:
        waiting: list[Task] = []
        for task in left:
            if stop.poll():
                return
            with plan.store.claim(identities[task]) as mine:
                if mine:
                    do(task)
                else:
                    waiting.append(task)
        if waiting == left:
            time.sleep(0.05)
        left = waiting


@contextmanager
def _helped(plan: Plan, stop: Connection, console: Console) -> Generator[None]:
    """With other processes at the same work, so many that the plan has its workers; they share this one's threads."""
    threads, context = torch.get_num_threads(), get_context("spawn")
    share = max(1, threads // plan.config.workers)
    helpers: list[BaseProcess] = []
    try:
        # They inherit that they heed no signals; that there was one they learn from ``stop``.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for _ in range(plan.config.workers - 1):
                helper = context.Process(target=_help, args=(plan.again, stop, share))
                helper.start()
                helpers.append(helper)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        torch.set_num_threads(share)
        yield
        if stop.poll():
            for helper in helpers:
                helper.join()
    finally:
        torch.set_num_threads(threads)
        codes = [helper.exitcode for helper in helpers if helper.exitcode]
        if codes:
            console.print(f"workers ended early, with exit codes {codes}; others took over", soft_wrap=True)
        # By now everything is done, or was to stop at once.
        for helper in helpers:
            helper.kill()
            helper.join()


def _help(again: Callable[[], Plan], stop: Connection, threads: int) -> None:
    """What another process does: the same work, without a word."""
    torch.set_num_threads(threads)
    try:
        _finish(again(), Progress(disable=True), stop)
    except (SegtransError, OSError) as error:
        sys.exit(f"a worker stopped: {error}")


@contextmanager
def _exact(device: torch.device) -> Generator[None]:
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


def _once(failures: list[Failure]) -> list[Failure]:
    """An unreadable image is met by every model; it is reported once."""
    seen = {(f.image, f.reason): f for f in reversed(failures)}
    return [f for f in failures if seen[f.image, f.reason] is f]


@contextmanager
def _interruptible() -> Generator[Connection]:
    """What can be read from once this process was asked to stop, by Ctrl-C or SIGTERM, or is no more; in processes that
    were given it as well. A second time stops at once.
    """
    stop, writer = Pipe(duplex=False)

    def handle(number: int, frame: FrameType | None) -> None:
        if writer.closed:
            raise KeyboardInterrupt
        writer.close()
        # A signal may come in the middle of a print, which cannot be entered twice.
        os.write(2, b"finishing the unit in hand; press Ctrl-C again to stop at once\n")

    previous: dict[int, Any] = {}
    try:
        # Elsewhere than in the main thread signals cannot be handled.
        if threading.current_thread() is threading.main_thread():
            previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        stop.close()
        writer.close()


def _batches(
    plan: Plan, names: set[str] | None, failures: list[tuple[str, str]], most: int | None = None
) -> Iterator[list[Sample]]:
    """The run's images in batches of one size, ``most`` in each or as many as the configuration says; an unreadable one
    goes to ``failures`` and is left out.
    """
    most = plan.config.batch if most is None else most
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
        if batch and (len(batch) == most or sample.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _clean(plan: Plan, name: str, progress: Progress) -> Shard:
    """A model's clean masks, on disk, and on which images it is usable."""
    unit, identity = f"clean--{slug(name)}-{plan.clean_identity(name)[:8]}", plan.clean_identity(name)
    found = plan.store.read(unit, identity)
    if found is not None:
        return found
    images: list[str] = []
    unreadable: list[tuple[str, str]] = []
    unusable: list[tuple[str, str]] = []
    task = progress.add_task(f"clean {plan.models[name].name}", total=len(plan.data))
    for samples in _batches(plan, None, unreadable):
        predictions, faults = _predict(plan.models[name], _images(samples, plan.device))
        for sample, prediction, fault in zip(samples, predictions, faults, strict=True):
            if fault:
                unusable.append((sample.name, f"model {name!r} {fault}"))
            else:
                plan.store.write_mask(plan.store.png(plan.clean_folder(name), sample.name), prediction)
                images.append(sample.name)
        progress.advance(task, len(samples))
    progress.remove_task(task)
    shard = Shard({}, {"images": images, "failures": unreadable + unusable})
    _keep(plan, unit, identity, shard)
    return shard


def _check_usable(plan: Plan, clean: dict[str, Shard]) -> None:
    """DataError or ModelError unless some model is usable on some image."""
    if not any(shard.header["images"] for shard in clean.values()):
        failures = [failure for shard in clean.values() for failure in shard.header["failures"]]
        models = next((reason for _, reason in failures if reason.startswith("model ")), None)
        if models is not None:
            raise ModelError(f"on every image {models}")
        raise DataError(f"no image of {plan.data.name!r} can be read; the first: {failures[0][1]}")


def _clean_mask(plan: Plan, name: str, sample: Sample) -> Tensor:
    """A model's mask of a clean image; made again where its file was lost or damaged."""
    path = plan.store.png(plan.clean_folder(name), sample.name)
    try:
        return plan.store.read_mask(path)
    except DataError:
        (prediction,), (fault,) = _predict(plan.models[name], _images([sample], plan.device))
        if fault:
            raise ModelError(f"model {name!r} {fault} on {sample.name!r}, though not before") from None
        plan.store.write_mask(path, prediction)
        return prediction


def _images(samples: list[Sample], device: torch.device) -> Tensor:
    return torch.stack([to_tensor(sample.image) for sample in samples]).to(device)


def _predict(model: SegModel, x: Tensor) -> tuple[Tensor, list[str]]:
    """Class ids (N, H, W) on the CPU, and what was wrong with each image, or nothing."""

    def predict(chunk: int) -> tuple[Tensor, list[str]]:
        masks: list[Tensor] = []
        faults: list[str] = []
        for part in x.split(chunk):
            logits = model(part)
            # argmax over channels takes six times as long on a CPU.
            masks.append(logits.max(1).indices.cpu())
            faults += ["" if fine else NOT_FINITE for fine in logits.isfinite().flatten(1).all(1).tolist()]
        return torch.cat(masks), faults

    with torch.inference_mode():
        found, _ = _fitting(predict, len(x))
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


class _Work:
    """One unit: what of it is on disk already, and the rest."""

    def __init__(self, plan: Plan, unit: Unit, clean: dict[str, Shard], progress: Progress) -> None:
        self.plan, self.unit, self.clean, self.progress = plan, unit, clean, progress
        self.chunk = plan.config.batch
        self.usable = {name: set(clean[name].header["images"]) for name in (unit.surrogate, *plan.targets)}
        self.crafted = plan.store.read(plan.unit_name(unit), plan.unit_identity(unit))
        found = {t: plan.store.read(plan.score_name(unit, t), plan.score_identity(unit, t)) for t in plan.targets}
        self.scores = {target: shard for target, shard in found.items() if shard is not None}
        self.parts: dict[str, list[Counts]] = {t: [] for t in plan.targets if t not in self.scores}
        self.scored: dict[str, list[str]] = {target: [] for target in self.parts}
        self.failures: dict[str, list[tuple[str, str]]] = {target: [] for target in self.parts}

    def finish(self) -> tuple[Shard, dict[str, Shard]]:
        """Do what is missing; what was crafted, and a score per target."""
        # Images that are still needed: all of them for a new score, those to be drawn in any case.
        needed = None if self.parts else set(self.plan.pictured)
        if self.crafted is None or not self._on_disk(needed):
            self._craft()
        elif self.parts:
            self._reread()
        assert self.crafted is not None
        for target, parts in self.parts.items():
            tensors: dict[str, Tensor] = {}
            if parts:
                counts = Counts.concatenate(parts)
                tensors = {"attacked": counts.attacked.int(), "clean": counts.clean.int()}
                tensors |= {"flipped": counts.flipped, "changed": counts.changed}
            shard = Shard(tensors, {"images": self.scored[target], "failures": self.failures[target]})
            name, identity = self.plan.score_name(self.unit, target), self.plan.score_identity(self.unit, target)
            _keep(self.plan, name, identity, shard, self.crafted, self.clean[self.unit.surrogate], self.clean[target])
            self.scores[target] = shard
        return self.crafted, self.scores

    def _on_disk(self, needed: set[str] | None) -> bool:
        """Whether the adversarial images, or those of them that are needed, are there."""
        images = self.crafted.header["images"] if self.crafted is not None else ()
        return all(self.path(image).is_file() for image in images if needed is None or image in needed)

    def path(self, image: str) -> Path:
        return self.plan.store.png(self.plan.unit_folder(self.unit), image)

    def _craft(self) -> None:
        """Attack every usable image, and score each batch while it is in memory."""
        plan, unit = self.plan, self.unit
        surrogate, attack = plan.models[unit.surrogate], plan.attacks[unit.attack]
        images: list[str] = []
        failures: list[tuple[str, str]] = []
        stalled, seconds, spent = 0, 0.0, 0
        _reset_memory(plan.device)
        task = self.progress.add_task(f"{unit.attack} on {surrogate.name}", total=len(plan.data))
        # What all images share is made on all of them at once.
        most = len(plan.data) if attack.shared else None
        for samples in _batches(plan, self.usable[unit.surrogate], [], most):
            x = _images(samples, plan.device)
            labels = [s.label for s in samples if s.label is not None]
            y = torch.stack(labels).to(plan.device) if labels else None
            started = time.perf_counter()
            result, self.chunk = _fitting(partial(attack.perturb, surrogate, x, y, seed=unit.seed), self.chunk)
            self.progress.advance(task, len(samples))
            if result is None:
                reason = f"attack {unit.attack!r} on {unit.surrogate!r} {TOO_LARGE}"
                failures += [(sample.name, reason) for sample in samples]
                continue
            grid = attack.threat.quantise(result.adversarial, x)
            _synchronise(plan.device)
            seconds += time.perf_counter() - started
            stalled += int(result.stalled.sum())
            spent = max(spent, result.evaluations)
            kept: list[tuple[Sample, Pixels]] = []
            for sample, image, failed in zip(samples, grid, result.failed.tolist(), strict=True):
                if failed:
                    failures.append((sample.name, f"surrogate {unit.surrogate!r} {NOT_FINITE}"))
                    continue
                pixels = to_pixels(image)
                if plan.config.save_images or sample.name in plan.pictured:
                    pixels = plan.store.keep_image(self.path(sample.name), pixels)
                kept.append((sample, pixels))
                images.append(sample.name)
            for first in range(0, len(kept), plan.config.batch):
                self._score(kept[first : first + plan.config.batch])
        self.progress.remove_task(task)
        header = {
            "images": images,
            "failures": failures,
            "stalled": stalled,
            "seconds": seconds,
            "peak_memory": _peak_memory(plan.device),
            # Other libraries' attacks do not know beforehand.
            "evaluations": attack.evaluations_on(len(members(surrogate))) if attack.attacks else spent,
        }
        self.crafted = Shard({}, header)
        name, identity = plan.unit_name(unit), plan.unit_identity(unit)
        _keep(plan, name, identity, self.crafted, self.clean[unit.surrogate])

    def _reread(self) -> None:
        """Score adversarial images that are on disk."""
        assert self.crafted is not None
        for samples in _batches(self.plan, set(self.crafted.header["images"]), []):
            self._score([(sample, read_image(self.path(sample.name))) for sample in samples])

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
            predictions, faults = _predict(model, attacked[use])
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
                    plan.store.write_mask(plan.store.png(plan.masks_folder(self.unit, name), sample.name), after)


def _draw_masks(plan: Plan, units: dict[Unit, Shard]) -> None:
    """What pictures need beside what scoring left: clean images and labels, and masks of models that were not scored
    (the surrogate itself, say) or of images that were not to be drawn then.
    """
    for samples in _batches(plan, set(plan.pictured), []):
        for sample in samples:
            write_image(plan.store.png(plan.images_folder(), sample.name), sample.image)
            if sample.label is not None:
                plan.store.write_mask(plan.store.png(plan.labels_folder(), sample.name), sample.label)
            for unit, crafted in units.items():
                if unit.seed != plan.config.seeds[0] or sample.name not in crafted.header["images"]:
                    continue
                for name in dict.fromkeys((unit.surrogate, *plan.targets)):
                    path = plan.store.png(plan.masks_folder(unit, name), sample.name)
                    if not path.is_file():
                        pixels = read_image(plan.store.png(plan.unit_folder(unit), sample.name))
                        masks, _ = _predict(plan.models[name], to_tensor(pixels)[None].to(plan.device))
                        plan.store.write_mask(path, masks[0])


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

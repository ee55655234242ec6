"""An attack on some images: crafted, rounded to 8 bits, re-read, scored on every target and kept."""

import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from segtrans.bench.plan import Plan, Unit
from segtrans.bench.predictions import (
    NOT_FINITE,
    TOO_LARGE,
    ahead,
    batches,
    clean_mask,
    fitting,
    keep,
    predict,
)
from segtrans.bench.store import Shard
from segtrans.data import Sample, images_of, labels_of
from segtrans.devices import synchronise
from segtrans.errors import DataError, ModelError, UsageError
from segtrans.io import Pixels, read_image, to_pixels, to_tensor, write_image, write_mask
from segtrans.metrics import Counts

WRITERS = 8
"""Threads that write images."""

Clean = Mapping[tuple[str, range], Shard]
"""Per model and slice of the images on which of them the model is usable."""


@dataclass
class _Made:
    """What attacking has come to so far: gradient evaluations are those of the image that took most."""

    images: list[str] = field(default_factory=list[str])
    failures: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    attacked: int = 0
    stalled: int = 0
    evaluations: int = 0
    seconds: float = 0.0


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
        kept = self._is_kept()
        if self.parts or not kept:
            self.plan.check_device()
            if not (kept and self._reread()):
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
                keep(self.plan, name, identity, shard, *basis)
            self.scores[target] = shard
        return self.crafted, self.scores

    def _is_kept(self) -> bool:
        """Whether the unit is crafted, those of its images that a run keeps are there, and those that are to be drawn
        can be read.
        """
        if self.crafted is None or not self.plan.has_images(self.unit, self.crafted):
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
        surrogate, attack, made = plan.models[trial.surrogate], plan.attacks[trial.attack], _Made()
        _reset_memory(plan.device)
        task = self.progress.add_task(f"{trial.attack} on {surrogate.name}", total=len(unit.images))
        # What all images share is made on all of them at once.
        most = len(unit.images) if attack.shared else None
        # What could be read for the clean predictions and cannot be now, may be read another time.
        lost: list[tuple[str, str]] = []
        for samples in ahead(batches(plan, unit.images, self.usable[trial.surrogate], lost, most)):
            self._attack(samples, made)
            self.progress.advance(task, len(samples))
        self.progress.remove_task(task)
        self.complete = not lost
        header = {
            "images": made.images,
            "failures": made.failures + lost,
            "attacked": made.attacked,
            "stalled": made.stalled,
            "seconds": made.seconds,
            "peak_memory": _peak_memory(plan.device),
            # Other libraries' attacks do not know beforehand.
            "evaluations": plan.evaluations_per_image(trial).total if attack.attacks else made.evaluations,
        }
        self.crafted = Shard({}, header)
        if self.complete:
            name, identity = plan.unit_name(unit), plan.unit_identity(unit)
            keep(plan, name, identity, self.crafted, *self.basis[trial.surrogate])

    def _attack(self, samples: list[Sample], made: _Made) -> None:
        """Attack a batch, and score it."""
        plan, trial = self.plan, self.trial
        surrogate, attack = plan.models[trial.surrogate], plan.attacks[trial.attack]
        x, labels = images_of(samples, plan.device), labels_of(samples)
        y = None if labels is None else labels.to(plan.device)
        started = time.perf_counter()
        result, reason, refused = None, f"attack {trial.attack!r} on {trial.surrogate!r} {TOO_LARGE}", False
        try:
            result, self.chunk = fitting(partial(attack.perturb, surrogate, x, y, seed=trial.seed), self.chunk)
        except (ModelError, UsageError) as error:
            # A network may have no residual blocks for an attack that changes them, an image be smaller than a patch;
            # others can do it. Attacks that nothing can do were refused when planning.
            refused, reason = True, f"attack {trial.attack!r} cannot be made on {trial.surrogate!r}: {error}"
        if refused and len(samples) > 1 and not attack.shared:
            # One image must not take the others along.
            for sample in samples:
                self._attack([sample], made)
            return
        if result is None:
            made.failures += [(sample.name, reason) for sample in samples]
            return
        grid = attack.threat.quantise(result.adversarial, x)
        synchronise(plan.device)
        made.seconds += time.perf_counter() - started
        made.attacked += len(samples)
        made.stalled += int(result.stalled.sum())
        made.evaluations = max(made.evaluations, result.evaluations)
        failed = result.failed.tolist()
        reason = f"surrogate {trial.surrogate!r} {NOT_FINITE}"
        made.failures += [(sample.name, reason) for sample, bad in zip(samples, failed, strict=True) if bad]
        fine = [(sample, image) for sample, image, bad in zip(samples, grid, failed, strict=True) if not bad]
        # Packed and flushed side by side: a disk takes longer to say that it has a file than a GPU to fill it.
        with ThreadPoolExecutor(WRITERS) as threads:
            kept = list(threads.map(self._kept, *zip(*fine, strict=True))) if fine else []
        made.images += [sample.name for sample, _ in kept]
        for first in range(0, len(kept), plan.config.batch):
            self._score(kept[first : first + plan.config.batch])

    def _kept(self, sample: Sample, image: Tensor) -> tuple[Sample, Pixels]:
        """An adversarial image as it is on disk, or would be if all were kept."""
        pixels = to_pixels(image)
        if self.plan.config.save_images or sample.name in self.plan.pictured:
            path = self.path(sample.name)
            write_image(path, pixels)
            pixels = read_image(path)
        return sample, pixels

    def _reread(self) -> bool:
        """Score the adversarial images on disk; false, and nothing is scored, if one is not there or damaged."""
        assert self.crafted is not None
        lost: list[tuple[str, str]] = []
        try:
            for samples in ahead(batches(self.plan, self.unit.images, set(self.crafted.header["images"]), lost)):
                self._score([(sample, self._read(sample)) for sample in samples])
        except DataError:
            for found in (self.parts, self.scored, self.failures):
                for values in found.values():
                    values.clear()
            return False
        for failures in self.failures.values():
            failures += lost
        self.complete = not lost
        return True

    def _read(self, sample: Sample) -> Pixels:
        pixels = read_image(path := self.path(sample.name))
        if pixels.shape != sample.image.shape:
            raise DataError(f"{path}: is of another size than its image")
        return pixels

    def _score(self, kept: list[tuple[Sample, Pixels]]) -> None:
        if not kept or not self.parts:
            return
        plan, samples = self.plan, [sample for sample, _ in kept]
        attacked = torch.stack([to_tensor(pixels) for _, pixels in kept]).to(plan.device)
        truth = labels_of(samples)
        for name, parts in self.parts.items():
            use = [i for i, sample in enumerate(samples) if sample.name in self.usable[name]]
            if not use:
                continue
            predictions, faults = predict(plan.models[name], attacked[use])
            for i, fault in zip(use, faults, strict=True):
                if fault:
                    self.failures[name].append((samples[i].name, f"on the adversarial image model {name!r} {fault}"))
            fine = [k for k, fault in enumerate(faults) if not fault]
            if not fine:
                continue
            use, after = [use[k] for k in fine], predictions[fine]
            before = torch.stack([clean_mask(plan, name, samples[i]) for i in use])
            of = before if truth is None else truth[use]
            counts, _ = fitting(partial(_counts, of, before, after, len(plan.models[name].classes)), len(use))
            assert counts is not None, "what a network had room for can be counted"
            parts.append(counts)
            self.scored[name] += [samples[i].name for i in use]
            for i, mask in zip(use, after, strict=True):
                if samples[i].name in plan.pictured:
                    write_mask(plan.mask_path(self.unit, name, samples[i].name), mask)


def _counts(truth: Tensor, before: Tensor, after: Tensor, classes: int, *, chunk: int) -> Counts:
    """Of many at once and where predictions are: a GPU is not to wait for a CPU that counts image by image."""

    def here(masks: Tensor) -> Tensor:
        return masks.to(after.device).long()

    parts = zip(truth.split(chunk), before.split(chunk), after.split(chunk), strict=True)
    return Counts.concatenate([Counts.of(here(t), here(b), here(a), classes) for t, b, a in parts])


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU the most allocated since the unit began, elsewhere the process's peak so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes, but for macOS.
    return peak if sys.platform == "darwin" else peak * 1024

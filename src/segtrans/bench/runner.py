"""Doing a plan: what is missing is shared among processes, and what all of them left is brought together."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segtrans.bench.engines import ENGINES, Helper, leads, turn
from segtrans.bench.plan import Plan, Trial, Unit
from segtrans.bench.predictions import batches, clean_work, kept_mask
from segtrans.bench.stopping import Stop, interruptible
from segtrans.bench.store import Shard
from segtrans.bench.work import Clean, UnitWork
from segtrans.devices import exact
from segtrans.errors import DataError, ModelError
from segtrans.io import read_image, write_image, write_mask

Task = TypeVar("Task")
Finished = dict[Unit, tuple[Shard, dict[str, Shard]]]
"""Per unit what was crafted, and a score per target."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, where, and why."""

    image: str
    where: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a run left: a crafted shard per finished trial, a score per trial and target, failures, and whether it was
    stopped before all was done.
    """

    trials: dict[Trial, Shard]
    scores: dict[tuple[Trial, str], Shard]
    failures: tuple[Failure, ...] = ()
    interrupted: bool = False


def execute(
    plan: Plan, *, quiet: bool = False, on_trial: Callable[[Trial, Shard, dict[str, Shard]], None] | None = None
) -> Outcome:
    """Run what a plan asks for and is not finished yet; ``on_trial`` is called, in this process, with each trial that
    is finished or was before, what was crafted, and its score per target.

    Other processes at work in the same folder, the plan's own workers or further runs, share it: what one of them is at
    the others leave to it, and what it leaves undone they do.

    Ctrl-C or SIGTERM finishes the units in hand, Ctrl-C after that stops at once; finished work stays on disk either
    way.

    Raises:
        DataError: not one image could be read. ModelError: every model failed on every image.
        MissingError: workers elsewhere left units undone that this machine has no device for.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, disable=quiet or not leads(), transient=True)
    with progress, interruptible() as stop:
        with ENGINES[plan.config.engine](plan, Helper(plan.again, plan.config, finish), stop, progress):
            clean, done = finish(plan, progress, stop, turn(), on_trial)
        with exact(plan.device):
            _draw_masks(plan, clean, done)
    crafted: dict[Trial, Shard] = {}
    scores: dict[tuple[Trial, str], Shard] = {}
    failures = _once(
        [Failure(f[0], f"clean {m}", f[1]) for (m, _), shard in clean.items() for f in shard.header["failures"]]
    )
    found: list[tuple[str, Shard]] = []
    for trial in plan.trials:
        whole = _whole(plan, trial, done)
        if whole is None:
            continue
        crafted[trial] = whole[0]
        scores |= {(trial, target): score for target, score in whole[1].items()}
        where = f"{trial.attack} on {trial.surrogate}, seed {trial.seed}"
        found += [(where, crafted[trial]), *((where, scores[trial, target]) for target in plan.targets)]
    failures += [Failure(f[0], where, f[1]) for where, shard in found for f in shard.header["failures"]]
    return Outcome(crafted, scores, tuple(dict.fromkeys(failures)), len(crafted) < len(plan.trials))


def finish(
    plan: Plan,
    progress: Progress,
    stop: Stop,
    first: float = 0.0,
    on_trial: Callable[[Trial, Shard, dict[str, Shard]], None] | None = None,
) -> tuple[Clean, Finished]:
    """Every model's clean predictions, and every unit with its scores; less where asked to stop. Work begins at this
    ``first`` share of the list, elsewhere in each of several processes.
    """
    found: dict[tuple[str, range], Shard] = {}
    done: Finished = {}

    def look(view: tuple[str, range]) -> None:
        found[view] = clean_work(plan, *view, progress)

    def attack(unit: Unit) -> None:
        done[unit] = UnitWork(plan, unit, clean, progress).finish()
        if on_trial is not None and (whole := _whole(plan, unit.trial, done)) is not None:
            for trial in plan.trials_of(unit):
                on_trial(trial, *whole)
        progress.advance(overall)

    with exact(plan.device):
        views = {(m, images): plan.clean_identity(m, images) for m in plan.models for images in plan.slices}
        _share(plan, views, look, lambda view: plan.is_seen(*view), stop, first)
        clean = {view: found[view] for view in views if view in found}
        if len(clean) == len(views):
            _check_usable(plan, clean)
        # Where asked to stop early, what was finished in another run of this folder is still told of.
        ready = [unit for unit in plan.units if all(view in clean for view in plan.views_of(unit))]
        overall = progress.add_task("units", total=len(plan.units))
        _share(plan, {unit: plan.unit_identity(unit) for unit in ready}, attack, plan.is_whole, stop, first)
    return clean, done


def _share(
    plan: Plan,
    identities: Mapping[Task, str],
    do: Callable[[Task], None],
    is_done: Callable[[Task], bool],
    stop: Stop,
    first: float,
) -> None:
    """``do`` every task, which takes no time where it is done, but none that another process is at until it is not, and
    once asked to stop only what is done.
    """
    left = list(identities)
    # Where a file system knows no locks, this is what keeps processes apart.
    turn = int(first * len(left))
    left = left[turn:] + left[:turn]
    while left:
        waiting: list[Task] = []
        for task in left:
            if stop.poll() and not is_done(task):
                continue
            with plan.store.claim(identities[task]) as mine:
                if mine:
                    do(task)
                else:
                    waiting.append(task)
        if waiting == left:
            time.sleep(0.05)
        left = waiting


def _whole(plan: Plan, trial: Trial, done: Finished) -> tuple[Shard, dict[str, Shard]] | None:
    """What was crafted in a trial and its score per target, or None where a unit of it is not done."""
    units = [done[unit] for unit in plan.units_of(trial) if unit in done]
    if len(units) < len(plan.units_of(trial)):
        return None
    return _together([unit[0] for unit in units]), {t: _together([unit[1][t] for unit in units]) for t in plan.targets}


def _together(shards: Sequence[Shard]) -> Shard:
    """The shards of a trial's units, in the order of the images, as one."""
    if len(shards) == 1:
        return shards[0]
    headers = [shard.header for shard in shards]
    header = {**headers[0]}
    for key, add in (("images", list), ("failures", list), ("seconds", float), ("attacked", int), ("stalled", int)):
        if key in header:
            header[key] = sum((part[key] for part in headers), add())
    for key in ("peak_memory", "evaluations"):
        if key in header:
            header[key] = max(part[key] for part in headers)
    filled = [shard.tensors for shard in shards if shard.tensors]
    names = filled[0] if filled else ()
    return Shard({name: torch.cat([tensors[name] for tensors in filled]) for name in names}, header)


def _check_usable(plan: Plan, clean: Clean) -> None:
    """DataError or ModelError unless some model is usable on some image."""
    if not any(shard.header["images"] for shard in clean.values()):
        failures = [failure for shard in clean.values() for failure in shard.header["failures"]]
        models = next((reason for _, reason in failures if reason.startswith("model ")), None)
        if models is not None:
            raise ModelError(f"on every image {models}")
        raise DataError(f"no image of {plan.data.name!r} can be read; the first: {failures[0][1]}")


def _once(failures: list[Failure]) -> list[Failure]:
    """An unreadable image is met by every model; it is reported once."""
    seen = {(f.image, f.reason): f for f in reversed(failures)}
    return [f for f in failures if seen[f.image, f.reason] is f]


def _draw_masks(plan: Plan, clean: Clean, done: Finished) -> None:
    """What pictures need beside what scoring left: clean images and labels, and masks of models that were not scored
    (the surrogate itself, say) or of images that were not to be drawn then; where a model fails there is none. Files
    that were lost or damaged are made again.
    """
    here = plan.device.type == plan.kind
    usable = {(model, image) for (model, _), shard in clean.items() for image in shard.header["images"]}
    for samples in batches(plan, range(len(plan.pictured)), None, []):
        for sample in samples:
            size = sample.image.shape[:2]
            write_image(plan.image_path(sample.name), sample.image)
            if sample.label is not None:
                write_mask(plan.label_path(sample.name), sample.label)
            for name in plan.models if here else ():
                if (name, sample.name) in usable:
                    path = plan.clean_path(name, sample.name)
                    kept_mask(plan, name, path, size, lambda sample=sample: sample.image)
            for unit, (crafted, _) in done.items():
                seeds = [trial.seed for trial in plan.trials_of(unit)]
                if plan.config.seeds[0] not in seeds or sample.name not in crafted.header["images"]:
                    continue
                adversarial = partial(read_image, plan.adversarial_path(unit, sample.name))
                for name in dict.fromkeys((unit.trial.surrogate, *plan.targets)) if here else ():
                    kept_mask(plan, name, plan.mask_path(unit, name, sample.name), size, adversarial)

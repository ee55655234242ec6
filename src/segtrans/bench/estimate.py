"""What a plan will take, from one batch on each of its models."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from segtrans.bench.plan import Plan, Unit
from segtrans.bench.predictions import batches, fitting, predict
from segtrans.catalogue import attack
from segtrans.data import images_of
from segtrans.devices import exact, synchronise
from segtrans.errors import DataError, ModelError, UsageError
from segtrans.io import encode_png, to_pixels
from segtrans.models import SegModel
from segtrans.models.ensemble import members_of
from segtrans.worst import AnyAttack


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is planned and what of it is left to do.

    Attributes:
        units, done: of work in all, and of them finished.
        images: in the data set.
        gradient_evaluations, forward_passes: left to do, over all images.
        seconds: that these take one process on this machine, as far as one batch per model tells.
        disk_bytes: that the images and masks left to make will fill.
    """

    units: int
    done: int
    images: int
    gradient_evaluations: int
    forward_passes: int
    seconds: float
    disk_bytes: int


def estimate(plan: Plan) -> Estimate:
    """What is left of a plan; nothing of it is done, and nothing written.

    Raises:
        DataError: not one image can be read. MissingError: the plan's device is not here to be timed.
    """
    plan.check_device()
    failures: list[tuple[str, str]] = []
    samples = next(batches(plan, range(len(plan.data)), None, failures), None)
    if samples is None:
        raise DataError(f"no image of {plan.data.name!r} can be read; the first: {failures[0][1]}")
    x, ascent = images_of(samples, plan.device), attack("bim(iterations=2)")
    with exact(plan.device):
        forward = {name: _seconds(partial(predict, model, x), x) for name, model in plan.models.items()}
        left = {unit: _left(plan, unit) for unit in plan.units}
        backward = {
            name: _seconds(partial(_ascend, ascent, plan.models[name], x, plan.config.batch), x)
            / ascent.evaluations_on(len(members_of(plan.models[name]))).total
            for name in {unit.trial.surrogate for unit, (evaluations, _) in left.items() if evaluations}
        }
    # Which labels, makes no difference to noise; without any the model would be asked.
    noise = attack("noise").perturb(plan.models[plan.surrogates[0]], x, torch.zeros_like(x[:, 0]).long()).adversarial
    masks, _ = predict(plan.models[plan.targets[0]], x)
    image_bytes = sum(len(encode_png(to_pixels(image))) for image in noise) / len(samples)
    mask_bytes = sum(len(encode_png(mask.cpu().numpy())) for mask in masks) / len(samples)
    unseen = [
        (model, len(images)) for model in plan.models for images in plan.slices if not plan.is_seen(model, images)
    ]
    kept = len(plan.data) if plan.config.save_images else len(plan.pictured)
    passes = [*unseen, *((target, len(unit.images)) for unit, (_, targets) in left.items() for target in targets)]
    crafted = sum(len(unit.images) for unit, (evaluations, _) in left.items() if evaluations is not None)
    return Estimate(
        units=len(plan.units),
        done=sum(evaluations is None and not targets for evaluations, targets in left.values()),
        images=len(plan.data),
        gradient_evaluations=sum(evaluations or 0 for evaluations, _ in left.values()),
        forward_passes=sum(count for _, count in passes),
        seconds=sum(n * backward[unit.trial.surrogate] for unit, (n, _) in left.items() if n)
        + sum(count * forward[name] for name, count in passes),
        disk_bytes=round(crafted * kept / len(plan.data) * image_bytes + sum(c for _, c in unseen) * mask_bytes),
    )


def _left(plan: Plan, unit: Unit) -> tuple[int | None, list[str]]:
    """Gradient evaluations that crafting a unit asks for, None where it is crafted and need not be again, and the
    targets that it is not scored on yet.
    """
    targets = [t for t in plan.targets if not plan.store.shard_path(plan.score_name(unit, t)).exists()]
    crafted = plan.store.read(plan.unit_name(unit), plan.unit_identity(unit))
    # What is to be scored has to be there, whether it is kept or not.
    there = crafted is not None and plan.has_images(unit, crafted, all_of_them=bool(targets))
    return None if there else plan.evaluations(unit), targets


def _ascend(ascent: AnyAttack, model: SegModel, x: Tensor, chunk: int) -> None:
    """What a run does with a batch: where that cannot be attacked, it takes the images one by one."""
    with suppress(ModelError, UsageError):
        fitting(partial(ascent.perturb, model, x, seed=0), chunk)
        return
    for image in x.split(1) if len(x) > 1 else ():
        _ascend(ascent, model, image, 1)


def _seconds(do: Callable[[], object], x: Tensor) -> float:
    """Per image of ``x``, the second time: the first also sets things up."""
    started = 0.0
    for _ in range(2):
        synchronise(x.device)
        started = time.perf_counter()
        do()
    synchronise(x.device)
    return (time.perf_counter() - started) / len(x)

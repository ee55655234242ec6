"""What a plan will take, from one batch on each of its models."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from segtrans.bench.plan import Plan
from segtrans.bench.work import batches, exact, images_of, predict, synchronise
from segtrans.catalogue import attack
from segtrans.errors import DataError
from segtrans.io import encode_png, to_pixels


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
        backward = {
            name: _seconds(partial(ascent.perturb, plan.models[name], x, seed=0), x) / ascent.evaluations
            for name in plan.surrogates
        }
    noise = attack("noise").perturb(plan.models[plan.surrogates[0]], x, seed=0).adversarial
    masks, _ = predict(plan.models[plan.targets[0]], x)
    image_bytes = sum(len(encode_png(to_pixels(image))) for image in noise) / len(samples)
    mask_bytes = sum(len(encode_png(mask.byte().numpy())) for mask in masks) / len(samples)
    left = [unit for unit in plan.units if not plan.is_done(unit)]
    unseen = [
        (model, len(images))
        for model in plan.models
        for images in plan.slices
        if not plan.store.shard_path(plan.clean_name(model, images)).exists()
    ]
    kept = len(plan.data) if plan.config.save_images else len(plan.pictured)
    scored = sum(len(unit.images) for unit in left)
    return Estimate(
        units=len(plan.units),
        done=len(plan.units) - len(left),
        images=len(plan.data),
        gradient_evaluations=sum(map(plan.evaluations, left)),
        forward_passes=scored * len(plan.targets) + sum(count for _, count in unseen),
        seconds=sum(plan.evaluations(unit) * backward[unit.trial.surrogate] for unit in left)
        + scored * sum(forward[name] for name in plan.targets)
        + sum(count * forward[name] for name, count in unseen),
        disk_bytes=round(scored * kept / len(plan.data) * image_bytes + sum(c for _, c in unseen) * mask_bytes),
    )


def _seconds(do: Callable[[], object], x: Tensor) -> float:
    """Per image of ``x``, the second time: the first also sets things up."""
    started = 0.0
    for _ in range(2):
        synchronise(x.device)
        started = time.perf_counter()
        do()
    synchronise(x.device)
    return (time.perf_counter() - started) / len(x)

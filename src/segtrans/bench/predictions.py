"""What models say of images, as many at once as memory holds; clean masks on disk, and where a model is usable."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from rich.progress import Progress
from torch import Tensor

from segtrans.bench.plan import Plan
from segtrans.bench.store import Shard
from segtrans.data import Sample, images_of
from segtrans.data.base import resize
from segtrans.errors import DataError, ImageSizeError, ModelError, lacks_memory
from segtrans.io import NOT_NOW, Pixels, read_mask, to_tensor, write_mask
from segtrans.logits import finite_images, predicted_classes
from segtrans.models import SegModel

NOT_FINITE = "returned NaN or infinite logits"
TOO_LARGE = "does not fit into memory even with one image at a time"

Found = TypeVar("Found")
Item = TypeVar("Item")


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
    for samples in ahead(batches(plan, images, None, unreadable)):
        predictions, faults = predict(plan.models[model], images_of(samples, plan.device))
        for sample, prediction, fault in zip(samples, predictions, faults, strict=True):
            if fault:
                unusable.append((sample.name, f"model {model!r} {fault}"))
            else:
                write_mask(plan.clean_path(model, sample.name), prediction)
                usable.append(sample.name)
        progress.advance(task, len(samples))
    progress.remove_task(task)
    shard = Shard({}, {"images": usable, "failures": unreadable + unusable})
    keep(plan, name, identity, shard)
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


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same, of which each is made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def clean_mask(plan: Plan, name: str, sample: Sample) -> Tensor:
    """A model's mask of a clean image, uint8 (H, W) on the CPU; made again where its file was lost or damaged."""
    path, size = plan.clean_path(name, sample.name), sample.image.shape[:2]
    mask, fault = kept_mask(plan, name, path, size, lambda: sample.image)
    if fault:
        raise ModelError(f"model {name!r} {fault} on {sample.name!r}, though not before")
    return mask


def kept_mask(
    plan: Plan, name: str, path: Path, size: tuple[int, ...], image: Callable[[], Pixels]
) -> tuple[Tensor, str]:
    """A model's mask of an image of that size, uint8 (H, W) on the CPU, from its file or, where that was lost, damaged
    or changed, made anew; and what was wrong with it then, or nothing. Where something was, there is no file.
    """
    try:
        mask = read_mask(path)
    except DataError:
        mask = None
    if mask is not None and mask.shape == size:
        return torch.from_numpy(mask), ""
    (prediction,), (fault,) = predict(plan.models[name], to_tensor(image())[None].to(plan.device))
    if fault:
        path.unlink(missing_ok=True)
    else:
        write_mask(path, prediction)
    return prediction.cpu(), fault


def predict(model: SegModel, x: Tensor) -> tuple[Tensor, list[str]]:
    """Class ids uint8 (N, H, W) where the images are, and what was wrong with each of them, or nothing."""

    def chunked(chunk: int) -> tuple[Tensor, list[str]]:
        masks: list[Tensor] = []
        faults: list[str] = []
        for part in x.split(chunk):
            logits = model(part)
            masks.append(predicted_classes(logits).byte())
            faults += ["" if fine else NOT_FINITE for fine in finite_images(logits).tolist()]
        return torch.cat(masks), faults

    fault = TOO_LARGE
    try:
        with torch.inference_mode():
            found, _ = fitting(chunked, len(x))
    except ImageSizeError as error:
        if len(x) > 1:
            # What a file holds may take one image at a time.
            alone = [predict(model, one) for one in x.split(1)]
            return torch.cat([mask for mask, _ in alone]), [fault for _, faults in alone for fault in faults]
        found, fault = None, f"failed ({error})"
    return found or (torch.zeros_like(x[:, 0], dtype=torch.uint8), [fault] * len(x))


def fitting(do: Callable[..., Found], chunk: int) -> tuple[Found | None, int]:
    """What ``do`` finds with ``chunk`` images in the model at once, or with half as many as often as memory does not
    suffice, and that number; None where not even one fits.
    """
    while True:
        try:
            return do(chunk=chunk), chunk
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
        # Out of the except clause, since the error holds on to what was in memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if chunk == 1:
            return None, 1
        chunk //= 2


def keep(plan: Plan, name: str, identity: str, shard: Shard, *basis: Shard) -> None:
    """Put a finished shard on disk, unless it or one that it builds on lacks an image for want of memory, or since the
    system could not read it: there may be more, and it may be able to, another time.
    """
    reasons = [reason for one in (shard, *basis) for _, reason in one.header["failures"]]
    if not any(reason.endswith(TOO_LARGE) or NOT_NOW in reason for reason in reasons):
        plan.store.write(name, identity, shard)

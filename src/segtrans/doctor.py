"""What ``segtrans doctor`` says: on what numbers here depend, and what is wrong with a model before it costs hours."""

import os
import platform
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segtrans
from segtrans.attack import Model
from segtrans.bench.identity import versions
from segtrans.data import VOID, batch, load_data
from segtrans.devices import pick_device
from segtrans.errors import ModelError, first_line, lacks_memory, reason
from segtrans.hooks import hooked
from segtrans.logits import predicted_classes
from segtrans.metrics import miou, tally
from segtrans.models import load_model
from segtrans.models.base import Preprocessing, out_of_order
from segtrans.models.ensemble import members_of

SILENT = 0.25
"""The share of pixels with a gradient of exactly zero from which a gradient counts as masked; sound models have next to
none.
"""

NORMALISATIONS = {
    "the mean and std of ImageNet": Preprocessing(),
    "values in [-1, 1] (mean and std 0.5)": Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "values in [0, 1] (mean 0, std 1)": Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)),
    "values in 0 … 255 (mean 0, std 1/255)": Preprocessing(mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255)),
}


@dataclass(frozen=True)
class Finding:
    """Something wrong with a model.

    Attributes:
        fault: its name: ``training mode``, ``memory``, ``no logits``, ``resolution``, ``class count``, ``not finite``,
            ``probabilities``, ``randomness``, ``batch``, ``not differentiable``, ``zero gradient`` or
            ``normalisation``.
        advice: one sentence, what was found and what to do.
    """

    fault: str
    advice: str


def environment() -> dict[str, Any]:
    """Versions, devices and switches that numbers and speed depend on."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "segtrans": segtrans.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": versions(),
        "threads": torch.get_num_threads(),
        "devices": ["cpu", *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))],
        "cuda": torch.version.cuda,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn deterministic": cudnn.deterministic,
        "cudnn benchmark": cudnn.benchmark,
        "cublas workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "tf32 outside of runs": {"matmul": cuda.allow_tf32, "cudnn": cudnn.allow_tf32},
    }


def diagnose(
    models: Sequence[str], data: str = "photos", *, size: int = 128, device: str = "auto"
) -> dict[str, list[Finding]]:
    """What is wrong with each of the models that these names spell, on the first six images of the data."""
    where, read = pick_device(device), load_data(data)
    images, labels = batch(read, size=size) if models else (None, None)
    return {name: examine(load_model(name, where), images, labels, classes=read.classes or None) for name in models}


def examine(
    model: Model,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    classes: Sequence[str] | int | None = None,
) -> list[Finding]:
    """What is wrong with a model as a surrogate or a target; an empty list is a clean bill.

    Nothing of the model is changed: it is looked at in evaluation mode and put back. Missing normalisation is told by
    circumstantial evidence, and so may be missed: a trained network's first batch normalisation remembers what its
    inputs looked like, and where there is none, masks that fit ``labels`` much better under another normalisation.

    Args:
        model: images (N, 3, H, W) in [0, 1] to logits (N, C, H, W), such as a :class:`segtrans.models.SegModel`; of an
            ensemble each member is examined.
        images: float images (N, 3, H, W) in [0, 1], best real photographs; by default six free ones.
        labels: int64 (N, H, W), 255 = void.
        classes: those of the data, or their number.
    """
    if (members := members_of(cast(Any, model))) != (model,):
        found = [(member.name, examine(member, images, labels, classes=classes)) for member in members]
        return [replace(f, advice=f"{name}: {f.advice}") for name, findings in found for f in findings]
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    # Asked in the images' type, as runs ask.
    x = (batch()[0] if images is None else images).detach()
    x = x if weight is None else x.to(weight.device)
    labels = None if labels is None else labels.to(x.device)
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    active = [name or type(module).__name__ for name, module in modules if module.training]
    with _calm(model), torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        found = _findings(model, x, labels, classes)
    if active:
        found["training mode"] = (
            f"{len(active)} module(s) are in training mode, {active[0]!r} first; call model.eval() before attacks and "
            "scores"
        )
    return [Finding(fault, advice) for fault, advice in found.items()]


_BREAKS = RuntimeError, MemoryError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ModelError
"""What a network may raise on images that it was not made for."""


def _findings(model: Model, x: Tensor, labels: Tensor | None, classes: Sequence[str] | int | None) -> dict[str, str]:
    try:
        with torch.no_grad():
            logits, again = model(x), model(x)
    except _BREAKS as error:
        if lacks_memory(error):
            return _memory(x, error)
        return {"no logits": f"the model fails on images {tuple(x.shape)}: {reason(error)}"}
    if not isinstance(cast(Any, logits), Tensor) or logits.ndim != 4 or len(logits) != len(x):
        what = tuple(logits.shape) if isinstance(cast(Any, logits), Tensor) else type(logits).__name__
        return {
            "no logits": f"the model returned {what} instead of logits (N, C, H, W); segtrans.models.wrap makes them"
        }
    found: dict[str, str] = {}
    if logits.shape[-2:] != x.shape[-2:]:
        found["resolution"] = (
            f"logits are {tuple(logits.shape[-2:])} for images {tuple(x.shape[-2:])}; interpolate them to the image's "
            "size inside the model, as segtrans.models.wrap does"
        )
    if advice := _class_count(model, logits.shape[1], labels, classes):
        found["class count"], labels = advice, None
    if not logits.isfinite().all():
        bad = (~logits.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        found["not finite"] = f"logits of image(s) {bad} are NaN or infinite; check weights, precision and input range"
        return found
    mapped = {c for c in getattr(model, "label_map", None) or range(logits.shape[1]) if c is not None}
    low, high = (float(end) for end in logits[:, sorted(mapped)].aminmax())
    if 0 <= low < high <= 1:
        found["probabilities"] = (
            f"all outputs lie between {low:.3g} and {high:.3g}, as probabilities do; return logits, that is, leave out "
            "the last softmax or sigmoid, which flattens the loss"
        )
    spread = 1e-6 + float(logits.std())
    if not torch.allclose(logits, again, rtol=1e-4, atol=1e-4 * spread):
        found["randomness"] = (
            f"two passes over the same images differ by up to {float((logits - again).abs().max()):.3g}; switch off "
            "what draws random numbers in evaluation mode, or results cannot be repeated"
        )
    elif advice := _alone(model, x[:1], logits[:1], 1e-2 * spread):
        found["batch"] = advice
    return found | _gradient(model, x, logits) | _normalisation(model, x, labels)


def _alone(model: Model, x: Tensor, logits: Tensor, tolerance: float) -> str | None:
    """What is wrong with logits of an image that is alone in its batch, beside those that it has among others."""
    try:
        with torch.no_grad():
            alone = model(x)
    except _BREAKS as error:
        return f"the model fails on one image alone, {tuple(x.shape)}: {reason(error)}"
    if not isinstance(cast(Any, alone), Tensor) or alone.shape != logits.shape:
        what = tuple(alone.shape) if isinstance(cast(Any, alone), Tensor) else type(alone).__name__
        return f"the model returned {what} for one image alone, {tuple(x.shape)}, and not {tuple(logits.shape)}"
    if (apart := float((logits - alone).abs().max())) <= tolerance:
        return None
    return (
        f"logits of the first image differ by up to {apart:.3g} when it is alone in its batch; look for batch "
        "normalisation without running statistics, or results depend on how images are put together"
    )


def _memory(x: Tensor, error: Exception) -> dict[str, str]:
    return {"memory": f"there is not enough of it for images {tuple(x.shape)} ({first_line(error)}); try smaller ones"}


def _class_count(model: Model, count: int, labels: Tensor | None, classes: Sequence[str] | int | None) -> str | None:
    names: Sequence[str] = getattr(model, "classes", ())
    theirs, classes = ((), classes) if classes is None or isinstance(classes, int) else (classes, len(classes))
    most = -1 if labels is None or (labels == VOID).all() else int(labels[labels != VOID].max())
    if names and len(names) != count:
        return f"the model names {len(names)} classes and returns logits of {count}; name as many as it has"
    if classes not in (None, count):
        return (
            f"the model has {count} classes and the data {classes}; choose the right weights or give a label map, with "
            f"data_classes={classes} if it names fewer"
        )
    if difference := out_of_order(names, theirs):
        return f"the model has the data's classes in another order ({difference}); give a label map"
    if most >= count:
        return (
            f"labels contain class {most}, but the model has {count} classes; give a label map, or mark void by {VOID}"
        )
    return None


def _gradient(model: Model, x: Tensor, logits: Tensor) -> dict[str, str]:
    """How the loss of the model's own prediction depends on the image."""
    leaf, gradient = x.clone().requires_grad_(), None
    try:
        with torch.enable_grad():
            loss = F.cross_entropy(model(leaf), logits.argmax(1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True)
        why = "the loss does not depend on the image"
    except (RuntimeError, MemoryError) as error:
        if lacks_memory(error):
            return _memory(x, error)
        why = first_line(error)
    if gradient is None:
        return {
            "not differentiable": f"no gradient reaches the image ({why}); look for detach(), no_grad(), argmax or "
            "NumPy on the way to the logits, or use the model as a target only"
        }
    if not gradient.isfinite().all():
        return {"not finite": "the gradient is NaN or infinite; look for roots, logarithms or divisions at zero"}
    silent = float((gradient == 0).all(1).double().mean())
    if silent <= SILENT:
        return {}
    return {
        "zero gradient": f"the gradient is exactly zero at {silent:.0%} of the pixels; look for rounding, masks, "
        "clamps or saturated outputs on the way to the logits, since no gradient attack gets past them"
    }


def _normalisation(model: Model, x: Tensor, labels: Tensor | None) -> dict[str, str]:
    """Whether the network was trained on inputs that another normalisation gives. These are rules of thumb: the first
    batch normalisation's statistics fit well (below 0.4) with another and badly (above 0.2, 1.7 times as much) with the
    model's own, or masks with another are right by 0.1 more mIoU.
    """
    own = cast(Preprocessing, getattr(model, "preprocessing", NORMALISATIONS["values in [0, 1] (mean 0, std 1)"]))

    def seen(p: Preprocessing) -> Tensor:
        """Images that the model's own normalisation turns into what ``p`` would have made of ``x``."""
        mean, std, own_mean, own_std = (x.new_tensor(v).view(3, 1, 1) for v in (p.mean, p.std, own.mean, own.std))
        return (x - mean) / std * own_std + own_mean

    now, score = _fit(model, x, labels)
    name, (best, best_score) = min(
        ((name, _fit(model, seen(p), labels)) for name, p in NORMALISATIONS.items()), key=lambda pair: pair[1]
    )
    if now < torch.inf:
        clear, why = now > 0.2 and best < min(0.4, now / 1.7), f"divergence {best:.2f}, {now:.2f} as it is"
        found = f"the first batch normalisation remembers inputs like those of {name} ({why})"
    else:
        clear, found = (
            -best_score > max(0.3, 0.1 - score),
            f"mIoU is {-best_score:.2f} with {name} and {-score:.2f} now",
        )
    if not clear:
        return {}
    return {
        "normalisation": f"{found}, so the model's own is probably missing or wrong; wrap it with that mean and std"
    }


def _fit(model: Model, z: Tensor, labels: Tensor | None) -> tuple[float, float]:
    """How badly inputs fit the first batch normalisation, the median over its channels of the divergence of its stored
    Gaussian from theirs, infinite if there is none; and minus mIoU, 0 without labels.
    """
    found: list[float] = []

    def look(module: Any, inputs: tuple[Any, ...]) -> None:
        mean, variance, eps = module.running_mean, module.running_var, getattr(module, "eps", 1e-5)
        if found or inputs[0].ndim != 4 or not mean.any():  # seen, no image, or never trained
            return
        spread, middle = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        ratio = (spread + eps) / (variance + eps)
        found.append(float((ratio - ratio.log() - 1 + (middle - mean) ** 2 / (variance + eps)).median()) / 2)

    modules = model.modules() if isinstance(model, nn.Module) else ()
    norms = [m for m in modules if isinstance(getattr(m, "running_mean", None), Tensor)]
    with hooked(norm.register_forward_pre_hook(look) for norm in norms), torch.no_grad():
        logits = model(z)
    if labels is None or logits.shape[-2:] != labels.shape[-2:]:
        return found[0] if found else torch.inf, 0.0
    counts = tally(labels, predicted_classes(logits), logits.shape[1]).sum(0)
    return found[0] if found else torch.inf, -float(miou(counts).nan_to_num())


@contextmanager
def _calm(model: Model) -> Generator[None]:
    """The model in evaluation mode, then as it was."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

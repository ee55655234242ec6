"""Laws for models, attacks and input transformations of your own, in the manner of scikit-learn's ``check_estimator``.

A check returns nothing, or raises an AssertionError whose one sentence names the law, the part and what was found.
segtrans's own tests call the same checks over everything registered. :class:`Context` and the others are the tiny
float64 surrogates that attacks are tried on.
"""

import random
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.attack import Attack, Model
from segtrans.data.base import VOID
from segtrans.models import SegModel
from segtrans.random import Draw, derive
from segtrans.threat import Threat, scaled
from segtrans.transforms import Transform
from segtrans.worst import AnyAttack, WorstCase

CLASSES = 3
SIZE = (17, 22)
SIZES = (65, 97), (128, 128), (160, 96), (7, 5)


class Block(nn.Module):
    """A residual block as in a ResNet, in place like there."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=2, dilation=2)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(x))
        out += x
        return self.relu(out)


class Context(nn.Module):
    """Three small convolutions, so that a pixel's logits depend on its neighbours; in evaluation mode."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        last, norms = nn.Conv2d(6, CLASSES, 1), (nn.BatchNorm2d(6), Block(6))
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), norms[0], nn.Tanh(), nn.Dropout(0.5), norms[1], last)
        generator = torch.Generator().manual_seed(seed)
        for value in self.state_dict().values():
            if value.is_floating_point():
                value.copy_(2 * torch.rand(value.shape, generator=generator) - 1)
        for norm in (norms[0], norms[1].bn):
            cast(Tensor, norm.running_var).fill_(2.0)
        self.double().eval()
        # All classes are about equally likely, so that there is much to be changed about predictions.
        with torch.no_grad():
            cast(Tensor, last.bias).sub_(self.body(2 * images(8, seed=99)).mean((0, 2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(2 * x)


class Constant(nn.Module):
    """The same features and logits whatever the image, and a gradient of exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Context()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(0 * x)


def bright(x: Tensor) -> Tensor:
    """Which images are bright on the whole, (N, 1, 1, 1)."""
    return (x.mean((1, 2, 3)) > 0.6).view(-1, 1, 1, 1)


class BreaksOnBright(nn.Module):
    """``inner``, but with ``value``, or NaN made from it, in the features and logits of every bright image; ``broken``
    once there was one.
    """

    def __init__(self, inner: nn.Module, value: float = torch.nan) -> None:
        super().__init__()
        self.inner, self.value, self.broken = inner, value, False

    def forward(self, x: Tensor) -> Tensor:
        self.broken |= bool(bright(x).any())
        factor = torch.where(bright(x), self.value, 1.0)
        return self.inner(x * factor) * factor


def images(count: int = 3, size: tuple[int, int] = SIZE, *, seed: int = 0, high: float = 1.0) -> Tensor:
    """Random images on the 8-bit grid, float64 in [0, high]."""
    generator = torch.Generator().manual_seed(seed)
    return (high * torch.rand(count, 3, *size, generator=generator, dtype=torch.float64) * 255).round() / 255


def labels(
    count: int = 3,
    size: tuple[int, int] = SIZE,
    *,
    seed: int = 0,
    values: Iterable[int] = (*range(CLASSES), VOID),
    block: int = 5,
) -> Tensor:
    """Patches of about ``block`` pixels with one of ``values`` each, so that there are insides as well as borders."""
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor(tuple(values))
    rows, cols = (torch.arange(side) * 2 // (2 * block - 1) for side in size)
    patches = torch.randint(len(allowed), (count, int(rows[-1]) + 1, int(cols[-1]) + 1), generator=generator)
    return allowed[patches[:, rows][:, :, cols]]


def draw(batch: int, *, seed: int = 0, copy: int = 0, dtype: torch.dtype = torch.float64, same: bool = False) -> Draw:
    """Random numbers for a part on its own; with ``same`` every item of the batch gets the same ones."""
    items = torch.zeros(batch, dtype=torch.int64) if same else torch.arange(batch)
    start = torch.zeros(1, dtype=torch.int64)
    return Draw(derive(derive(items, seed), copy), torch.full((batch,), copy), derive(start, seed), dtype)


def check_model(model: SegModel) -> None:
    """Whether a model, wrapped by :func:`segtrans.models.wrap` or an ensemble, keeps the contract: frozen, in
    evaluation mode, finite logits (N, classes, H, W) at any size, a gradient that reaches the image and no other image
    of the batch, nothing random, nothing of the caller's changed. It works on a copy, since some of this needs float64.

    Raises:
        AssertionError: the first law that it breaks.
    """
    part, classes = f"model {getattr(model, 'name', '')!r}", len(model.classes)
    _hold(bool(model.name), "names", part, "has no name")
    _hold(not any(m.training for m in model.modules()), "evaluation mode", part, "has modules in training mode")
    _hold(not any(p.requires_grad for p in model.parameters()), "frozen weights", part, "has weights with gradients")
    model, device = deepcopy(model), next(iter(model.state_dict().values()), torch.empty(0)).device
    state = torch.get_rng_state()
    for size, dtype in ((64, 64), torch.float32), ((65, 97), torch.float64):
        x = images(2, size, seed=1).to(device, dtype).requires_grad_()
        model, before = model.to(dtype), x.detach().clone()
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        logits = model(x)
        expected = 2, classes, *size
        _hold(tuple(logits.shape) == expected, "shape", part, f"returned {tuple(logits.shape)} instead of {expected}")
        _hold(logits.dtype == dtype, "precision", part, f"returned {logits.dtype} for images of {dtype}")
        _hold(logits.isfinite().all(), "finite logits", part, "returned NaN or infinite values")
        # One image's loss: its gradient must reach it, and no other image of the batch.
        _hold(logits.requires_grad, "gradients", part, "returned logits without a gradient")
        (gradient,) = torch.autograd.grad(logits[1].square().sum(), x)
        _hold(gradient[1].isfinite().all(), "gradients", part, "has a gradient that is not finite")
        _hold((gradient[1] != 0).any(), "gradients", part, "has a gradient of zero")
        _hold((gradient[0] == 0).all(), "independence within a batch", part, "lets images of a batch see each other")
        with torch.inference_mode():
            again, alone = model(before), model(before[1:])[0]
        if dtype == torch.float64:
            margin = 1e-6 * (1 + float(logits.detach().std()))
            _hold(_near(again, logits, margin), "reproducibility", part, "says something else when asked again")
            _hold(_near(alone, logits[1], margin), "independence within a batch", part, "depends on the batch's size")
        same = torch.equal(x, before) and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
        _hold(same, "nothing else changes", part, "changed its weights, its buffers or the images")
    _hold(torch.equal(torch.get_rng_state(), state), "nothing else changes", part, "used torch's global random state")


def check_attack(attack: AnyAttack) -> None:
    """Whether an attack, and so the parts that it is composed of, keeps the laws on tiny surrogates: budget and box,
    no budget no change, regions, nothing of the caller's touched, no global randomness, the same result whatever the
    batch and the chunks, void that never matters, zero gradients that are reported and NaN that harms its image alone.
    It takes as long as some twenty calls on images of 17 × 22 pixels.

    Raises:
        AssertionError: the first law that it breaks.
    """
    check_call(attack, Context(), SIZE)
    x, y = images(), labels()
    for factor in (0.5, 2.0):
        other = changed(attack, threat=scaled(attack.threat, factor))
        check_budget(other.threat, other.perturb(Context(), x, y).adversarial, x, other)
    _untouched(attack)
    if attack.copies > 1:
        _chunks(attack)
    if not attack.shared:
        _batch(attack)
        for value in (torch.nan, torch.inf):
            _not_finite(attack, value)
    result = attack.perturb(Constant(), x, y)
    flagged = [attack.iterations > 0] * 3
    fine = result.adversarial.isfinite().all() and result.stalled.tolist() == flagged and not result.failed.any()
    _hold(fine, "zero gradients", attack, "does not report the images of a constant model as stalled, and nothing else")
    still = _starts_anywhere(attack) or torch.equal(result.adversarial, x)
    _hold(still, "zero gradients", attack, "moves pixels though the gradient is zero throughout")


def check_call(attack: AnyAttack, model: Model, size: tuple[int, int]) -> None:
    """The laws of a single call, on one of the surrogates of this module and images of this size; the last of three
    images is void.
    """
    x, y = images(3, size), labels(3, size, block=9 if size[0] > 30 else 5)
    y[2] = VOID
    region = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.7
    before = x.clone(), y.clone(), region.clone()
    result = attack.perturb(model, x, y, region=region)
    _hold(all(map(torch.equal, (x, y, region), before)), "nothing else changes", attack, "writes to its arguments")
    cost = f"spent {result.evaluations} gradient evaluations, more than the {attack.evaluations} it states"
    _hold(result.evaluations <= attack.evaluations, "stated costs", attack, cost)
    _hold(not result.failed.any(), "finite values", attack, "made NaN or infinite values of a sound model's")
    plain = not result.adversarial.requires_grad and result.adversarial.dtype == x.dtype
    _hold(plain, "plain results", attack, "returns images with a gradient or of another type")
    check_budget(attack.threat, result.adversarial, x, attack)
    moved = (result.adversarial != x).any(1)
    _hold(not moved[:, ~region].any(), "regions", attack, "moves pixels outside the region")
    if attack.iterations:
        _hold(moved[:2].flatten(1).any(1).all(), "an effect", attack, "leaves an image as it was")
    if not attack.shared:
        alone = attack.perturb(model, x[:1], y[:1], region=region).adversarial
        same = torch.equal(result.adversarial[:1], alone)
        _hold(same, "void and batch never matter", attack, "treats an image otherwise beside one that is all void")
        stalled = [False, False, attack.iterations > 0]
        _hold(result.stalled.tolist() == stalled, "void", attack, f"reports {result.stalled.tolist()} as stalled")
        still = _starts_anywhere(attack) or not moved[2].any()
        _hold(still, "void", attack, "moves pixels of an image that is all void")
    nothing = changed(attack, threat=replace(attack.threat, eps=0)).perturb(model, x[:1], y[:1]).adversarial
    _hold(torch.equal(nothing, x[:1]), "no budget, no change", attack, "changes an image within a budget of 0")


def check_budget(threat: Threat, adversarial: Tensor, x: Tensor, part: object) -> None:
    """Whether float64 images (N, 3, H, W) are inside ball and box, as they are and on the 8-bit grid."""
    low, high = (float(end) for end in adversarial.aminmax())
    _hold(0 <= low <= high <= 1, "the box", part, f"returns values from {low:g} to {high:g}")
    grid = threat.quantise(adversarial, x)
    _hold(torch.equal((grid * 255).round() / 255, grid), "the 8-bit grid", part, "quantises to values between levels")
    for where, found in ("", adversarial), (" on the 8-bit grid", grid):
        far = float(threat.distance(found, x).max())
        inside = far <= threat.radius * (1 + 1e-12)
        _hold(inside, "the budget", part, f"moves an image by {far:g}{where}, beyond {threat.radius:g}")


def changed(attack: AnyAttack, **settings: Any) -> AnyAttack:
    """An attack, or every attack of a worst case, with other settings."""
    if isinstance(attack, WorstCase):
        return WorstCase(attacks=tuple(replace(one, **settings) for one in attack.attacks))
    return replace(attack, **settings)


def _untouched(attack: AnyAttack) -> None:
    model, x, y = Context(), images(2).requires_grad_(), labels(2)
    next(model.parameters()).requires_grad_(False)
    model.body[3].register_forward_hook(_unchanged)
    before = _snapshot(model, x, y)
    adversarial = attack.perturb(model, x, y, seed=3).adversarial
    _compare(before, _snapshot(model, x, y), attack)
    with _other_random_state():
        again = attack.perturb(Context(), x, y, seed=3).adversarial
    same = torch.equal(adversarial, again)
    _hold(
        same, "one seed, one result", attack, "finds something else when called again with other global random states"
    )
    adversarial.zero_()
    _compare(before, _snapshot(model, x, y), attack)


def _unchanged(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output


def _snapshot(model: nn.Module, *tensors: Tensor) -> dict[str, Any]:
    """Everything that an attack could leave behind."""
    hooks = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    kind, keys, *position = np.random.get_state()  # noqa: NPY002
    return {
        "weights or buffers": {name: _bits(value) for name, value in model.state_dict(keep_vars=True).items()},
        "flags or gradients of weights": [(p.requires_grad, p.grad) for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": [[dict(getattr(m, name)) for name in hooks] for m in model.modules()],
        "attributes of modules": [sorted(vars(m)) for m in model.modules()],
        # The version counts writes in place, even if the old value was put back.
        "images or labels": [(_bits(t), t._version, t.requires_grad, t.grad) for t in tensors],
        "torch's global random state": _bits(torch.get_rng_state()),
        "numpy's global random state": (kind, cast(Any, keys).tobytes(), *position),
        "Python's global random state": random.getstate(),
        "torch's settings": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    }


def _compare(before: dict[str, Any], after: dict[str, Any], part: object) -> None:
    for what, value in before.items():
        _hold(after[what] == value, "nothing else changes", part, f"changes {what}")


@contextmanager
def _other_random_state() -> Generator[None]:
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(12345)
        np.random.seed(12345)  # noqa: NPY002
        random.seed(12345)
        try:
            yield
        finally:
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(python)


def _chunks(attack: AnyAttack) -> None:
    x, y = images(), labels()
    one = attack.perturb(Context(), x, y, chunk=1)
    for chunk in (2, len(x) * attack.copies, 100):
        many = attack.perturb(Context(), x, y, chunk=chunk)
        same = torch.equal(one.adversarial, many.adversarial) and one.evaluations == many.evaluations
        _hold(same, "chunks never matter", attack, f"finds something else with {chunk} images at a time than with one")


def _batch(attack: AnyAttack) -> None:
    x, y, model, order = images(4), labels(4), Context(), torch.tensor([2, 0, 3, 1])
    together = attack.perturb(model, x, y, seed=5).adversarial
    singly = [attack.perturb(model, x[i : i + 1], y[i : i + 1], seed=5).adversarial for i in range(4)]
    same = torch.equal(together, torch.cat(singly))
    _hold(same, "the batch never matters", attack, "treats an image otherwise in a batch than alone")
    same = torch.equal(together[order], attack.perturb(model, x[order], y[order], seed=5).adversarial)
    _hold(same, "the batch never matters", attack, "treats images otherwise in another order")


def _not_finite(attack: AnyAttack, value: float) -> None:
    """The bright image is so through most transformations; where none ever is, nothing breaks."""
    x, others = torch.cat([images(3, high=0.4), 0.97 + 0.03 * images(1, seed=7)])[[0, 3, 1, 2]], [0, 2, 3]
    y, model = labels(4), BreaksOnBright(Context(), value)
    result = attack.perturb(model, x, y)
    fine = result.adversarial.isfinite().all() and result.failed.tolist() == [False, model.broken, False, False]
    found = f"reports {result.failed.tolist()} as failed where a model returns {value} for the second image"
    _hold(fine and not result.stalled.any(), "NaN of one image", attack, found)
    alone = attack.perturb(model, x[others], y[others]).adversarial
    same = torch.equal(result.adversarial[others], alone)
    _hold(same, "NaN of one image", attack, "lets it change the other images of the batch")
    kept = not model.broken or torch.equal(result.adversarial[1], x[1])
    _hold(kept, "NaN of one image", attack, "does not leave that image as it was")


def check_transform(transform: Transform, *, repaints: bool = False) -> None:
    """Whether an input transformation moves labels with their pixels, keeps its numbers to itself, has the gradient of
    what it does, and, as the only transformation of an attack, lets :func:`check_attack` hold.

    Args:
        transform: the part.
        repaints: it changes pixels beyond recognition, so that where they went cannot be seen: labels then must stay.

    Raises:
        AssertionError: the first law that it breaks.
    """
    for size, batch in product(SIZES, (1, 3)):
        if repaints:
            _labels_stay(transform, batch, size)
            continue
        sure = 0.0
        for dtype, seed in product((torch.float32, torch.float64), range(3)):
            copy = transform.copies - 1 if seed == 2 else 0
            y = labels(batch, size, values=_VALUES.tolist(), block=9)
            sure += check_labels_follow(transform, y, draw(batch, seed=seed, copy=copy, dtype=dtype)) / 6
        _hold(sure > 0.1 or min(size) < 10, "labels move", transform, "hides or mixes nearly every pixel")
    if repaints:
        _own_pixel(transform)
    else:
        for seed in range(4):
            _colours_kept(transform, seed)
            _centres(transform, seed)
    _unread(transform)
    x, y = images(2, (4, 5)).requires_grad_(), labels(2, (4, 5), block=2)
    for copy in {0, transform.copies - 1}:

        def shown(z: Tensor, copy: int = copy) -> Tensor:
            return transform(z, y, draw(2, copy=copy))[0]

        right = torch.autograd.gradcheck(shown, x, fast_mode=True, raise_exception=False)
        _hold(right, "gradients", transform, "has a gradient other than finite differences say")
    check_attack(Attack(transforms=(transform,), iterations=2))


# Three channels are three labels, one of them void.
_VALUES = torch.tensor([0, 1, VOID])


def check_labels_follow(transform: Transform, y: Tensor, drawn: Draw) -> float:
    """Every label, one of 0, 1 and 255, becomes a channel that is one where the label is, and both are transformed.

    The label must be that of a channel that has arrived; void may be introduced only where nothing has. Returns the
    share of pixels where one channel alone has, and the label is beyond doubt.
    """
    x = (y[:, None] == _VALUES.view(-1, 1, 1)).to(drawn.dtype)
    image, label = transform(x, y, drawn)
    _hold(image.dtype == drawn.dtype and label.dtype == torch.int64, "types", transform, "changes the type")
    fits = image.shape[-2:] == label.shape[-2:] and len(image) == len(label) == len(y)
    _hold(fits, "labels move", transform, f"returns images {tuple(image.shape)} with labels {tuple(label.shape)}")
    _hold(torch.isin(label, _VALUES).all(), "labels move", transform, "invents labels")
    arrived = image > 1e-6
    channel = (label[..., None] == _VALUES).long().argmax(-1)
    nothing = ~arrived.any(1)
    _hold((label[nothing] == VOID).all(), "labels move", transform, "gives a label to pixels without content")
    there = arrived.gather(1, channel[:, None])[:, 0][~nothing].all()
    _hold(there, "labels move", transform, "puts labels where none of their pixels arrived")
    return float((arrived.sum(1) == 1).double().mean())


def _arrived(transform: Transform, what: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """What arrives of ``what``, as a share of what arrives of white there, and the labels.

    Both are derivatives at a grey image, so that neither darkening nor noise and colours that a transformation adds
    come into it.
    """
    grey = torch.full_like(what, 0.5)

    def shown(z: Tensor) -> Tensor:
        return transform(z, y, draw(len(z), seed=seed))[0]

    moved, white = (torch.autograd.functional.jvp(shown, grey, t)[1] for t in (what, torch.ones_like(what)))
    return cast(Tensor, moved) / cast(Tensor, white), transform(grey, y, draw(len(grey), seed=seed))[1]


def _colours_kept(transform: Transform, seed: int) -> None:
    """Full-size patches of one grey level per class: the label tells the grey level, whatever happened to place."""
    y = torch.zeros(2, 48, 64, dtype=torch.int64)
    y[:, :, 32:] = 1
    x = torch.where(y == 1, 0.8, 0.2)[:, None].double().expand(-1, 3, -1, -1)
    image, label = _arrived(transform, x, y, seed)
    even = F.max_pool2d(image, 3, 1, 1) + F.max_pool2d(-image, 3, 1, 1) < 1e-9
    flat = even[:, 0] & (label != VOID)
    expected = torch.where(label == 1, 0.8, 0.2)[flat].double()
    same = flat.any() and torch.allclose(image[:, 0][flat], expected)
    _hold(same, "labels move", transform, "parts labels from the grey level of their pixels")


def _centres(transform: Transform, seed: int) -> None:
    """Grey level and label are both the row (column) they come from, so where they arrive they differ by half at most;
    only an antialiased border leans inwards, and a chain of two interpolations rounds its labels twice.
    """
    for axis, name in enumerate(("row", "column")):
        y = torch.arange((60, 84)[axis])
        y = (y.view(-1, 1) if axis == 0 else y).expand(4, 60, 84).contiguous()
        image, label = _arrived(transform, y[:, None].double().expand(-1, 3, -1, -1), y, seed)
        near = (image[:, 0] - label).abs()[label != VOID] <= 0.5 + 1e-6
        _hold(near.double().mean() > 0.8, "labels move", transform, f"reads labels at another {name} than their pixels")


def _labels_stay(transform: Transform, batch: int, size: tuple[int, int]) -> None:
    x, y = images(batch, size), labels(batch, size)
    image, label = transform(x, y, draw(batch))
    _hold(torch.equal(label, y), "labels stay", transform, "repaints pixels where they are, but changes labels")
    _hold(image.shape == x.shape and image.dtype == x.dtype, "types", transform, "changes the size or the type")
    _hold((image != x).flatten(1).any(1).all(), "an effect", transform, "leaves an image as it was")


def _own_pixel(transform: Transform) -> None:
    height, width = 9, 13
    x = images(1, (height, width)).requires_grad_()
    image = transform(x, labels(1, (height, width)), draw(1))[0]
    own = 0
    for place, value in enumerate(image[0, 0].flatten()):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        own += int(gradient[0, 0].abs().argmax()) == place
    # Random frequencies drown a few pixels in their surroundings.
    _hold(own > 0.9 * height * width, "labels stay", transform, "lets pixels depend on others more than on themselves")


def _unread(transform: Transform) -> None:
    """Change one pixel at a time: what then changes nothing must have a gradient of exactly zero, and only that."""
    height, width = 9, 11
    pixels = height * width
    x = images(1, (height, width)).clamp(0.1, 0.9).expand(pixels + 1, -1, -1, -1).clone()
    for number in range(pixels):
        x[number, :, number // width, number % width] += 0.05
    y = labels(1, (height, width), values=range(CLASSES)).expand(pixels + 1, -1, -1)
    out, _ = transform(x.requires_grad_(), y, draw(pixels + 1, seed=4, same=True))
    read = (out[:-1] != out[-1]).flatten(1).any(1)
    weight = torch.rand(out[-1].shape, generator=torch.Generator().manual_seed(0), dtype=out.dtype)
    (gradient,) = torch.autograd.grad((out[-1] * (1 + weight)).sum(), x)
    same = torch.equal((gradient[-1] != 0).any(0).flatten(), read)
    _hold(same, "unread pixels", transform, "has a gradient at pixels that nobody reads, or none at some that are read")


def _hold(holds: bool | Tensor, law: str, part: object, found: str) -> None:
    if not holds:
        raise AssertionError(f"law of {law}: {_named(part)} {found}")


def _named(part: object) -> str:
    if not isinstance(part, Attack):
        return part if isinstance(part, str) else repr(part)
    values = {f.name: getattr(part, f.name) for f in fields(part)}
    own = [f"{name}={value!r}" for name, value in values.items() if value != getattr(Attack(), name, None)]
    return f"Attack({', '.join(own)})"


def _starts_anywhere(attack: AnyAttack) -> bool:
    return any(one.random_start for one in attack.attacks)


def _near(one: Tensor, other: Tensor, margin: float) -> bool:
    return torch.allclose(one, other, rtol=1e-6, atol=margin)


def _bits(value: Tensor) -> bytes:
    return value.detach().contiguous().numpy().tobytes()

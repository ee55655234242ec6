"""The laws of input transformations, as checks."""

from itertools import product
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.data.base import VOID
from segtrans.random import Draw, seeded
from segtrans.testing.attacks import check_attack
from segtrans.testing.laws import hold
from segtrans.testing.toys import CLASSES, draw, images, labels
from segtrans.transforms import Transform

SIZES = (65, 97), (128, 128), (160, 96), (7, 5)
"""Heights and widths that transformations are tried at."""


def check_transform(transform: Transform, *, repaints: bool = False) -> None:
    """Whether an input transformation moves labels with their pixels, keeps its numbers to itself, has the gradient of
    what it does, and, as the only transformation of an attack, lets :func:`check_attack` hold.

    Args:
        transform: the part.
        repaints: it changes pixels beyond recognition, so that where they went cannot be seen: labels then must stay.

    Raises:
        AssertionError: the first law that it breaks.
    """
    _keeps_to_itself(transform)
    for size, batch in product(SIZES, (1, 3)):
        if repaints:
            _labels_stay(transform, batch, size)
            continue
        sure = 0.0
        for dtype, seed in product((torch.float32, torch.float64), range(3)):
            copy = transform.copies - 1 if seed == 2 else 0
            y = labels(batch, size, values=_VALUES.tolist(), block=9)
            sure += check_labels_follow(transform, y, draw(batch, seed=seed, copy=copy, dtype=dtype)) / 6
        hold(sure > 0.1 or min(size) < 10, "labels move", transform, "hides or mixes nearly every pixel")
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
        hold(right, "gradients", transform, "has a gradient other than finite differences say")
    check_attack(Attack(transforms=(transform,), iterations=2))


def _keeps_to_itself(transform: Transform) -> None:
    """What an image becomes depends on itself and its own numbers, and what was given stays as it was."""
    hold(isinstance(cast(Any, transform), Transform), "types", transform, "is no Transform; pass the part itself")
    x, y = images(2, (9, 7)), labels(2, (9, 7))
    before, found = x.clone(), list[tuple[Tensor, Tensor]]()
    for key in range(2):
        with seeded(key):
            found.append(transform(x, y, draw(2)))
    pairs = all(isinstance(cast(Any, made), tuple) and len(cast(Any, made)) == 2 for made in found)
    hold(pairs, "types", transform, "returns something else than images and labels")
    hold(torch.equal(x, before), "inputs", transform, "changes the images that it is given")
    (image, label), again = found
    same = torch.equal(image, again[0]) and torch.equal(label, again[1])
    hold(same, "random numbers", transform, "takes numbers from elsewhere than its draw")
    alone, its_label = transform(x[:1], y[:1], draw(1))
    same = torch.allclose(image[:1], alone, atol=1e-9) and torch.equal(label[:1], its_label)
    hold(same, "batch", transform, "makes something else of an image that is alone in its batch")


# Three channels are three labels, one of them void.
_VALUES = torch.tensor([0, 1, VOID])


def check_labels_follow(transform: Transform, y: Tensor, drawn: Draw) -> float:
    """Every label, one of 0, 1 and 255, becomes a channel that is one where the label is, and both are transformed.

    The label must be that of a channel that has arrived; void may be introduced only where nothing has. Returns the
    share of pixels where one channel alone has, and the label is beyond doubt.
    """
    x = (y[:, None] == _VALUES.view(-1, 1, 1)).to(drawn.dtype)
    image, label = transform(x, y, drawn)
    hold(image.dtype == drawn.dtype and label.dtype == torch.int64, "types", transform, "changes the type")
    fits = image.shape[-2:] == label.shape[-2:] and len(image) == len(label) == len(y)
    hold(fits, "labels move", transform, f"returns images {tuple(image.shape)} with labels {tuple(label.shape)}")
    hold(torch.isin(label, _VALUES).all(), "labels move", transform, "invents labels")
    arrived = image > 1e-6
    channel = (label[..., None] == _VALUES).long().argmax(-1)
    nothing = ~arrived.any(1)
    hold((label[nothing] == VOID).all(), "labels move", transform, "gives a label to pixels without content")
    there = arrived.gather(1, channel[:, None])[:, 0][~nothing].all()
    hold(there, "labels move", transform, "puts labels where none of their pixels arrived")
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
    hold(same, "labels move", transform, "parts labels from the grey level of their pixels")


def _centres(transform: Transform, seed: int) -> None:
    """Grey level and label are both the row (column) they come from, so where they arrive they differ by half at most;
    only an antialiased border leans inwards, and a chain of two interpolations rounds its labels twice.
    """
    for axis, name in enumerate(("row", "column")):
        y = torch.arange((60, 84)[axis])
        y = (y.view(-1, 1) if axis == 0 else y).expand(4, 60, 84).contiguous()
        image, label = _arrived(transform, y[:, None].double().expand(-1, 3, -1, -1), y, seed)
        near = (image[:, 0] - label).abs()[label != VOID] <= 0.5 + 1e-6
        hold(near.double().mean() > 0.8, "labels move", transform, f"reads labels at another {name} than their pixels")


def _labels_stay(transform: Transform, batch: int, size: tuple[int, int]) -> None:
    x, y = images(batch, size), labels(batch, size)
    image, label = transform(x, y, draw(batch))
    hold(torch.equal(label, y), "labels stay", transform, "repaints pixels where they are, but changes labels")
    hold(image.shape == x.shape and image.dtype == x.dtype, "types", transform, "changes the size or the type")
    hold((image != x).flatten(1).any(1).all(), "an effect", transform, "leaves an image as it was")


def _own_pixel(transform: Transform) -> None:
    height, width = 9, 13
    x = images(1, (height, width)).requires_grad_()
    image = transform(x, labels(1, (height, width)), draw(1))[0]
    own = 0
    for place, value in enumerate(image[0, 0].flatten()):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        own += int(gradient[0, 0].abs().argmax()) == place
    # Random frequencies drown a few pixels in their surroundings.
    hold(own > 0.9 * height * width, "labels stay", transform, "lets pixels depend on others more than on themselves")


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
    hold(same, "unread pixels", transform, "has a gradient at pixels that nobody reads, or none at some that are read")

"""Law 4: labels move with their pixels, through every input transformation.

Every label becomes a channel of an image that is one where the label is; image and labels then go through the
transformation together. Where only one channel has arrived, the label must be that channel's, elsewhere it must be one
of those that arrived; void may be introduced only where nothing arrived. Transformations that repaint pixels beyond
recognition must leave labels alone, and what becomes of a pixel must depend on that pixel most.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.catalogue import ENTRIES
from segtrans.data.base import VOID
from segtrans.transforms import Transform
from toys import REPAINTING, draw, each_recognisable, each_repainting, images, labels

# Three channels are three labels, one of them void.
VALUES = torch.tensor([0, 1, VOID])
SIZES = [(65, 97), (128, 128), (160, 96), (7, 5)]


def check(transform: Transform, y: Tensor, dtype: torch.dtype, seed: int, copy: int) -> float:
    """The share of output pixels whose label is beyond doubt."""
    x = (y[:, None] == VALUES.view(-1, 1, 1)).to(dtype)
    image, label = transform(x, y, draw(len(y), seed=seed, copy=copy, dtype=dtype))
    assert image.dtype == dtype
    assert label.dtype == torch.int64
    assert image.shape[-2:] == label.shape[-2:]
    assert len(image) == len(label) == len(y)
    assert torch.isin(label, VALUES).all()
    arrived = image > 1e-6
    channel = (label[..., None] == VALUES).long().argmax(-1)
    nothing = ~arrived.any(1)
    assert (label[nothing] == VOID).all(), "no content, no label"
    assert arrived.gather(1, channel[:, None])[:, 0][~nothing].all(), "a label without any of its pixels"
    pure = arrived.sum(1) == 1
    assert torch.equal(channel[pure], arrived.long().argmax(1)[pure])
    return float(pure.double().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@each_recognisable
def test_labels_move_with_pixels(transform: Transform, batch: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    y = labels(batch, size, values=VALUES.tolist(), block=9)
    pure = [check(transform, y, dtype, seed, copy) for seed, copy in ((0, 0), (1, 0), (2, transform.copies - 1))]
    assert sum(pure) / 3 > 0.1 or min(size) < 10, "the check must have something to check"


USED = {
    f"{name}: {t!r}": t
    for name, entry in ENTRIES.items()
    for attack in entry.attack.attacks
    for t in attack.transforms
    if not isinstance(t, REPAINTING)
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("transform", USED.values(), ids=USED)
def test_labels_move_with_the_catalogues_settings(transform: Transform, size: tuple[int, int]) -> None:
    # Every copy at one of the sizes, and the first at all of them.
    copies = range(SIZES.index(size), transform.copies, len(SIZES))
    for batch, copy in ((1, 0), *((3, copy) for copy in copies)):
        check(transform, labels(batch, size, values=VALUES.tolist(), block=9), torch.float32, 0, copy)


def arrived(transform: Transform, what: Tensor, y: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What arrives of ``what``, as a share of what arrives of white there, and the labels.

    Both are derivatives at a grey image, so that neither darkening nor noise and colours that a transformation adds
    come into it.
    """
    grey = torch.full_like(what, 0.5)
    moved, white = (
        torch.autograd.functional.jvp(lambda z: transform(z, y, draw(len(z), seed=seed))[0], grey, tangent)[1]
        for tangent in (what, torch.ones_like(what))
    )
    return moved / white, transform(grey, y, draw(len(grey), seed=seed))[1]


@each_recognisable
def test_every_label_keeps_its_colour(transform: Transform) -> None:
    """Full-size patches of one grey level per class: the label tells the grey level, whatever happened to place."""
    y = torch.zeros(2, 48, 64, dtype=torch.int64)
    y[:, :, 32:] = 1
    x = torch.where(y == 1, 0.8, 0.2)[:, None].double().expand(-1, 3, -1, -1)
    for seed in range(3):
        image, label = arrived(transform, x, y, seed)
        even = F.max_pool2d(image, 3, 1, 1) + F.max_pool2d(-image, 3, 1, 1) < 1e-9
        flat = even[:, 0] & (label != VOID)
        assert flat.any()
        expected = torch.where(label == 1, 0.8, 0.2)
        assert torch.allclose(image[:, 0][flat], expected[flat].double())


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
@each_recognisable
def test_labels_are_read_at_the_pixels_centre(transform: Transform, axis: int) -> None:
    """Grey level and label are both the row (column) they come from, so where they arrive they differ by half at most;
    only an antialiased border leans inwards, and a chain of two interpolations rounds its labels twice.
    """
    size = (60, 84)
    y = torch.arange(size[axis]).view(-1, 1) if axis == 0 else torch.arange(size[axis])
    y = y.expand(4, *size).contiguous()
    x = y[:, None].double().expand(-1, 3, -1, -1)
    for seed in range(4):
        image, label = arrived(transform, x, y, seed)
        inside = label != VOID
        near = (image[:, 0] - label).abs()[inside] <= 0.5 + 1e-6
        assert near.double().mean() > 0.8


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
@each_repainting
def test_repainting_leaves_labels_alone(transform: Transform, batch: int, size: tuple[int, int]) -> None:
    x, y = images(batch, size), labels(batch, size)
    image, label = transform(x, y, draw(batch))
    assert torch.equal(label, y)
    assert image.shape == x.shape
    assert image.dtype == x.dtype
    assert (image != x).flatten(1).any(1).all()


@each_repainting
def test_repainted_pixels_stay_where_their_labels_are(transform: Transform) -> None:
    height, width = 9, 13
    x, y = images(1, (height, width)).requires_grad_(), labels(1, (height, width))
    image, label = transform(x, y, draw(1))
    assert torch.equal(label, y)
    own = 0
    for place in range(height * width):
        (gradient,) = torch.autograd.grad(image[0, 0].flatten()[place], x, retain_graph=True)
        own += int(gradient[0, 0].abs().argmax()) == place
    # Random frequencies drown a few pixels in their surroundings.
    assert own > 0.9 * height * width

"""Input transformations, each against its description."""

from collections.abc import Callable

import pytest
import torch
from pixel_by_pixel import coordinates, picture
from torch.nn import functional as F

from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.transforms import Remap, Rescale, Resize, Scale, Transform, UniformScale
from segtrans.transforms.base import resample
from toys import REPAINTING, TRANSFORMS, dense, draw, each_transform, images, labels

SIZE = (24, 30)
X, Y = images(3, SIZE), labels(3, SIZE)


@each_transform
def test_shapes_types_and_range(transform: Transform) -> None:
    for dtype in (torch.float32, torch.float64):
        x, y = X.to(dtype), Y.clone()
        image, label = transform(x, y, draw(3, dtype=dtype))
        assert image.dtype == dtype
        assert label.dtype == torch.int64
        assert image.shape == (3, 3, *label.shape[-2:])
        if not isinstance(transform, (*REPAINTING, UniformScale)):
            assert image.min() >= -1e-6
            assert image.max() <= 1 + 1e-6
        assert torch.equal(x, X.to(dtype)), "the input is not written to"
        assert torch.equal(y, Y)


@each_transform
def test_a_transform_is_a_function_of_its_draw(transform: Transform) -> None:
    one, other = (transform(X, Y, draw(3, seed=8)) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@each_transform
def test_items_of_a_batch_do_not_mix(transform: Transform) -> None:
    image, label = transform(X, Y, draw(3))
    for count in (1, 2):
        some, their = transform(X[:count], Y[:count], draw(count))
        assert torch.equal(some, image[:count])
        assert torch.equal(their, label[:count])


@each_transform
def test_other_pixels_of_another_image_do_not_matter(transform: Transform) -> None:
    changed = X.clone()
    changed[1] = 1 - changed[1]
    image, _ = transform(X, Y, draw(3))
    other, _ = transform(changed, Y, draw(3))
    assert torch.equal(image[[0, 2]], other[[0, 2]])


@each_transform
def test_images_of_a_single_pixel_and_of_a_single_row(transform: Transform) -> None:
    for size in ((1, 1), (1, 40), (40, 1)):
        image, label = transform(images(2, size), dense(2, size), draw(2))
        assert image.isfinite().all()
        assert image.shape[-2:] == label.shape[-2:]


@pytest.mark.parametrize("copies", [0, -1, 1.5, True, "2"])
@pytest.mark.parametrize("part", sorted({type(t) for t in TRANSFORMS.values()}, key=lambda part: part.__name__))
def test_copies_are_whole_numbers(part: type[Transform], copies: int) -> None:
    with pytest.raises(UsageError, match=f"^{part.__name__} copies is {copies!r}; allowed are whole numbers from 1"):
        part(copies=copies)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Remap(grid=0),
        lambda: Remap(grid=2.0),
        lambda: Remap(cuts="uneven"),
        lambda: Remap(flip="vertical"),
        lambda: Remap(grid=()),
        lambda: Remap(grid=(1, 0)),
        lambda: Remap(window=(0, 1)),
        lambda: Remap(window=(2, 1)),
        lambda: Remap(window=(1, 2, 3)),
        lambda: Resize(scale=(0.5, 1.1)),
        lambda: Resize(scale=(-0.5, 1)),
        lambda: Resize(probability=1.5),
        lambda: Resize(probability=-0.5),
        lambda: Rescale(scale=(0, 2)),
        lambda: Rescale(scale=(3, 2)),
    ],
)
def test_impossible_settings_are_refused(make: type) -> None:
    with pytest.raises(UsageError, match=r"^(Remap|Resize|Rescale) \w+ is .*; allowed are"):
        make()


def test_resample_reads_where_it_is_told() -> None:
    rows, cols = (5 * draw(2, seed=s).uniform(4, 7) for s in (1, 2))
    image, label = resample(coordinates(SIZE, 2), coordinates(SIZE, 2)[:, 1].long(), rows, cols)
    assert torch.allclose(image[:, 0], rows)
    assert torch.allclose(image[:, 1], cols)
    assert ((label - cols).abs() <= 0.5).all()


@pytest.mark.parametrize("size", [(1, 7), (24, 30), (32, 64), (65, 129), (500, 375)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_resample_copies_pixels_at_whole_numbers_and_touches_no_other(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    x = images(1, size).to(dtype).requires_grad_()
    rows, cols = (torch.randint(side, (1, *size), generator=torch.Generator().manual_seed(side)) for side in size)
    image, _ = resample(x, dense(1, size), rows.to(dtype), cols.to(dtype))
    assert torch.equal(image[0], x[0][:, rows[0], cols[0]])
    often = torch.zeros(size, dtype=dtype).index_put((rows[0], cols[0]), torch.ones((), dtype=dtype), accumulate=True)
    assert torch.equal(torch.autograd.grad(image.sum(), x)[0], often.expand_as(x))


def test_resample_lets_no_gradient_out_of_the_window_that_is_read() -> None:
    x = images(1, (75, 50)).float().requires_grad_()
    within = torch.tensor([20.0, 50.0]).nextafter(torch.tensor([50.0, 20.0]))
    rows = torch.cat([torch.tensor([20.0, 50.0]), within, 20 + 30 * draw(1).uniform(46)[0].float()]).view(1, 50, 1)
    cols = rows.mT - 10
    gradient = torch.autograd.grad(resample(x, dense(1, (75, 50)), *torch.broadcast_tensors(rows, cols))[0].sum(), x)[0]
    assert (gradient[:, :, [20, 50]][..., [10, 40]] > 0).all()
    assert gradient.count_nonzero() == gradient[:, :, 20:51, 10:41].count_nonzero()


def test_resample_clamps_and_blanks() -> None:
    rows = torch.tensor([[[-3.0, 99.0, 2.0]]], dtype=torch.float64)
    inside = torch.tensor([[[True, True, False]]])
    image, label = resample(coordinates(SIZE, 1), dense(1, SIZE), rows, rows, inside)
    assert image[0, 0].tolist() == [[0, SIZE[0] - 1, 0]]
    assert image[0, 2].tolist() == [[1, 1, 0]]
    assert label[0, 0, 2] == VOID
    assert VOID not in label[0, 0, :2]


def test_resize_puts_the_whole_image_somewhere_on_black() -> None:
    part = Resize(scale=(0.5, 0.8), probability=1)
    image, label = part(coordinates(SIZE, 100), dense(100, SIZE), draw(100))
    inside = image[:, 2] > 0
    assert torch.equal(inside, label != VOID)
    height, width = inside.any(2).sum(1), inside.any(1).sum(1)
    assert torch.equal(height * width, inside.sum((1, 2))), "a rectangle"
    assert height.min() >= 12
    assert height.max() <= 19
    assert ((height / SIZE[0] - width / SIZE[1]).abs() < 0.05).all(), "in proportion"
    assert image[:, 0].amax((1, 2)).min() > SIZE[0] - 3, "the whole image"
    tops = inside.any(2).double().argmax(1)
    assert tops.min() == 0
    assert len(set(tops.tolist())) > 5


@pytest.mark.parametrize("part", [Resize(), Resize(scale=(0.3, 0.9), probability=1.0)], ids=repr)
def test_resize_pixel_by_pixel(part: Resize) -> None:
    size, count = (9, 14), 6
    x, y, numbers = images(count, size), labels(count, size, block=3), draw(count, seed=2)
    factor = numbers.uniform(low=part.scale[0], high=part.scale[1])
    factor = factor.where(numbers.chance(part.probability), 1)
    image, label = part(x, y, draw(count, seed=2))
    small = [(factor * side).round().clamp(1) for side in size]
    offset = [numbers.integers((side + 1 - s).long()) for side, s in zip(size, small, strict=True)]

    def shown(i: int) -> Callable[[int, int], tuple[float, float] | None]:
        (height, width), (top, left) = ([int(values[i]) for values in both] for both in (small, offset))

        def source(row: int, col: int) -> tuple[float, float] | None:
            if not (top <= row < top + height and left <= col < left + width):
                return None
            return (row - top + 0.5) * size[0] / height - 0.5, (col - left + 0.5) * size[1] / width - 0.5

        return source

    for i in range(count):
        theirs, their = picture(x[i], y[i], shown(i))
        assert (image[i] - theirs).abs().max() <= 1e-12
        assert torch.equal(label[i], their)


def test_resize_leaves_some_images_alone() -> None:
    x, y = images(1, SIZE).expand(400, -1, -1, -1), dense(1, SIZE).expand(400, -1, -1)
    image, _ = Resize(scale=(0.5, 0.6), probability=0.3)(x, y, draw(400))
    assert (image == x).flatten(1).all(1).double().mean() == pytest.approx(0.7, abs=0.07)


def test_rescale_is_an_ordinary_resize_of_the_batch() -> None:
    factors = set()
    for seed in range(20):
        image, label = Rescale()(X, Y, draw(3, seed=seed))
        height, width = image.shape[-2:]
        assert 12 <= height <= 48
        assert 15 <= width <= 60
        assert label.shape[-2:] == (height, width)
        expected = F.interpolate(X, (height, width), mode="bilinear", antialias=height < SIZE[0])
        assert torch.equal(image, expected)
        factors.add(height / SIZE[0])
    assert min(factors) < 0.75
    assert max(factors) > 1.4
    assert sum(factor < 1 for factor in factors) > 3, "shrunk about as often as enlarged"


def test_scale_divides_by_powers_of_two() -> None:
    for copy in range(5):
        image, label = Scale()(X, Y, draw(3, copy=copy))
        assert torch.equal(image, X / 2**copy)
        assert torch.equal(label, Y)

"""Transformations that change pixel values and leave places alone, each against its formula, item by item."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.bank import photographs
from segtrans.catalogue import ENTRIES
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import DataError, UsageError
from segtrans.io import write_image
from segtrans.items import Items
from segtrans.random import Draw
from segtrans.transforms import Admix, MaskBlocks, MixMask, Spectrum, StyleMix, Transform, UniformScale
from segtrans.transforms.spectrum import from_cosines, to_cosines
from toys import Context, draw, images, labels, run_of

SIZE = (9, 11)
X, Y = images(3, SIZE), labels(3, SIZE, block=3)
NAMES = ("admix", "us-mm", "ssa", "stm", "maskblock")
COST = {"admix": 15, "us-mm": 15, "ssa": 20, "stm": 20, "maskblock": 16}

KINDS = (Admix(), UniformScale(), MixMask(), StyleMix(), Spectrum(), MaskBlocks())
each_kind = pytest.mark.parametrize("transform", KINDS, ids=repr)
each_random = pytest.mark.parametrize("transform", [k for k in KINDS if not isinstance(k, UniformScale | MaskBlocks)])


def picked(numbers: Draw, size: tuple[int, int] = SIZE) -> Tensor:
    """The photographs that the next number of each item stands for."""
    return torch.stack([photographs(size)[math.floor(6 * float(u))].double() for u in numbers.uniform()])


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_admix_adds_a_share_of_a_photograph(share: float) -> None:
    for copy in range(3):
        image, label = Admix(share=share)(X, Y, draw(3, copy=copy))
        assert torch.equal(image, X + share * picked(draw(3, copy=copy)))
        assert torch.equal(label, Y)


def test_every_photograph_gets_its_turn() -> None:
    added = Admix(share=1.0)(X[:1].expand(200, -1, -1, -1), Y[:1].expand(200, -1, -1), draw(200))[0] - X[:1]
    nearest = (added[:, None] - photographs(SIZE).double()).abs().amax((2, 3, 4)).argmin(1)
    assert nearest.bincount(minlength=6).min() > 20


def test_pictures_differ_between_copies_and_iterations() -> None:
    run = run_of(read("admix"), images(1, SIZE).expand(2, -1, -1, -1), Y[:2])
    seen = []
    for run.iteration in range(40):
        # Equal images, so that only the copy tells them apart; copies 0 to 2 are of full brightness.
        z, _ = run._transformed(run.x, Items(torch.tensor([0, 1]), torch.tensor([0, 1]), run.x.device))
        seen.append(z - run.x)
    first, second = (torch.stack([z[number] for z in seen]) for number in (0, 1))
    assert 10 < (first != second).flatten(1).any(1).sum() < 40
    assert len({tuple(picture.flatten().tolist()) for picture in first}) == 6


def test_uniform_scales_are_evenly_spaced_from_the_brightest() -> None:
    factors = [0.75, 0.5875, 0.425, 0.2625, 0.1]
    for copy, factor in enumerate(factors):
        image, label = UniformScale()(X, Y, draw(3, copy=copy))
        assert torch.allclose(image, factor * X, rtol=1e-14, atol=0)
        assert torch.equal(label, Y)
    assert torch.equal(UniformScale(copies=1)(X, Y, draw(3))[0], 0.75 * X)


@pytest.mark.parametrize("strength", [0.5, 0.2])
def test_a_mix_mask_multiplies_around_one(strength: float) -> None:
    image, label = MixMask(strength=strength)(X, Y, draw(3))
    for one, x, picture in zip(image, X, picked(draw(3)), strict=True):
        assert torch.allclose(one, x * ((1 - strength) + 2 * strength * picture), rtol=1e-12, atol=0)
    assert torch.equal(label, Y)
    ratio = image[X > 0] / X[X > 0]
    assert 1 - strength - 1e-6 <= ratio.min() < 1 - 0.7 * strength
    assert 1 + 0.7 * strength < ratio.max() <= 1 + strength + 1e-6


@pytest.mark.parametrize(("keep", "noise"), [(0.5, 2.0), (0.0, 0.0), (0.25, 0.0), (1.0, 3.0)])
def test_style_mixing_exchanges_mean_and_deviation(keep: float, noise: float) -> None:
    image, label = StyleMix(keep=keep, noise=noise)(X, Y, draw(3))
    numbers = draw(3)
    styles = picked(numbers, (256, 256)) if keep < 1 else torch.zeros_like(X)
    noises = noise * numbers.reach * (2 * numbers.uniform(3, *SIZE) - 1)
    for i in range(3):
        for c in range(3):
            x, style = X[i, c], styles[i, c].flatten().tolist()
            mean, other = float(x.sum()) / x.numel(), sum(style) / len(style)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in x.flatten().tolist()) / x.numel() + 1 / 255**2)
            contrast = math.sqrt(sum((v - other) ** 2 for v in style) / len(style))
            styled = (x - mean) * contrast / deviation + other
            # The statistics of the photographs are taken in float32.
            assert torch.allclose(image[i, c], keep * x + (1 - keep) * styled + noises[i, c], rtol=0, atol=1e-6)
    assert torch.equal(label, Y)


def test_a_constant_image_takes_the_colour_and_keeps_a_finite_gradient() -> None:
    x = torch.full((1, 3, *SIZE), 0.3, dtype=torch.float64).requires_grad_()
    image, _ = StyleMix(keep=0.0, noise=0.0)(x, Y[:1], draw(1))
    expected = picked(draw(1), (256, 256)).mean((2, 3), keepdim=True).expand_as(image)
    assert torch.allclose(image, expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(image.square().sum(), x)
    assert gradient.isfinite().all()


def cosines(size: int) -> Tensor:
    """Row k is cos(pi k (n + 1/2) / size)."""
    rows = [[math.cos(math.pi * k * (n + 0.5) / size) for n in range(size)] for k in range(size)]
    return torch.tensor(rows, dtype=torch.float64)


ODD_SIZES = [(1, 1), (1, 2), (2, 3), (3, 1), (5, 4), (9, 11), (1, 40), (64, 45)]


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_cosine_transform_and_its_inverse(size: tuple[int, int]) -> None:
    x = images(2, size)
    coefficients = to_cosines(x)
    assert torch.allclose(coefficients, cosines(size[0]) @ x @ cosines(size[1]).T, rtol=0, atol=1e-11)
    assert torch.allclose(from_cosines(coefficients), x, rtol=0, atol=1e-14)
    assert torch.allclose(to_cosines(from_cosines(x)), x, rtol=0, atol=1e-12)
    assert (from_cosines(to_cosines(x.float())) - x).abs().max() < 1e-6


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_cosine_transforms_do_not_depend_on_the_batch(size: tuple[int, int]) -> None:
    x = images(7, size)
    for function in (to_cosines, from_cosines):
        for dtype in (torch.float32, torch.float64):
            together = function(x.to(dtype))
            for count in (1, 2, 5):
                assert torch.equal(function(x[:count].to(dtype)), together[:count])
            assert torch.equal(function(x[6:].to(dtype)), together[6:])


@pytest.mark.parametrize(("rho", "sigma"), [(0.5, 1.0), (0.9, 0.0), (0.0, 3.0)])
def test_spectrum_multiplies_every_coefficient(rho: float, sigma: float) -> None:
    image, label = Spectrum(rho=rho, sigma=sigma)(X, Y, draw(3))
    numbers = draw(3)
    noisy = X + sigma * numbers.reach * numbers.normal(3, *SIZE) if sigma else X
    factor = 1 - rho + 2 * rho * numbers.uniform(3, *SIZE) if rho else torch.ones_like(X)
    down, across = cosines(SIZE[0]), cosines(SIZE[1])
    altered = (down @ noisy @ across.T) * factor
    expected = torch.linalg.solve(across, torch.linalg.solve(down, altered).mT).mT
    assert torch.allclose(image, expected, rtol=0, atol=1e-12)
    assert torch.equal(label, Y)


@pytest.mark.parametrize(
    "noisy", ["spectrum(rho=0, sigma={})", "stylemix(keep=1, noise={})", "structure(operations=('noise',), noise={})"]
)
def test_noise_is_measured_in_budgets(noisy: str) -> None:
    def shown(size: float, budget: str) -> Tensor:
        run = run_of(read(f"{noisy.format(size)} + {budget} + bim"), X, Y)
        return run._transformed(X, run.items(0, 3))[0]

    one = shown(1, "linf(eps=8/255)")
    assert (one - X).abs().max() > 0.02
    assert torch.equal(shown(2, "linf(eps=4/255)"), one)
    # The cube within which all values of an image change alike has its corners on the ball.
    corner = 8 / 255 * math.sqrt(X[0].numel())
    assert torch.allclose(shown(1, f"l2(eps={corner})"), one, rtol=0, atol=1e-12)


def naive_blocks(x: Tensor, y: Tensor, grid: int, cell: int) -> tuple[Tensor, Tensor]:
    image, label = x.clone(), y.clone()
    height, width = x.shape[-2:]
    for row in range(height):
        for col in range(width):
            if (row * grid // height) * grid + col * grid // width == cell:
                image[:, row, col] = 0
                label[row, col] = VOID
    return image, label


@pytest.mark.parametrize("size", [(9, 11), (8, 8), (3, 2), (1, 13)], ids=str)
@pytest.mark.parametrize("grid", [1, 2, 4])
def test_copy_i_hides_cell_i(grid: int, size: tuple[int, int]) -> None:
    x, y = images(2, size) / 2 + 0.5, labels(2, size, block=3)
    covered = torch.zeros(2, *size, dtype=torch.int64)
    for copy in range(grid**2):
        image, label = MaskBlocks(copies=grid**2, grid=grid)(x, y, draw(2, copy=copy))
        for i in range(2):
            their_image, their_label = naive_blocks(x[i], y[i], grid, copy)
            assert torch.equal(image[i], their_image)
            assert torch.equal(label[i], their_label)
        covered += (image == 0).all(1)
    assert (covered == 1).all(), "every pixel is hidden once"


def test_with_fewer_copies_than_cells_they_are_drawn() -> None:
    x, y = X[:1].expand(300, -1, -1, -1), Y[:1].expand(300, -1, -1)
    image, label = MaskBlocks(copies=1, grid=2)(x, y, draw(300))
    cells = [naive_blocks(X[0], Y[0], 2, cell) for cell in range(4)]
    found = torch.stack([(image == one).flatten(1).all(1) & (label == other).flatten(1).all(1) for one, other in cells])
    assert (found.sum(0) == 1).all()
    assert found.sum(1).min() > 40


@each_kind
def test_labels_stay_or_become_void_where_nothing_is_shown(transform: Transform) -> None:
    image, label = transform(X, Y, draw(3))
    hidden = isinstance(transform, MaskBlocks)
    assert torch.equal(label, Y.masked_fill((image == 0).all(1) & hidden, VOID))


@each_kind
def test_places_stay(transform: Transform) -> None:
    """What a pixel becomes depends on that pixel more than on any other."""
    x = X[:1].clone().requires_grad_()
    image, _ = transform(x, Y[:1], draw(1))
    for row, col in ((0, 5), (4, 6), (7, 2), (8, 10)):
        (gradient,) = torch.autograd.grad(image[0, 1, row, col], x, retain_graph=True)
        size = gradient[0].abs()
        assert int(size.argmax()) == (SIZE[0] + row) * SIZE[1] + col or float(size.sum()) == 0


@each_random
def test_an_images_copies_are_not_alike(transform: Transform) -> None:
    x, y = X[:1].expand(12, -1, -1, -1), Y[:1].expand(12, -1, -1)
    image, _ = transform(x, y, draw(12))
    assert len({tuple(one.flatten().tolist()) for one in image}) > 3


@each_kind
def test_nan_stays_in_its_image(transform: Transform) -> None:
    x = X.clone()
    x[1, 0, 3, 4] = torch.nan
    image, _ = transform(x, Y, draw(3))
    assert torch.equal(image[[0, 2]], transform(X, Y, draw(3))[0][[0, 2]])


NEUTRAL = (
    Admix(share=0.0),
    UniformScale(scale=(1.0, 1.0)),
    MixMask(strength=0.0),
    StyleMix(keep=1.0, noise=0.0),
    Spectrum(rho=0.0, sigma=0.0),
)


@pytest.mark.parametrize("transform", NEUTRAL, ids=repr)
def test_neutral_settings_change_nothing(transform: Transform) -> None:
    for dtype in (torch.float32, torch.float64):
        image, label = transform(X.to(dtype), Y, draw(3, dtype=dtype))
        assert torch.equal(image, X.to(dtype))
        assert torch.equal(label, Y)
    alone = replace(read("mi"), transforms=(replace(transform, copies=1),))
    assert torch.equal(alone(Context(), X, Y), read("mi")(Context(), X, Y))


@pytest.mark.parametrize("name", NAMES)
def test_what_an_attack_costs(name: str) -> None:
    seen: list[int] = []

    def model(x: Tensor) -> Tensor:
        seen.append(len(x))
        return Context()(x)

    entry = replace(ENTRIES[name].attack, iterations=2)
    entry(model, X, Y)
    assert sum(seen) == 3 * 2 * COST[name] == 3 * entry.evaluations


def test_the_gradient_of_maskblock_by_hand() -> None:
    """The mean over cells of the gradients of images without the cell, each over the labels that are left."""
    model, expected = Context(), torch.zeros_like(X)
    for i in range(3):
        for cell in range(16):
            image, label = naive_blocks(X[i], Y[i], 4, cell)
            leaf = image[None].requires_grad_()
            loss = F.cross_entropy(model(leaf), label[None], ignore_index=VOID)
            (gradient,) = torch.autograd.grad(loss, leaf)
            expected[i] += gradient[0].where(image != 0, 0) / 16
    # Black pixels of the image itself are not hidden.
    inside = X != 0
    found = run_of(read("maskblock"), X, Y, model).gradient(X)
    assert torch.allclose(found[inside], expected[inside], rtol=1e-10, atol=1e-15)


def test_the_gradient_of_us_mm_by_hand() -> None:
    """Copy k has scale k mod 5 and a mask of its own; the gradient comes back through both."""
    x, y, model = X[:1], Y[:1], Context()
    run = run_of(read("us-mm"), x, y, model)
    found, expected = run.gradient(x), torch.zeros_like(x)
    for copy in range(15):
        mask = 0.5 + picked(run.draw(2, run.items(copy, copy + 1)))
        factor = (0.75 - 0.65 / 4 * (copy % 5)) * mask
        leaf = (factor * x).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, ignore_index=VOID), leaf)
        expected += gradient * factor / 15
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_attacks_mix_with_others(name: str) -> None:
    x, y = X[:2], Y[:2]
    for text in (f"{name}(iterations=1) + remap", f"segpgd(iterations=1) + {name}", f"{name}(iterations=1) + mi"):
        together = read(text)(Context(), x, y)
        assert (together != x).double().mean() > 0.5
        assert torch.equal(together[1:], read(text)(Context(), x[1:], y[1:]))


@pytest.mark.parametrize("part", [Admix, MixMask, StyleMix])
def test_ones_own_bank(part: type[Transform], tmp_path: Path) -> None:
    write_image(tmp_path / "grey.png", np.full((5, 5, 3), 51, dtype=np.uint8))
    image, _ = part(bank=str(tmp_path))(X, Y, draw(3))
    expected = {Admix: X + 0.04, MixMask: X * 0.7, StyleMix: 0.5 * X + 0.1}[part]
    assert (image - expected).abs().max() < (17 / 255 if part is StyleMix else 1e-6)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        part(bank=str(tmp_path / "nowhere"))(X, Y, draw(3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Admix(share=-0.1),
        lambda: Admix(share=1.5),
        lambda: Admix(share=math.nan),
        lambda: UniformScale(scale=(0, 1)),
        lambda: UniformScale(scale=(0.8, 0.1)),
        lambda: MixMask(strength=2),
        lambda: StyleMix(keep=-1),
        lambda: StyleMix(noise=-1),
        lambda: Spectrum(rho=1.5),
        lambda: Spectrum(sigma=math.inf),
        lambda: MaskBlocks(grid=0),
        lambda: MaskBlocks(grid=2.0),
        lambda: MaskBlocks(labels="black"),
    ],
)
def test_impossible_settings_are_refused(make: type) -> None:
    with pytest.raises(UsageError, match=rf"^({'|'.join({type(k).__name__ for k in KINDS})}) \w+ is .*; allowed are"):
        make()

"""What holds for all transformations that move pixels."""

import pytest
import torch
from pixel_by_pixel import COUNT, SIDES, X, Y, ids
from torch import Tensor

from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES, PARTS
from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.transforms import CellMask, Crop, Rescale, Rotate, Shuffle, Structure, Transform, Warp
from toys import Context, dense, draw, images, parts_of, run_of

MOVING: tuple[Transform, ...] = (
    Shuffle(),
    Structure(operations=SIDES[:5]),
    Warp(),
    Warp(mesh=5, reach=0.4),
    Crop(),
    Rotate(angle=180.0),
    CellMask(fill=(0.0, 0.0, 0.0)),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(65, 97), (40, 23), (7, 5)], ids=str)
@pytest.mark.parametrize("part", MOVING, ids=repr)
def test_labels_come_from_where_pixels_do(part: Transform, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Every pixel carries its row and column as colour and its number as label."""
    y = ids(size, 3)
    rows, cols = (torch.arange(side, dtype=dtype) / 100 for side in size)
    places = torch.stack(torch.broadcast_tensors(rows[:, None], cols, torch.ones((), dtype=dtype)))
    for seed in range(3):
        image, label = part(places.expand(3, -1, -1, -1), y, draw(3, seed=seed, dtype=dtype))
        inside = label != VOID
        assert (image.abs().amax(1)[inside] > 0.99).all()
        assert (image[:, 2] == 0)[~inside].all()
        assert inside.double().mean() > 0.3
        label -= 1000
        assert ((100 * image[:, 0] - label // size[1]).abs()[inside] <= 0.5 + 1e-4).all()
        assert ((100 * image[:, 1] - label % size[1]).abs()[inside] <= 0.5 + 1e-4).all()


@pytest.mark.parametrize("part", [part for part in parts_of(Transform).values() if part is not Rescale])
def test_labels_can_be_left_behind_as_classifiers_do(part: type[Transform]) -> None:
    """The surrogate is shown the same images with the labels of the image as it was."""
    runs = [run_of(Attack(transforms=(t,)), X, Y) for t in (part(), part(labels="keep"))]
    copies = part().copies
    items = runs[0].items((copies - 1) * COUNT, copies * COUNT)
    (image, label), (same, behind) = (run._transformed(X, items) for run in runs)
    assert torch.equal(image, same)
    assert torch.equal(behind, Y)
    assert not torch.equal(label, Y) or not part.moves


@pytest.mark.parametrize("base", ["shuffle + mi", "resize(probability=1) + segpgd", "cellmask + bim"])
def test_labels_left_behind_make_another_attack(base: str) -> None:
    keep = base.replace(")", ", labels='keep')", 1) if ")" in base else base.replace(" ", "(labels='keep') ", 1)
    assert not torch.equal(read(keep)(Context(), X[:2], Y[:2]), read(base)(Context(), X[:2], Y[:2]))


NEUTRAL = (
    "shuffle(blocks=1, angle=0)",
    "structure(blocks=1, operations=('noise',), noise=0)",
    "warp(reach=0)",
    "warp(mesh=5, reach=0)",
    "crop(area=(1, 1), ratio=(1, 1))",
    "crop(whole_first=True)",
    "cellmask(kept=16)",
    "cellmask(whole_first=True)",
    "rotate(angle=0)",
    "chain(operations=('identity',), length=3)",
    "operators(shortest=0, length=0)",
)


@pytest.mark.parametrize("neutral", NEUTRAL)
def test_neutral_settings_are_neutral(neutral: str) -> None:
    (part,) = read(neutral).transforms
    for dtype in (torch.float32, torch.float64):
        image, label = part(X.to(dtype), Y, draw(COUNT, dtype=dtype))
        assert torch.equal(image, X.to(dtype))
        assert torch.equal(label, Y)
    model = Context()
    # Where nothing moves, labels that stay are where labels that move would be.
    for spelling in (neutral, f"{neutral[:-1]}, labels='keep')"):
        for base in ("bim", "segpgd + mi"):
            assert torch.equal(read(f"{spelling} + {base}")(model, X[:2], Y[:2]), read(base)(model, X[:2], Y[:2]))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 3)])
@pytest.mark.parametrize(
    "part", [*MOVING, Structure(blocks=5), Shuffle(blocks=6), Warp(mesh=6), CellMask(kept=1)], ids=repr
)
def test_images_smaller_than_the_blocks(part: Transform, size: tuple[int, int]) -> None:
    x = images(3, size).requires_grad_()
    image, label = part(x, dense(3, size), draw(3))
    (gradient,) = torch.autograd.grad(image.sum(), x)
    assert image.isfinite().all()
    assert gradient.isfinite().all()
    assert label.shape == (3, *size)


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [("bsr", 20), ("sia", 20), ("decowa", 40), ("su", 2), ("everywhere-attack", 10), ("l2t", 20), ("ops", 901)],
)
def test_entries_spend_what_they_say(name: str, evaluations: int) -> None:
    seen: list[int] = []

    class Counted(Context):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                seen.append(len(x))
            return super().forward(x)

    attack = read(f"{name}(iterations=2)")
    assert attack.evaluations_per_iteration == evaluations
    result = attack.perturb(Counted(), X[:1], Y[:1], chunk=16)
    assert sum(seen) == result.evaluations == attack.evaluations == 2 * evaluations
    assert max(seen) == min(16, attack.copies), "never more at once, however many there are"
    assert read(f"{name} + remap + mi").evaluations_per_iteration == evaluations
    assert ENTRIES[name].family == "input"


def test_parts_are_registered_and_their_base_is_not() -> None:
    assert {"shuffle", "structure", "warp", "crop", "cellmask", "rotate", "chain", "operators"} <= set(PARTS)
    assert "displacement" not in PARTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shuffle(labels='stay')", "Shuffle labels is 'stay'; allowed are 'move' and 'keep'"),
        ("rescale(labels='keep')", "Rescale labels is 'keep'; allowed is 'move', since the size changes"),
        ("warp(labels=1)", "Warp labels is 1; allowed are 'move' and 'keep'"),
        ("shuffle(blocks=0)", "Shuffle blocks is 0; allowed are whole numbers from 1"),
        ("shuffle(angle=-1)", "Shuffle angle is -1; allowed are degrees from 0 to 180"),
        ("rotate(angle=181)", "Rotate angle is 181; allowed are degrees"),
        ("structure(blocks=1.5)", "Structure blocks is 1.5; allowed are whole numbers from 1"),
        ("structure(operations=())", "Structure operations is \\(\\); allowed are vertical_roll, "),
        ("structure(operations=('flip',))", "Structure operations is \\('flip',\\); allowed are"),
        ("structure(noise=-1)", "Structure noise is -1; allowed are numbers from 0"),
        ("crop(area=(0, 1))", "Crop area is \\(0, 1\\); allowed are two positive numbers"),
        ("crop(area=(0.5, 1.5))", "Crop area is \\(0.5, 1.5\\); allowed are shares up to 1"),
        ("crop(ratio=(2, 1))", "Crop ratio is \\(2, 1\\); allowed are two positive numbers"),
        ("cellmask(grid=0)", "CellMask grid is 0; allowed are whole numbers from 1"),
        ("cellmask(kept=17)", "CellMask kept is 17; allowed are at most grid² = 16 cells"),
        ("cellmask(fill=(0, 1))", "CellMask fill is \\(0, 1\\); allowed are three numbers from 0 to 1"),
        ("cellmask(fill=(0, 1, 2))", "CellMask fill is \\(0, 1, 2\\); allowed are three numbers from 0 to 1"),
        ("warp(mesh=2)", "Warp mesh is 2; allowed are whole numbers from 3"),
        ("warp(reach=-0.1)", "Warp reach is -0.1; allowed are numbers from 0 to 2"),
        ("warp(descent=-1)", "Warp descent is -1; allowed are numbers from 0"),
        ("operators(length=1)", "Operators length is 1; allowed are whole numbers from 2"),
        ("operators(shortest=-1)", "Operators shortest is -1; allowed are whole numbers from 0"),
        ("chain(length=0)", "Chain length is 0; allowed are whole numbers from 1"),
        ("chain(operations=('flip',))", "Chain operations is \\('flip',\\); allowed are identity, rotate, "),
        ("chain(operations=())", "Chain operations is \\(\\); allowed are"),
    ],
)
def test_impossible_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        read(text)

"""Our attacks called as other libraries' are find what they find when they are called as ours."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segtrans.catalogue import attack as read
from segtrans.data.base import VOID
from segtrans.errors import UsageError
from segtrans.interop import as_adv_lib, as_art, as_foolbox, as_torchattacks
from toys import CLASSES, Context, images, labels

TEXT = "pgd(iterations=3) + remap(grid=2)"
MODEL, X, Y = Context(), images(3), labels(3)


def direct(text: str = TEXT, y: Tensor | None = Y, seed: int = 0) -> Tensor:
    return read(text)(MODEL, X, y, seed=seed)


def test_torchattacks() -> None:
    atk = as_torchattacks(read(TEXT), MODEL)
    assert torch.equal(atk(X, Y), direct())
    assert torch.equal(atk(X), direct(y=None))
    assert torch.equal(as_torchattacks(read(TEXT), MODEL, seed=2)(X, Y), direct(seed=2))
    assert not torch.equal(direct(), direct(seed=2))


def test_art() -> None:
    found = as_art(read(TEXT), MODEL).generate(X.numpy(), Y.numpy())
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, direct().numpy())
    x = X.float().numpy()
    kept = x.copy()
    found = as_art(read(TEXT), Context().float()).generate(x=x)
    assert (found.dtype, found.shape) == (np.float32, x.shape)
    assert np.array_equal(x, kept)
    assert np.array_equal(found, read(TEXT)(Context().float(), X.float()).numpy())


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_art_takes_arrays_of_another_type_than_the_weights(kind: type) -> None:
    x, model = X.numpy().astype(kind), Context().float()
    found = as_art(read(TEXT), model).generate(x)
    assert (found.dtype, found.shape) == (kind, x.shape)
    expected = read(TEXT)(model, torch.from_numpy(x).float()).numpy()
    assert np.array_equal(found, expected.astype(kind))


def test_adv_lib() -> None:
    call = as_adv_lib(read(TEXT))
    assert torch.equal(call(MODEL, X, Y), direct())
    masks = torch.rand(Y.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    assert torch.equal(call(model=MODEL, inputs=X, labels=Y, masks=masks), direct(y=Y.where(masks, VOID)))
    assert not torch.equal(call(MODEL, X, Y, masks), direct())
    wanted = Y.where(Y != VOID, 0)
    assert torch.equal(as_adv_lib(read("towards"))(MODEL, X, wanted, targeted=True), direct("towards", wanted))
    for text, targeted in ((TEXT, True), ("towards", False)):
        with pytest.raises(UsageError, match=r"the attack leads (towards|away from) its labels, but is called"):
            as_adv_lib(read(text))(MODEL, X, Y, targeted=targeted)


@pytest.fixture
def foolbox() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("foolbox", reason="foolbox is not installed ; make setup installs it")


def test_foolbox(foolbox: Any) -> None:
    """Budgets one by one, on the scale of the model's bounds; half of the valid pixels wrong is a success."""
    fmodel = foolbox.PyTorchModel(MODEL, bounds=(0, 1), device="cpu")
    call = as_foolbox(read(TEXT))
    raw, clipped, success = call(fmodel, X, Y, epsilons=4 / 255)
    expected = direct(f"linf(eps=4/255) + {TEXT}")
    assert torch.equal(raw, expected)
    assert torch.equal(clipped, expected)
    wrong = ((MODEL(expected).argmax(1) != Y) & (Y != VOID)).sum((1, 2)) / (Y != VOID).sum((1, 2))
    assert success.tolist() == (wrong >= 0.5).tolist()
    shares = sorted(wrong.tolist())
    some = as_foolbox(read(TEXT), share=shares[1])(fmodel, X, Y, epsilons=4 / 255)[2]
    assert some.sum() == 2, "all but the one with the fewest wrong pixels"
    raws, clippeds, success = call(fmodel, X, foolbox.criteria.Misclassification(Y), epsilons=[0, 4 / 255, 8 / 255])
    assert [len(raws), len(clippeds), *success.shape] == [3, 3, 3, 3]
    for found, eps in zip(raws, ("0", "4/255", "8/255"), strict=True):
        assert torch.equal(found, direct(f"linf(eps={eps}) + {TEXT}"))
    worst = read("sea(iterations=2)")
    found = as_foolbox(worst)(fmodel, X, Y, epsilons=4 / 255)[0]
    assert torch.equal(found, worst.configured(eps="4/255")(MODEL, X, Y))


def test_foolbox_with_other_bounds(foolbox: Any) -> None:
    fmodel = foolbox.PyTorchModel(Wide(), bounds=(-1, 3), device="cpu")
    raw, _, _ = as_foolbox(read("bim(iterations=3)"))(fmodel, 4 * X - 1, Y, epsilons=4 * 8 / 255)
    assert (raw - (4 * direct("bim(iterations=3)") - 1)).abs().max() <= 1e-12


class Wide(Context):
    """The same model on images in [-1, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x + 1) / 4)


def test_foolbox_towards_labels(foolbox: Any) -> None:
    fmodel = foolbox.PyTorchModel(MODEL, bounds=(0, 1), device="cpu")
    wanted = torch.full_like(Y, CLASSES - 1)
    criterion = foolbox.criteria.TargetedMisclassification(wanted)
    expected = direct("towards + linf(eps=64/255)", wanted)
    before, after = ((MODEL(x).argmax(1) == wanted).float().mean((1, 2)) for x in (X, expected))
    assert before.max() < after.max()
    call = as_foolbox(read("towards"), share=float(after.max()))
    raws, _, success = call(fmodel, X, criterion, epsilons=[0, 64 / 255])
    assert torch.equal(raws[1], expected)
    assert success.tolist() == [[False] * 3, (after == after.max()).tolist()]
    for text, other in ((TEXT, criterion), ("towards", Y)):
        with pytest.raises(UsageError, match="but is called as one"):
            as_foolbox(read(text))(fmodel, X, other, epsilons=0.1)
    with pytest.raises(UsageError, match="epsilons is None; allowed are budgets"):
        as_foolbox(read(TEXT))(fmodel, X, Y, epsilons=None)


def test_foolbox_budgets_of_other_forms(foolbox: Any) -> None:
    fmodel = foolbox.PyTorchModel(MODEL, bounds=(0, 1), device="cpu")
    call = as_foolbox(read("fgsm"))
    expected, _, success = call(fmodel, X, Y, epsilons=0.0625)
    for eps in (torch.tensor(0.0625), np.array(0.0625)):
        raw, _, alike = call(fmodel, X, Y, epsilons=eps)
        assert torch.equal(raw, expected)
        assert torch.equal(alike, success)
    raws, _, several = call(fmodel, X, Y, epsilons=torch.tensor([0.0, 0.0625]))
    assert torch.equal(raws[1], expected)
    assert torch.equal(several[1], success)
    with pytest.raises(UsageError, match=r"epsilons is \[\]; allowed are budgets"):
        call(fmodel, X, Y, epsilons=[])


def test_foolbox_has_no_success_where_all_is_void(foolbox: Any) -> None:
    fmodel, y = foolbox.PyTorchModel(MODEL, bounds=(0, 1), device="cpu"), Y.clone()
    y[1] = VOID
    assert not as_foolbox(read("noise"))(fmodel, X, y, epsilons=0)[2][1]


def test_adv_lib_takes_masks_of_numbers() -> None:
    call, masks = as_adv_lib(read("fgsm")), Y < 2
    assert torch.equal(call(MODEL, X, Y, masks.float()), call(MODEL, X, Y, masks))

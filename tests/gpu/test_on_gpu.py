"""On a GPU every entry of the catalogue keeps its budget and finds what it finds on a CPU."""

import pytest
import torch
from torch.nn import functional as F

from segtrans.catalogue import ENTRIES
from segtrans.interpolation import interpolate
from segtrans.testing.attacks import check_budget
from toys import Context, changed, few, images, labels

if not torch.cuda.is_available():
    pytest.skip("there is no GPU that PyTorch can use", allow_module_level=True)


@pytest.mark.parametrize("name", ENTRIES)
def test_it_finds_what_it_finds_on_a_cpu(name: str) -> None:
    attack = few(ENTRIES[name].attack, most=2)
    attack = changed(attack, iterations=min(2, attack.attacks[0].iterations))
    x, y = images(2, size=(33, 40)), labels(2, size=(33, 40))
    here = attack.perturb(Context(), x, y, seed=5)
    there = attack.perturb(Context().cuda(), x.cuda(), y.cuda(), seed=5)
    found = there.adversarial.cpu()
    check_budget(attack.attacks[0].threat, found, x, attack)
    assert here.evaluations == there.evaluations
    assert here.failed.tolist() == there.failed.cpu().tolist()
    # Sums in another order turn the sign of a gradient that is all but zero.
    assert ((found - here.adversarial).abs() < 1e-6).double().mean() > 0.99


@pytest.mark.parametrize("size", [(18, 28), (31, 17), (4, 14), (1, 1), (90, 140)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_interpolation_is_what_it_is_on_a_cpu(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = interpolate(x.cuda(), size)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.cpu().double(),
        F.interpolate(x.double(), size, mode="bilinear"),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-5,
        atol=1e-5,
    )

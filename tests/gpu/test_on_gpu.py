"""On a GPU every entry of the catalogue keeps its budget and finds what it finds on a CPU."""

import pytest
import torch
from torch.nn import functional as F

from segtrans.catalogue import ENTRIES
from segtrans.devices import exact
from segtrans.interpolation import interpolate
from segtrans.metrics import Counts
from segtrans.models import load_model
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


@pytest.mark.parametrize(("align_corners", "antialias"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("size", [(18, 28), (31, 17), (4, 14), (1, 1), (90, 140)], ids=str)
def test_interpolation_is_what_it_is_on_a_cpu(size: tuple[int, int], align_corners: bool, antialias: bool) -> None:
    x = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = F.interpolate(x, size, mode="bilinear", align_corners=align_corners, antialias=antialias)
    there = x.detach().cuda().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        found = interpolate(there, size, align_corners=align_corners, antialias=antialias)
    torch.testing.assert_close(found.cpu(), expected)
    slopes = torch.autograd.grad(found.square().sum(), there)[0], torch.autograd.grad(expected.square().sum(), x)[0]
    torch.testing.assert_close(slopes[0].cpu(), slopes[1], rtol=1e-4, atol=1e-4)


def test_a_loaded_network_has_channels_first_and_says_the_same() -> None:
    spec = "smp:deeplabv3plus/mobilenet_v2?weights=random&classes=4"
    here, there = load_model(spec), load_model(spec, "cuda")
    assert all(weight.is_contiguous() for weight in there.parameters())
    x = torch.rand(2, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), exact(torch.device("cuda")):
        torch.testing.assert_close(there(x.cuda()).cpu(), here(x), rtol=1e-3, atol=1e-4)


def test_counts_of_predictions_on_the_gpu_are_measured_like_any() -> None:
    truth, clean, attacked = (labels(2, size=(33, 40), values=range(4), seed=seed) for seed in range(3))
    here, there = Counts.of(truth, clean, attacked, 4), Counts.of(truth.cuda(), clean.cuda(), attacked.cuda(), 4)
    assert there.measures() == here.measures()

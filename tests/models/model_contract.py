"""What every segmentation model must do, whatever network is inside."""

import torch
from torch import Tensor

from segtrans.models import SegModel

ODD, EVEN = (65, 97), (64, 64)


def images(size: tuple[int, int], count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, *size, generator=generator, dtype=torch.float64)


def assert_contract(model: SegModel, classes: int) -> None:
    """Checks shapes, finiteness, independence within the batch, gradients, and that nothing else is changed."""
    assert len(model.classes) == classes
    assert model.name
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    state = torch.get_rng_state()
    with torch.inference_mode():
        single = model(images(EVEN).float())
    assert single.dtype == torch.float32
    assert single.shape == (2, classes, *EVEN)
    assert single.isfinite().all()

    model = model.double()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    x = images(ODD).requires_grad_()
    before = x.detach().clone()
    logits = model(x)
    assert logits.shape == (2, classes, *ODD)
    assert logits.isfinite().all()
    # One image's loss: its gradient must reach it, and no other image of the batch.
    (gradient,) = torch.autograd.grad(logits[1].square().sum(), x)
    assert gradient[1].isfinite().all()
    assert gradient[1].abs().max() > 0
    assert gradient[0].abs().max() == 0
    with torch.inference_mode():
        alone = model(before[1:])
    torch.testing.assert_close(alone[0], logits[1].detach(), rtol=1e-6, atol=1e-6 * float(logits.detach().std()))
    assert torch.equal(x.detach(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())

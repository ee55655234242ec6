"""Networks laid out for CPUs compute what they computed before, however many threads there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from segtrans.models import load_model
from segtrans.models.layout import Enlarged, Pointwise, lay_out

SPEC = "smp:deeplabv3plus/mobilenet_v2?weights=random&classes=4"


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def convolutions(**options: object) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same frozen 1 × 1 convolution as torch makes it and as we lay it out."""
    torch.default_generator.manual_seed(0)
    plain = nn.Conv2d(5, 7, 1, **options).requires_grad_(False)  # type: ignore[arg-type]
    ours = nn.Sequential(deepcopy(plain))
    lay_out(ours)
    assert type(ours[0]) is Pointwise
    return plain, ours[0]


def gradient(module: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad((module(leaf) * weights).sum(), leaf)[0]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 9, 11), (1, 5, 1, 1), (17, 5, 4, 4)])
def test_values_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], bias: bool, layout: torch.memory_format, random: torch.Generator
) -> None:
    plain, ours = convolutions(bias=bias)
    x = torch.randn(shape, generator=random).contiguous(memory_format=layout)
    weights = torch.randn(shape[0], 7, *shape[2:], generator=random)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(ours, x, weights), gradient(plain, x, weights), rtol=1e-5, atol=1e-6)


def test_a_second_derivative_is_there() -> None:
    plain, ours = convolutions()

    def second(module: nn.Module) -> Tensor:
        leaf = torch.ones(1, 5, 3, 3).requires_grad_()
        (first,) = torch.autograd.grad(module(leaf).pow(3).sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    torch.testing.assert_close(second(ours), second(plain), rtol=1e-4, atol=1e-5)


def test_torch_func_differentiates_it(random: torch.Generator) -> None:
    plain, ours = convolutions()
    x = torch.randn(2, 5, 4, 4, generator=random)

    def loss(module: nn.Module, z: Tensor) -> Tensor:
        return module(z).square().sum()

    found, expected = (torch.func.grad(lambda z, m=module: loss(m, z))(x) for module in (ours, plain))
    torch.testing.assert_close(found, expected)


def test_weights_that_learn_and_other_types_are_left_to_torch(random: torch.Generator) -> None:
    plain, ours = convolutions()
    x = torch.randn(2, 5, 6, 6, generator=random)
    for module in (plain, ours):
        module.requires_grad_(True)
        module(x).square().sum().backward()
    assert ours.weight.grad is not None
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    for module in (plain, ours):
        module.weight.requires_grad_(False)
        module.bias.grad = None
        module(x).square().sum().backward()
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)
    assert torch.equal(ours.double()(x.double()), plain.double()(x.double()))
    ours.float().requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16


def test_what_is_no_plain_product_stays_as_it_is() -> None:
    class Own(nn.Conv2d):
        """A convolution of somebody else's."""

    others = [
        nn.Conv2d(4, 4, 1, stride=2),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        Own(4, 4, 1),
    ]
    kinds = [type(module) for module in others]
    lay_out(nn.Sequential(*others))
    assert [type(module) for module in others] == kinds


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit(random: torch.Generator) -> None:
    model = load_model("zoo:voc/pspnet-mobilenetv3s")
    x = torch.rand(4, 3, 96, 128, generator=random)
    found = []
    for count in (1, 2):
        with threads(count):
            leaf = x.clone().requires_grad_()
            logits = model(leaf)
            found.append((logits.detach(), torch.autograd.grad(logits.square().sum(), leaf)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_program_of_the_network_holds_nothing_of_ours(random: torch.Generator) -> None:
    model, x = load_model(SPEC), torch.rand(1, 3, 64, 64, generator=random)
    program = torch.export.export(model, (x,))
    assert not any("Product" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer", [nn.UpsamplingBilinear2d(scale_factor=4), nn.Upsample(scale_factor=3, mode="bilinear")]
)
def test_interpolations_by_whole_numbers_are_ours_and_the_same(layer: nn.Upsample, random: torch.Generator) -> None:
    ours = nn.Sequential(deepcopy(layer))
    lay_out(ours)
    assert type(ours[0]) is Enlarged
    x = torch.randn(2, 3, 5, 7, generator=random)
    torch.testing.assert_close(ours(x), layer(x))


@pytest.mark.parametrize(
    "layer", [nn.Upsample(scale_factor=1.5, mode="bilinear"), nn.Upsample(scale_factor=2), nn.Upsample(size=9)]
)
def test_other_interpolations_stay_as_they_are(layer: nn.Upsample) -> None:
    lay_out(nn.Sequential(layer))
    assert type(layer) is nn.Upsample

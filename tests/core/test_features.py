"""Layers inside a network: named, found by depth, listened to."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segtrans.attack import Attack
from segtrans.catalogue import attack as read
from segtrans.errors import ModelError, UsageError
from segtrans.features import find_layer, forward_with
from segtrans.models import load_model
from toys import Context, PixelLinear, images, labels, run_of

X = images(2)


def name_of(model: nn.Module, layer: str | float) -> str:
    module = find_layer(model, layer, X[:1])
    return next(name for name, other in model.named_modules() if other is module)


class Backwards(nn.Module):
    """Registers its layers in another order than that in which they run, one of them twice; has a pooling branch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Conv2d(3, 3, 1)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1))
        self.twice = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)
        self.first = nn.Conv2d(3, 3, 1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.twice(self.relu(self.twice(x)))
        return self.last(x * self.pool(x))


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class Several(nn.Module):
    """An encoder that returns what it is told to, before a head that takes the first tensor."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output, self.encoder, self.head = output, Returns(output), nn.Conv2d(3, 3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        self.encoder(x)
        return self.head(x)


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x)


class Members(nn.Module):
    """The least that an ensemble is."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


@pytest.mark.parametrize(
    ("share", "name"),
    [(0, "body.0"), (0.2, "body.1"), (0.25, "body.1"), (0.5, "body.4"), (0.8, "body.4"), (1, "body.5")],
)
def test_depth_counts_modules_with_weights_and_stands_at_the_ends_of_residual_blocks(share: float, name: str) -> None:
    assert name_of(Context(), share) == name


class Inverted(nn.Module):
    """A block that adds its input where channels allow it."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(before, 5, 1), nn.Conv2d(5, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.narrow(self.wide(x).relu())
        return z + x if z.shape == x.shape else z


def test_blocks_without_a_skip_are_blocks_as_their_like() -> None:
    blocks = nn.Sequential(Inverted(3, 3), Inverted(3, 4))
    assert [find_layer(blocks, share, X[:1].float()) for share in (0, 1)] == [blocks[0], blocks[1]]


def test_which_size_came_first_does_not_decide_the_layer() -> None:
    model = Backwards()
    # On images this small the pooling branch's only position is no coarser than depth may be.
    assert find_layer(model, 0.5, images(1, (20, 20))) is model.pool[1]
    assert find_layer(model, 0.5, images(1, (40, 40))) is model.twice


def test_depth_is_the_order_of_running_without_pooling_branches() -> None:
    x = images(1, (40, 40))
    model = Backwards()
    found = [find_layer(model, share, x) for share in (0, 0.5, 1)]
    assert found == [model.first, model.twice, model.last]


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("network.network.body.0", "network.network.body.0"),
        ("body.0", "network.network.body.0"),
        ("conv", "network.network.body.4.conv"),
        ("network", "network"),
    ],
)
def test_names_may_leave_out_what_wraps_a_network(layer: str, name: str) -> None:
    assert name_of(Wrapped(Wrapped(Context())), layer) == name


def test_of_several_modules_of_a_name_the_uppermost_is_meant() -> None:
    network = nn.Sequential()
    network.add_module("stage", nn.Sequential())
    network.stage.add_module("conv1", nn.Conv2d(3, 3, 1))
    network.add_module("conv1", nn.Conv2d(3, 3, 1))
    assert name_of(Wrapped(network), "conv1") == "network.conv1"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("bodi", "unknown layer 'bodi'; did you mean"),
        ("qqqqqqqq", "unknown layer 'qqqqqqqq'; known: body, body.0"),
        ("", "unknown layer ''"),
        (1.5, "layer is 1.5; allowed are"),
        (-0.1, "layer is -0.1; allowed are"),
    ],
)
def test_layers_that_are_not_there(layer: str | float, message: str) -> None:
    # A share is wrong whatever the model, a name is one that others may have.
    kind = ModelError if isinstance(layer, str) else UsageError
    with pytest.raises(kind, match=message) as error:
        find_layer(Context(), layer, X[:1])
    assert "\n" not in str(error.value)


def test_ambiguous_names_are_refused() -> None:
    model = nn.ModuleDict({"a": nn.ModuleDict({"x": nn.ReLU()}), "b": nn.ModuleDict({"x": nn.ReLU()})})
    with pytest.raises(ModelError, match=r"layer 'x' could be 'a.x' or 'b.x'; give the full name"):
        find_layer(model, "x", X[:1])


def test_a_model_without_maps_is_refused() -> None:
    with pytest.raises(ModelError, match="no module of the surrogate returns feature maps"):
        find_layer(nn.ReLU(), 0.5, X[:1])


def test_a_walked_model_can_be_forgotten() -> None:
    model = PixelLinear()
    assert find_layer(model, 0.5, X[:1]) is model
    known = weakref.ref(model)
    del model
    gc.collect()
    assert known() is None


@pytest.mark.parametrize("stop", [False, True])
def test_features_are_what_the_layer_returned_and_not_what_became_of_it(stop: bool) -> None:
    """ReLU in place follows; a layer that runs twice is heard the first time."""
    model, x = Backwards(), X.clone().requires_grad_()
    logits, features = forward_with(model.first, model, x, stop=stop)
    assert torch.equal(features, model.first(x))
    assert (features < 0).any()
    assert stop or torch.equal(logits, model(x))
    _, second = forward_with(model.twice, model, x, stop=stop)
    assert torch.equal(second, model.twice(features.relu()))


def test_logits_depend_on_the_features_that_were_heard() -> None:
    model = Context()
    layer = model.body[4].bn
    logits, features = forward_with(layer, model, X.clone().requires_grad_(), stop=False)
    (found,) = torch.autograd.grad(logits.sum(), features)
    hidden = model.body[:4](2 * X)
    leaf = layer(model.body[4].conv(hidden)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model.body[5]((leaf + hidden).relu()).sum(), leaf)
    assert torch.equal(found, expected)


def test_the_pass_ends_at_the_layer() -> None:
    model = Context()
    ran: list[int] = []
    model.body[5].register_forward_hook(lambda *_: ran.append(1))
    logits, _ = forward_with(model.body[1], model, X, stop=True)
    assert not ran
    assert logits.numel() == 0
    assert not model.body[1]._forward_hooks


@pytest.mark.parametrize(
    "output", [lambda x: (x,), lambda x: {"out": x}, lambda x: [x.flatten(2), {"a": (x, None)}], lambda x: x]
)
def test_a_single_map_is_found_in_whatever_a_layer_returns(output: Any) -> None:
    model = Several(output)
    for stop in (False, True):
        assert torch.equal(forward_with(model.encoder, model, X, stop=stop)[1], X)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: (x, x), r"layer Returns returns \(2, 3, 17, 22\), \(2, 3, 17, 22\); name a layer that returns one"),
        (lambda x: x.flatten(2), r"layer Returns returns \(2, 3, 374\); name a layer"),
        (lambda x: x[:1], r"layer Returns returns \(1, 3, 17, 22\); name a layer"),
        (lambda x: None, "layer Returns returns NoneType; name a layer"),
    ],
)
def test_anything_else_is_refused(output: Any, message: str) -> None:
    model = Several(output)
    with pytest.raises(ModelError, match=message):
        forward_with(model.encoder, model, X, stop=True)
    assert not model.encoder._forward_hooks


def test_a_layer_without_a_part_in_the_output_is_refused() -> None:
    model = Backwards()
    with pytest.raises(ModelError, match="layer Conv2d has no part in the surrogate's output"):
        forward_with(model.unused, model, X, stop=True)


def test_hooks_do_not_outlive_an_error() -> None:
    model = Context()
    with pytest.raises(RuntimeError):
        forward_with(model.body[5], model, X[:, :2], stop=False)
    assert not model.body[5]._forward_hooks


def test_ensembles_are_seen_member_by_member() -> None:
    one, other = Context(1), Context(2)
    y = labels(2)
    with pytest.raises(ModelError, match="Members is an ensemble; layers belong to one of its members"):
        find_layer(Members(one, other), 0.5, X[:1])
    attack = read("dispersion")
    found = run_of(attack, X, y, Members(one, other)).gradient(X)
    expected = (run_of(attack, X, y, one).gradient(X) + run_of(attack, X, y, other).gradient(X)) / 2
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_functions_have_no_layers() -> None:
    with pytest.raises(ModelError, match=r"the surrogate is a function; this objective needs a torch\.nn\.Module"):
        Attack(objective=read("dispersion").objective)(lambda x: x, X, labels(2))


@pytest.mark.parametrize(
    ("name", "layer"),
    [("zoo:voc/pspnet-mobilenetv3s", "blocks.4"), ("torchvision:lraspp_mobilenet_v3_large?weights=random", "13.block")],
)
def test_real_networks(name: str, layer: str) -> None:
    """Two thirds down is in the encoder, at a sixteenth of the resolution, and no pooled branch."""
    model, x = load_model(name), images(1, (64, 64)).float()
    for which in (0.6, layer):
        features = forward_with(find_layer(model, which, x), model, x, stop=True)[1]
        assert features.shape[-2:] == (4, 4)
    container = "backbone" if name.startswith("torchvision") else "encoder"
    with pytest.raises(ModelError, match="name a layer that returns one map"):
        forward_with(find_layer(model, container, x), model, x, stop=True)

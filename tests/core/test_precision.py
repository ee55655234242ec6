"""Surrogates that multiply in bfloat16, and weights laid out with channels last: faster, and nothing else."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.bench.identity import attack_identity, model_hash
from segtrans.catalogue import attack
from segtrans.errors import ImageSizeError, ModelError, UsageError
from segtrans.features import forward_with
from segtrans.models import SegModel, load_model, wrap
from segtrans.threat import LInf

HALF = "precision='bfloat16'"


class Blocks(nn.Module):
    """Convolutions, among them one whose output features are listened to, and a tenfold last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True))
        self.last = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return 10 * self.last(self.second(self.first(x)))


@pytest.fixture
def model() -> SegModel:
    torch.manual_seed(0)
    return wrap(Blocks(), 5)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(1))


def test_the_gradient_is_that_under_autocast(model: SegModel, images: Tensor) -> None:
    y = model(images).argmax(1)
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(leaf)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(images))
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="none").mean((1, 2)).sum(), leaf)
    expected = (images + LInf().radius * gradient.sign()).clamp(0, 1)
    assert (attack(f"fgsm({HALF})")(model, images, y) - expected).abs().max() < 1e-6
    full = attack("fgsm")(model, images, y)
    assert 0 < (full != attack(f"fgsm({HALF})")(model, images, y)).float().mean() < 0.3


@pytest.mark.parametrize("name", ["mi", "segtrans", "cospgd", "transegpgd", "fspgd", "fia", "naa", "ila", "vmi"])
def test_attacks_work_in_bfloat16(name: str, model: SegModel, images: Tensor) -> None:
    y = model(images).argmax(1)
    crafted = attack(f"{name}({HALF})")
    adversarial = crafted(model, images, y)
    assert adversarial.dtype == images.dtype
    assert (adversarial - images).abs().max() <= 8 / 255 + 1e-6
    assert not torch.equal(adversarial, attack(name)(model, images, y))
    assert F.cross_entropy(model(adversarial), y) > F.cross_entropy(model(images), y)


def test_features_are_compared_in_float32(images: Tensor) -> None:
    """Whatever a layer wraps its map in."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.inner(x)}

    class Outer(Wrapped):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Wrapped()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.inner(x)["out"]

    model = wrap(Outer(), 4)
    for layer in (model.network.inner, model.network.inner.inner):
        with torch.autocast("cpu", torch.bfloat16):
            _, features = forward_with(layer, model, images, stop=False)
        assert features.dtype == torch.float32


def test_a_first_attack_has_the_precision_of_the_whole(model: SegModel, images: Tensor) -> None:
    types: list[torch.dtype] = []
    handle = model.network.last.register_forward_hook(lambda _, __, output: types.append(output.dtype))
    attack(f"ila(iterations=1, {HALF})")(model, images)
    handle.remove()
    # The pass that looks for the layer shows the surrogate as it is.
    assert types.count(torch.float32) <= 1
    assert types.count(torch.bfloat16) >= 10


@pytest.mark.parametrize("kind", [RuntimeError, ImageSizeError], ids=["module", "program"])
def test_a_surrogate_that_insists_on_float32_is_named(kind: type[Exception], images: Tensor) -> None:
    class Insists(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            inner = self.first(x)
            if inner.dtype != torch.float32:
                raise kind("Tensor dtype mismatch! Expected: Float, Got: c10::BFloat16\nmore")
            return self.last(self.second(inner))

    model = wrap(Insists(), 5)
    assert attack("mi")(model, images).shape == images.shape
    with pytest.raises(ModelError, match=r"does not run in bfloat16 \(Tensor dtype mismatch! .*BFloat16\)$"):
        attack(f"mi({HALF})")(model, images)


def test_other_types_of_images_are_left_alone(model: SegModel, images: Tensor) -> None:
    model, images = model.double(), images.double()
    assert torch.equal(attack(f"segtrans({HALF})")(model, images), attack("segtrans")(model, images))


def test_it_is_another_attack() -> None:
    one, other = attack("mi"), attack(f"mi({HALF})")
    assert HALF in repr(other)
    assert attack_identity(one) != attack_identity(other)
    with pytest.raises(UsageError, match="precision is 'half'; allowed are 'float32' and 'bfloat16'"):
        attack("mi(precision='half')")


def test_weights_have_channels_last_and_the_same_values() -> None:
    loaded = load_model("smp:deeplabv3plus/mobilenet_v2?weights=random&classes=4")
    weights = [m.weight for m in loaded.modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not all(weight.is_contiguous() for weight in weights)
    before, x = model_hash(loaded), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        logits = loaded(x)
        for module in loaded.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous()
        assert (loaded(x) - logits).abs().max() < 1e-4 * logits.abs().max()
    # A layout is not what a model computes.
    assert model_hash(loaded) == before


def test_the_callers_own_network_keeps_its_layout() -> None:
    network = Blocks()
    wrap(network, 5)
    assert network.first[0].weight.is_contiguous()

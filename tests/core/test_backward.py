"""Changes of the backward pass, against networks that were written with the change in them."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.attack import Attack
from segtrans.backward import Backward, Ghost, LinearBackward, SkipGradient, SmoothBackward
from segtrans.catalogue import attack as read
from segtrans.catalogue import compose
from segtrans.errors import ModelError, UsageError
from segtrans.objectives import FeatureSimilarity
from segtrans.residuals import residuals
from segtrans.transforms import Scale
from toys import Block, Context, PixelLinear, images, labels, parts_of, run_of

X, Y = images(2, (9, 11)), labels(2, (9, 11))
MODEL = Context()
PARTS = parts_of(Backward)
each_part = pytest.mark.parametrize("part", [cls() for cls in PARTS.values()], ids=PARTS)


def gradient_of(part: Backward, model: nn.Module, x: Tensor = X, weight: Tensor | None = None) -> Tensor:
    """Gradient of a weighted sum of the outputs, while the backward pass is changed."""
    run = run_of(compose(part), x, labels(len(x), x.shape[-2:]), model)
    leaf = x.clone().requires_grad_()
    with part.changed(run):
        out = model(leaf)
        return torch.autograd.grad((out * (noise(out) if weight is None else weight)).sum(), leaf)[0]


def noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(3), dtype=like.dtype)


def gradient_by_hand(forward: Any) -> Tensor:
    leaf = X.clone().requires_grad_()
    out = forward(leaf)
    return torch.autograd.grad((out * noise(out)).sum(), leaf)[0]


def differently(value: Tensor, backward: Tensor) -> Tensor:
    """``value`` with the gradient of ``backward``."""
    return backward + (value - backward).detach()


def context(x: Tensor, *, branch: Any = lambda b: b, skip: Any = lambda s: s, relu: Any = torch.relu) -> Tensor:
    """The toy network, with something done to its residual block."""
    hidden = MODEL.body[:4](2 * x)
    block: Any = MODEL.body[4]
    return MODEL.body[5](relu(branch(block.bn(block.conv(hidden))) + skip(hidden)))


def test_the_toy_is_what_it_is_said_to_be() -> None:
    assert torch.equal(context(X), MODEL(X))
    assert torch.equal(gradient_by_hand(context), gradient_by_hand(MODEL))


@each_part
def test_predictions_stay_the_same_unless_they_are_meant_to_change(part: Backward) -> None:
    run = run_of(compose(part), X, Y, MODEL)
    before = MODEL(X)
    with part.changed(run):
        during = MODEL(X)
    assert torch.equal(during, before), "outside of a gradient Ghost leaves the network alone too"
    assert torch.equal(MODEL(X), before)


@each_part
def test_gradients_change(part: Backward) -> None:
    attack = compose(part)
    plain = run_of(Attack(), X, Y, MODEL).gradient(X)
    run = run_of(attack, X, Y, MODEL)
    with part.changed(run):
        assert not torch.allclose(run.gradient(X), plain)
    assert torch.equal(run_of(Attack(), X, Y, MODEL).gradient(X), plain)


@each_part
def test_evaluations_are_those_of_the_gradients(part: Backward) -> None:
    passes: list[int] = []

    class Counted(Context):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(len(x) * torch.is_grad_enabled())
            return super().forward(x)

    attack = compose(part, Attack(iterations=3))
    assert attack.perturb(Counted(), X, Y).evaluations == attack.evaluations == sum(passes) / len(X) == 3


@each_part
@pytest.mark.parametrize("wrong", ["gradient", "none"])
def test_the_network_is_restored_after_an_error_too(part: Backward, wrong: str) -> None:
    model = Context()
    relu = model.body[4].relu

    def own(x: Tensor) -> Tensor:
        return x.relu()

    relu.forward = own
    before = [{**vars(m), "_forward_hooks": dict(m._forward_hooks)} for m in model.modules()]
    run = run_of(compose(part), X, Y, model)

    def attack() -> None:
        with part.changed(run):
            if wrong == "gradient":
                model(X.clone().requires_grad_()).sum().backward()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attack()
    after = [{**vars(m), "_forward_hooks": dict(m._forward_hooks)} for m in model.modules()]
    assert after == before
    assert relu.forward is own


@pytest.mark.parametrize(
    "neutral",
    [
        "skipgradient(factor=1)",
        "linearbackward(start=1)",
        "smoothbackward(start=1, temperature=None)",
        "ghost(spread=0)",
    ],
)
@pytest.mark.parametrize("base", ["bim", "mi", "segpgd", "fspgd-mi"])
def test_neutral_settings_change_nothing(neutral: str, base: str) -> None:
    assert torch.equal(read(f"{base} + {neutral}")(MODEL, X, Y), read(base)(MODEL, X, Y))


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.5])
def test_skip_gradient_damps_the_branch(factor: float) -> None:
    expected = gradient_by_hand(lambda x: context(x, branch=lambda b: differently(b, factor * b)))
    assert torch.allclose(gradient_of(SkipGradient(factor=factor), MODEL), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("block", ["BasicBlock", "Bottleneck"])
@pytest.mark.parametrize("projected", [False, True])
def test_skip_gradient_on_the_blocks_of_resnet(block: str, projected: bool) -> None:
    """Their addition and their ReLU work in place."""
    torch.manual_seed(0)
    kind = getattr(torchvision.models.resnet, block)
    shortcut = nn.Sequential(nn.Conv2d(3, 4 * kind.expansion, 1), nn.BatchNorm2d(4 * kind.expansion))
    model = kind(3 if projected else 4, 4, downsample=shortcut) if projected else kind(4 * kind.expansion, 4)
    stem = nn.Identity() if projected else nn.Conv2d(3, 4 * kind.expansion, 1)
    model = nn.Sequential(stem, model, nn.Conv2d(4 * kind.expansion, 3, 1)).double().eval()
    (found,) = residuals(model, X[:1])
    assert found.block is model[1]
    assert found.end is (model[1].bn2 if block == "BasicBlock" else model[1].bn3)
    assert found.shortcut is (shortcut if projected else None)

    def by_hand(x: Tensor) -> Tensor:
        x, b = model[0](x), model[1]
        y = b.bn2(b.conv2(b.bn1(b.conv1(x)).relu()))
        y = y if block == "BasicBlock" else b.bn3(b.conv3(y.relu()))
        return model[2]((differently(y, 0.5 * y) + (shortcut(x) if projected else x)).relu())

    assert torch.allclose(
        gradient_of(SkipGradient(factor=0.5), model), gradient_by_hand(by_hand), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "blocks", "shortcuts"),
    [("resnet18", 8, 3), ("mobilenet_v2", 10, 0), ("mobilenet_v3_small", 6, 0), ("mnasnet0_5", 10, 0)],
)
def test_residual_blocks_of_known_networks(name: str, blocks: int, shortcuts: int) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    found = residuals(model, images(1, (64, 64)).float())
    assert len(found) == blocks
    assert sum(residual.shortcut is not None for residual in found) == shortcuts
    assert len({residual.end for residual in found}) == blocks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_linear_backward_ignores_the_activation() -> None:
    expected = gradient_by_hand(lambda x: context(x, relu=lambda z: differently(z.relu(), z)))
    assert torch.allclose(gradient_of(LinearBackward(start=0), MODEL), expected, rtol=1e-12, atol=1e-14)


def test_smooth_backward_has_the_derivative_of_silu() -> None:
    expected = gradient_by_hand(lambda x: context(x, relu=lambda z: differently(z.relu(), F.silu(z))))
    assert torch.allclose(gradient_of(SmoothBackward(start=0), MODEL), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("part", [LinearBackward, SmoothBackward])
@pytest.mark.parametrize(("start", "changed"), [(0, 3), (0.3, 2), (0.5, 1), (0.67, 1), (1, 0)])
def test_the_last_activations_are_changed(part: type, start: float, changed: int) -> None:
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True))]
    model = nn.Sequential(*layers, nn.Conv2d(3, 3, 1)).double()
    with part(start=start).changed(run_of(Attack(), X, Y, model)):
        assert ["forward" in vars(model[i]) for i in (1, 3, 5)] == [False] * (3 - changed) + [True] * changed


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.LeakyReLU])
def test_activations_work_in_place_as_before(kind: type, inplace: bool) -> None:
    """What was in place stays so, for networks that count on it."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), kind(inplace=inplace), nn.Conv2d(3, 3, 1)).double()
    with LinearBackward(start=0).changed(run_of(Attack(), X, Y, model)):
        z = 9 * model[0](X)
        given = z.clone()
        out = model[1](z)
        assert torch.equal(out, kind()(given))
        assert (out is z) == inplace
    expected = gradient_by_hand(lambda x: model[2](model[0](x)))
    assert torch.allclose(gradient_of(LinearBackward(start=0), model), expected, rtol=1e-12, atol=1e-14)


POOLS = [
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2),
    nn.MaxPool2d((2, 3), (3, 1), (1, 0)),
    nn.MaxPool2d(3, 2, ceil_mode=True),
    nn.MaxPool2d(3, 3, 1, ceil_mode=True),
    nn.MaxPool2d(2, 1, dilation=(3, 2)),
    nn.MaxPool2d(2, 3),
]


def soft_pooling_by_hand(pool: nn.MaxPool2d, x: Tensor, gradient: Tensor, temperature: float) -> Tensor:
    """Window by window, value by value."""
    size, step, edge, gap = (
        v if isinstance(v, tuple) else (v, v) for v in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    )
    found = torch.zeros_like(x)
    for b, c, i, j in torch.cartesian_prod(*(torch.arange(n) for n in gradient.shape)).tolist():
        rows = [i * step[0] - edge[0] + k * gap[0] for k in range(size[0])]
        cols = [j * step[1] - edge[1] + k * gap[1] for k in range(size[1])]
        inside = [(r, s) for r in rows for s in cols if 0 <= r < x.shape[2] and 0 <= s < x.shape[3]]
        weights = torch.stack([(temperature * x[b, c, r, s]).exp() for r, s in inside])
        for (r, s), weight in zip(inside, weights / weights.sum(), strict=True):
            found[b, c, r, s] += weight * gradient[b, c, i, j]
    return found


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 10.0])
def test_smooth_backward_shares_out_a_windows_gradient(pool: nn.MaxPool2d, temperature: float) -> None:
    model = nn.Sequential(pool, nn.Upsample(X.shape[-2:]))
    x = X[:1]
    weight = noise(pool(x))
    leaf = x.clone().requires_grad_()
    with SmoothBackward(temperature=temperature).changed(run_of(Attack(), x, Y[:1], model)):
        out = pool(leaf)
        (found,) = torch.autograd.grad((out * weight).sum(), leaf)
    assert torch.equal(out, pool(x))
    assert torch.allclose(found, soft_pooling_by_hand(pool, x, weight, temperature), rtol=1e-10, atol=1e-14)


def test_a_hot_softmax_is_the_maximum() -> None:
    """Values that differ by a grey level at least, times a large number: the largest takes all."""
    order = torch.randperm(99, generator=torch.Generator().manual_seed(0)).double()
    x = (order / 255).view(1, 1, 9, 11).expand(1, 3, 9, 11)
    model = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Upsample((9, 11)))
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    (plain,) = torch.autograd.grad((out * noise(out)).sum(), leaf)
    assert torch.allclose(gradient_of(SmoothBackward(temperature=1e5), model, x), plain, atol=1e-12)


def test_ghost_multiplies_the_skip() -> None:
    run = run_of(compose(Ghost()), X, Y, MODEL)
    with Ghost().changed(run):
        run.shown = run.items(0, 2)
        # The first stream of a run belongs to the first block.
        factor = run.draw(1001, run.shown).uniform(1, 1, 1, low=0.78, high=1.22)
        logits, found = MODEL(X), gradient_by_hand(MODEL)
    assert torch.allclose(logits, context(X, skip=lambda s: factor * s), rtol=1e-12)
    expected = gradient_by_hand(lambda x: context(x, skip=lambda s: factor * s))
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert factor[0] != factor[1]
    assert ((factor - 1).abs() <= 0.22).all()


def test_ghost_multiplies_a_shortcut_with_weights() -> None:
    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model = torchvision.models.resnet.BasicBlock(3, 4, downsample=shortcut)
    model = nn.Sequential(nn.Identity(), model, nn.Conv2d(4, 3, 1)).double().eval()
    run = run_of(compose(Ghost()), X, Y, model)
    with Ghost().changed(run):
        run.shown = run.items(0, 2)
        factor = run.draw(1001, run.shown).uniform(1, 1, 1, low=0.78, high=1.22)
        found = model(X)
    b = model[1]
    expected = model[2]((b.bn2(b.conv2(b.bn1(b.conv1(X)).relu())) + factor * shortcut(X)).relu())
    assert torch.allclose(found, expected, rtol=1e-12)


def test_ghosts_differ_between_iterations_and_copies() -> None:
    seen: list[Tensor] = []

    class Heard(Context):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(torch.full_like(x, 0.5))
            if torch.is_grad_enabled():
                seen.append(out.detach())
            return out + 0 * x[:, :3]

    compose(Ghost(), Scale(copies=2), Attack(iterations=2, step_size=0.0)).perturb(Heard(), X, Y)
    first = [out for batch in seen for out in batch]
    assert len(first) == 8
    for i in range(8):
        for j in range(i):
            assert not torch.equal(first[i], first[j])


def test_the_clean_view_is_seen_by_the_same_ghost() -> None:
    """Then the clean image is as similar to itself as can be."""
    objective = FeatureSimilarity(layer=1.0)
    attack = compose(Ghost(), objective, Attack(iterations=4))
    run = run_of(attack, X, Y, MODEL)
    run.iteration = 4
    with Ghost().changed(run):
        run.gradient(X)
    assert torch.allclose(run.losses, -torch.ones(2, dtype=torch.float64))


class Plain(nn.Module):
    """No residual block, no ReLU, no pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize("model", [Plain(), PixelLinear()], ids=["plain", "linear"])
@each_part
def test_networks_without_what_is_changed_are_refused(part: Backward, model: nn.Module) -> None:
    with pytest.raises(ModelError, match=rf"^the surrogate has no .*{type(part).__name__}") as error:
        compose(part)(model, X, Y)
    assert "\n" not in str(error.value)


@each_part
def test_functions_are_refused(part: Backward) -> None:
    with pytest.raises(ModelError, match=r"needs a torch\.nn\.Module"):
        compose(part)(lambda x: MODEL(x), X, Y)


def test_branches_that_end_in_a_function_are_not_taken_for_something_else() -> None:
    class Functional(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.relu(2 * self.bn(self.conv(x)) + x)

    model = nn.Sequential(Functional(3), nn.Conv2d(3, 3, 1)).double().eval()
    assert residuals(model, X[:1]) == []


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        (SkipGradient, "factor", -0.1),
        (SkipGradient, "factor", 1.1),
        (Ghost, "spread", -0.1),
        (Ghost, "spread", 2),
        (LinearBackward, "start", 1.1),
        (SmoothBackward, "start", -1),
        (SmoothBackward, "temperature", -1.0),
        (SmoothBackward, "temperature", float("inf")),
    ],
)
def test_impossible_settings_are_refused(part: type, setting: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"^{part.__name__} {setting} is {value}; allowed are"):
        part(**{setting: value})


def test_a_layer_is_looked_for_before_anything_else_is_known_of_the_network() -> None:
    """The pass that finds it shows one image, however many are attacked, and hooks are already in place."""
    x, y = images(2), labels(2)
    assert (read("fspgd(iterations=2) + ghost")(Context(), x, y) != x).any()

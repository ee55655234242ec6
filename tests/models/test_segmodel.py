"""SegModel and wrap: what happens around a network."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from model_contract import assert_contract, images
from torch import Tensor, nn

from segtrans.errors import ModelError, UsageError
from segtrans.models import Ensemble, Preprocessing, SegModel, wrap
from segtrans.models.base import extract_logits, is_transformer


class Spy(nn.Module):
    """A network that returns its input, three "logits", and remembers it."""

    def __init__(self, coarse: int = 1) -> None:
        super().__init__()
        self.coarse = coarse
        self.seen = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach()
        return x[:, :, :: self.coarse, :: self.coarse]


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> Any:
        return self.output


def plain(**more: Any) -> dict[str, Any]:
    return {"mean": (0, 0, 0), "std": (1, 1, 1), **more}


def test_three_lines_wrap_any_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 4, 1))
    model = wrap(network, classes=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert_contract(model, 4)
    assert model.name == "Sequential"
    assert model.classes == ("class 0", "class 1", "class 2", "class 3")


def test_class_names_are_kept() -> None:
    assert wrap(Spy(), ["sky", "tree", "road"], name="mine").classes == ("sky", "tree", "road")


def test_a_compiler_takes_it_whole() -> None:
    model = wrap(Spy(coarse=4), 3)
    x = images((16, 24))
    with torch.no_grad():
        assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))


def test_whoever_wants_no_gradient_gets_planes() -> None:
    model = wrap(Spy(coarse=4).to(memory_format=torch.channels_last), 3)
    x = images((16, 24)).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found = model(x)
    assert found.is_contiguous()
    assert not model(x).is_contiguous()
    torch.testing.assert_close(found, model(x))


def test_normalisation_and_channel_order() -> None:
    spy = Spy()
    x = images((4, 5))
    wrap(spy, 3, mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125), bgr=True)(x)
    expected = (x - torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.25, 0.125]).view(
        1, 3, 1, 1
    )
    torch.testing.assert_close(spy.seen, expected.flip(1))


def test_padding_is_the_mean_colour_at_the_bottom_and_right_and_cropped_off_again() -> None:
    spy = Spy()
    x = images((17, 30))
    logits = wrap(spy, 3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), multiple=16, remainder=1)(x)
    assert spy.seen.shape[-2:] == (17, 33)
    assert spy.seen[..., 30:].abs().max() == 0
    torch.testing.assert_close(logits, 2 * x - 1)


def test_sizes_that_fit_are_not_padded() -> None:
    spy = Spy()
    wrap(spy, 3, multiple=16)(images((32, 48)))
    assert spy.seen.shape[-2:] == (32, 48)


def test_long_images_are_shrunk_and_short_ones_left() -> None:
    spy = Spy()
    model = wrap(spy, 3, max_side=20)
    assert model(images((20, 40))).shape[-2:] == (20, 40)
    assert spy.seen.shape[-2:] == (10, 20)
    model(images((10, 20)))
    assert spy.seen.shape[-2:] == (10, 20)


def test_fixed_size() -> None:
    spy = Spy()
    assert wrap(spy, 3, fixed_size=(12, 8))(images((30, 31))).shape[-2:] == (30, 31)
    assert spy.seen.shape[-2:] == (12, 8)


def test_aligned_corners_return_coarse_logits_to_their_pixels() -> None:
    ramp = torch.linspace(0, 1, 33, dtype=torch.float64).expand(1, 3, 33, 33)
    model = wrap(Spy(coarse=16), 3, **plain(multiple=16, remainder=1, align_corners=True))
    torch.testing.assert_close(model(ramp), ramp)


def test_one_sigmoid_logit_is_two_classes() -> None:
    logit = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    logits = wrap(Returns(logit), 2, **plain())(images((8, 8)))
    torch.testing.assert_close(logits.softmax(1)[:, 1:], logit.sigmoid())


@pytest.mark.parametrize(
    "pack",
    [
        lambda t: t,
        lambda t: {"out": t, "aux": t + 1},
        lambda t: {"logits": t, "loss": t + 1},
        lambda t: (t, t + 1),
        lambda t: [t],
        lambda t: ({"out": t},),
        lambda t: SimpleNamespace(logits=t),
    ],
)
def test_outputs_of_all_kinds(pack: Any) -> None:
    expected = torch.randn(2, 4, 3, 3)
    assert extract_logits(pack(expected)) is expected


def test_mask_classification_becomes_log_scores() -> None:
    # Two queries, two classes and "nothing": the first is surely class 1 on the left, the second nothing at all.
    classes = torch.tensor([[[-50.0, 50.0, -50.0], [-50.0, -50.0, 50.0]]])
    masks = torch.tensor([[[[50.0, -50.0]], [[50.0, 50.0]]]])
    logits = extract_logits(SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks))
    assert logits.shape == (1, 2, 1, 2)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0, 1, 0, 0], torch.tensor(0.0))
    assert logits[0, :, 0, 1].max() < -40


@pytest.mark.parametrize("output", [None, {"masks": 1}, (), "text", SimpleNamespace(logits=None)])
def test_outputs_without_logits_are_named(output: Any) -> None:
    with pytest.raises(ModelError, match="the network returned"):
        extract_logits(output)


@pytest.mark.parametrize("output", [torch.zeros(2, 5, 8, 8), torch.zeros(2, 4), torch.zeros(2, 8, 8)])
def test_wrong_number_of_classes_is_named(output: Tensor) -> None:
    with pytest.raises(ModelError, match=r"model 'mine' returned an output of shape .* its 4 classes"):
        wrap(Returns(output), 4, name="mine")(images((8, 8)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 1, 8, 8), (2, 4, 8, 8)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected \(N, 3, height, width\)"):
        wrap(Spy(), 3)(torch.zeros(shape))


def test_label_map_joins_drops_and_leaves_gaps() -> None:
    logits = torch.tensor([[1.0, 5.0, 9.0, 3.0], [8.0, 2.0, 1.0, 4.0]]).view(2, 4, 1, 1)
    model = wrap(Returns(logits), 4, label_map=[0, 3, None, 0])
    assert len(model.classes) == 4
    mapped = model(images((1, 1)))[..., 0, 0]
    assert mapped[:, 0].tolist() == [3.0, 8.0]
    assert mapped[:, 3].tolist() == [5.0, 2.0]
    # Classes 1 and 2 of the data set are unknown to the network: below everything it says, whatever the image.
    assert (mapped[:, 1:3] < logits.amin((1, 2, 3)).view(-1, 1)).all()


def test_the_data_may_have_classes_beyond_the_label_map() -> None:
    network = nn.Conv2d(3, 2, 3, padding=1).double()
    model = wrap(network, 2, label_map=[0, 1], data_classes=4)
    assert_contract(model, 4)
    logits = model(images((9, 7)))
    assert (logits[:, 2:] < logits[:, :2].amin((1, 2, 3)).view(-1, 1, 1, 1)).all()
    torch.testing.assert_close(logits[:, :2], wrap(network, 2)(images((9, 7))), rtol=0, atol=0)
    with pytest.raises(UsageError, match="data_classes is 1; the label map names 2, so that is the least"):
        wrap(network, 2, label_map=[0, 1], data_classes=1)
    with pytest.raises(UsageError, match="data_classes is 4, and the network has 2 classes; give a label map, too"):
        wrap(network, 2, data_classes=4)


@pytest.mark.parametrize(("classes", "names"), [(1, ("class 0", "class 1")), (["flag"], ("background", "flag"))])
def test_one_logit_makes_two_classes(classes: int | list[str], names: tuple[str, ...]) -> None:
    model = wrap(nn.Conv2d(3, 1, 1), classes)
    assert model.classes == names
    assert_contract(model, 2)


def test_label_map_keeps_the_contract() -> None:
    network = nn.Conv2d(3, 6, 3, padding=1)
    assert_contract(wrap(network, 6, label_map=[None, 0, 4, 2, 2, 0]), 5)


def test_label_map_of_a_permutation_is_exact() -> None:
    x = images((9, 7))
    torch.testing.assert_close(wrap(Spy(), 3, **plain(label_map=[2, 0, 1]))(x), x[:, [1, 2, 0]], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ([0, 1], "has 2 entries; it needs one for each of the 3 classes"),
        ([None] * 3, "at least one"),
        ([0, 1, -1], "below 0"),
    ],
)
def test_label_maps_that_cannot_be(label_map: list[int | None], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wrap(Spy(), 3, label_map=label_map)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.5,)},
        {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)},
        {"std": (0.5, 0.0, 0.5)},
        {"multiple": 0},
        {"multiple": 16, "remainder": 16},
        {"max_side": 0},
        {"fixed_size": (0, 8)},
        {"multiple": 2.5},
        {"multiple": 16, "remainder": 0.5},
        {"max_side": 20.0},
        {"classes": 0},
        {"classes": []},
        {"classes": "21"},
        {"classes": 2.0},
        {"classes": 10**12},
    ],
)
def test_arguments_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        wrap(Spy(), **{"classes": 3, **wrong})


def test_keys_under_which_no_logits_are_looked_for_are_named() -> None:
    with pytest.raises(ModelError, match="the network returned dict with 'seg', 'edge'; expected a tensor"):
        extract_logits({"seg": torch.zeros(1), "edge": torch.zeros(1)})


def test_a_number_of_classes_may_be_numpys() -> None:
    assert wrap(Spy(), {0: "a", 1: "b", 2: "c"}.values()).classes == ("a", "b", "c")  # type: ignore[arg-type]
    assert wrap(Spy(), np.int64(3)).classes == ("class 0", "class 1", "class 2")


def test_images_of_whole_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match=r"images are of type torch.uint8; expected floating point in \[0, 1\]"):
        wrap(Spy(), 3)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_models_are_not_wrapped_again() -> None:
    model = wrap(Spy(), 3)
    for twice in (model, Ensemble([model, model])):
        with pytest.raises(UsageError, match="network is a model already, which normalises images itself"):
            wrap(twice, 3)
    assert wrap(model.network, 3)(images((8, 8))).shape == (2, 3, 8, 8)


def test_a_network_that_returns_nan_still_returns_it() -> None:
    """Whether to stop at NaN is for the attack to say, image by image."""
    output = torch.zeros(2, 3, 4, 4)
    output[1] = torch.nan
    logits = SegModel(Returns(output), 3, preprocessing=Preprocessing(), label_map=[0, 1, None])(images((8, 8)))
    assert logits[0].isfinite().all()
    assert logits[1].isnan().all()


@pytest.mark.parametrize(
    ("backbone", "attends"),
    [
        *(
            (name, True)
            for name in ("mit_b0", "mixvisiontransformer", "swin_tiny", "pvt_v2_b2", "vit_small", "deit3_base")
        ),
        *(
            (name, True)
            for name in ("twins_svt_small", "cait_s24", "xcit_nano", "dinov2_small", "eva02_base", "hiera_b")
        ),
        *(
            (name, True)
            for name in ("coatnet_0_rw_224", "caformer_s18", "visformer_tiny", "efficientformer_l1", "edgenext_small")
        ),
        *(
            (name, True)
            for name in ("swiftformer_s", "lowformer_b0", "mobilenetv4_hybrid_medium", "mae", "fastvit_sa12")
        ),
        *((name, True) for name in ("sapiens2-32x4", "tipsv2_vision_model-32x4")),
        *(
            (name, True)
            for name in ("tnt_s_patch16_224", "eva_large", "pit_s_224", "tu-coat_tiny", "jx_nest_base", "volo_d1")
        ),
        *(
            (name, False)
            for name in (
                "resnet50",
                "mobilenet_v2",
                "efficientnet-b0",
                "convnext_tiny",
                "hrnet_w18",
                "",
                "convnext_tiny.dinov3_lvd1689m",
                "repvit_m1",
                "resnest50d",
                "convformer_s18",
                "mobilenetv4_conv_medium",
                "fastvit_t8.apple_in1k",
                "tu-fastvit_s12",
                "convnextv2_tiny.fcmae",
            )
        ),
    ],
)
def test_transformers_are_known_by_their_names(backbone: str, attends: bool) -> None:
    assert is_transformer(backbone) is attends

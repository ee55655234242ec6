"""Segmentors of mmsegmentation, by a toy with the methods and attributes of theirs."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from model_contract import assert_contract, images
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.errors import UsageError
from segtrans.models.mmseg import from_mmseg


class Preprocessor(nn.Module):
    """Of images as mmcv reads them: blue, green, red in 0 … 255."""

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, bgr_to_rgb: bool) -> None:
        super().__init__()
        self.channel_conversion = bgr_to_rgb
        if mean is not None:
            self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), False)
            self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), False)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, [2, 1, 0]] if self.channel_conversion else x
        return (x - self.mean) / self.std if hasattr(self, "mean") else x


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.align_corners = 3, False
        self.conv = nn.Conv2d(4, 3, 1)

    def predict(self, x: Tensor, metas: list[dict[str, Any]]) -> Tensor:
        assert len(metas) == len(x)
        return F.interpolate(self.conv(x), metas[0]["img_shape"], mode="bilinear", align_corners=False)


class ResNet(nn.Module):
    depth = 50

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


class EncoderDecoder(nn.Module):
    def __init__(self, mean: Any = None, std: Any = None, bgr_to_rgb: bool = False) -> None:
        super().__init__()
        self.data_preprocessor = Preprocessor(mean, std, bgr_to_rgb)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.backbone, self.decode_head = ResNet(), Head()
        self.align_corners = self.decode_head.align_corners

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        return self.decode_head.predict(self.backbone(inputs), batch_img_metas)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        raise AssertionError("the modes of forward are for training and for whole samples")


@pytest.mark.parametrize(
    ("mean", "std"), [([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]), ([10.0, 120.0, 200.0], [1.0, 50.0, 90.0])]
)
@pytest.mark.parametrize("bgr_to_rgb", [True, False])
def test_it_sees_what_mmsegmentation_would_show_it(mean: list[float], std: list[float], bgr_to_rgb: bool) -> None:
    toy = EncoderDecoder(mean, std, bgr_to_rgb)
    model = from_mmseg(toy)
    x = images((32, 64)).float()
    read = 255 * x.flip(1)
    expected = toy.encode_decode(toy.data_preprocessor(read), [{"img_shape": (32, 64)}] * 2)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert_contract(model, 3)


def test_a_preprocessor_may_normalise_nothing() -> None:
    toy = EncoderDecoder(bgr_to_rgb=True)
    x = images((32, 32)).float()
    expected = toy.encode_decode(255 * x, [{"img_shape": (32, 32)}] * 2)
    torch.testing.assert_close(from_mmseg(toy)(x), expected, rtol=1e-4, atol=1e-4)


def test_names() -> None:
    toy = EncoderDecoder()
    model = from_mmseg(toy)
    assert (model.name, model.backbone, model.classes[2]) == ("Head-ResNet50", "resnet50", "class 2")
    toy.CLASSES = ("a", "b", "c")
    assert from_mmseg(toy).classes == ("a", "b", "c")
    toy.dataset_meta = {"classes": ("sky", "tree", "road"), "palette": []}
    named = from_mmseg(toy, name="mine", label_map=(0, 0, 1))
    assert (named.name, named.network_classes, len(named.classes)) == ("mine", ("sky", "tree", "road"), 2)
    assert from_mmseg(toy, backbone="mit_b0").backbone == "mit_b0"


def test_other_networks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Conv2d has no encode_decode, .*; use segtrans.models.wrap"):
        from_mmseg(nn.Conv2d(3, 2, 1))


def test_a_head_of_one_logit_keeps_its_threshold() -> None:
    toy = EncoderDecoder()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        toy.decode_head.conv = nn.Conv2d(4, 1, 1)
    toy.decode_head.num_classes, x = 2, images((32, 32)).float()
    logit = toy.encode_decode(255 * x.flip(1), [{"img_shape": (32, 32)}] * 2).detach()
    for threshold in (0.3, 0.5, float(logit.median().sigmoid())):
        toy.decode_head.out_channels = 1
        toy.decode_head.threshold = threshold
        expected = logit[:, 0].sigmoid() > threshold
        found = from_mmseg(toy)(x).argmax(1).bool()
        assert (found == expected).float().mean() > 0.999
    assert 0.3 < expected.float().mean() < 0.7

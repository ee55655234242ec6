"""The zoo's networks: four standard heads on three small ImageNet backbones, from smp and torchvision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCN

from segtrans.errors import MissingError, unknown
from segtrans.models import fcn
from segtrans.models.base import IMAGENET_MEAN, IMAGENET_STD

OUTPUT_STRIDE = fcn.OUTPUT_STRIDE
DECODER_CHANNELS = 128


@dataclass(frozen=True)
class Backbone:
    """An encoder: its smp name, its ImageNet weights' file name, and the normalisation it was trained with."""

    encoder: str
    weights: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


BACKBONES = {
    "mobilenetv3s": Backbone("tu-mobilenetv3_small_100", "mobilenetv3_small_100.safetensors"),
    "efficientnetlite0": Backbone(
        "tu-tf_efficientnet_lite0", "tf_efficientnet_lite0.safetensors", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    ),
    "resnet18": Backbone("resnet18", "resnet18_faceparsing.safetensors"),
}
HEADS = ("pspnet", "deeplabv3", "deeplabv3plus", "fcn")


def build(head: str, backbone: str, classes: int) -> nn.Module:
    """A network with random weights that returns logits at a quarter to a sixteenth of its input's size, as it is
    trained; raises UsageError for unknown names.
    """
    network = _network(head, backbone, classes)
    if head != "fcn":
        # smp would interpolate with aligned corners, which shifts masks against the loss they were trained with.
        network.segmentation_head[1] = nn.Identity()
    return network


def _network(head: str, backbone: str, classes: int) -> Any:
    if backbone not in BACKBONES:
        raise unknown("backbone", backbone, BACKBONES)
    encoder = BACKBONES[backbone].encoder
    common: dict[str, Any] = {"encoder_name": encoder, "encoder_weights": None, "classes": classes}
    stride: Any = OUTPUT_STRIDE
    match head:
        case "pspnet":
            return smp.PSPNet(**common, encoder_depth=5, output_stride=stride, psp_out_channels=2 * DECODER_CHANNELS)
        case "deeplabv3" | "deeplabv3plus":
            make = smp.DeepLabV3 if head == "deeplabv3" else smp.DeepLabV3Plus
            # Rates 6, 12, 18 are the paper's for output stride 16.
            return make(
                **common,
                encoder_output_stride=OUTPUT_STRIDE,
                decoder_channels=DECODER_CHANNELS,
                decoder_atrous_rates=(6, 12, 18),
            )
        case "fcn":
            return fcn.network(encoder, classes)
        case _:
            raise unknown("head", head, HEADS)


def encoder_of(network: Any) -> nn.Module:
    """The pretrained part of a network made by :func:`build`."""
    encoder: nn.Module = network.backbone.encoder if hasattr(network, "backbone") else network.encoder
    return encoder


def coarse_logits(network: Any, x: Tensor) -> Tensor:
    """The network's logits before they are interpolated to input size, which training does not need."""
    if isinstance(network, FCN):
        return network.classifier(network.backbone(x)["out"])
    return network.segmentation_head[0](network.decoder(network.encoder(x)))


def shallow_layers(network: Any) -> list[nn.Module]:
    """Stem and first two stages of the encoder: generic filters, and more than half of the cost of a gradient."""
    encoder: Any = encoder_of(network)
    model = getattr(encoder, "model", encoder)
    if hasattr(model, "blocks"):
        return [model.conv_stem, model.bn1, *model.blocks[:2]]
    return [model.conv1, model.bn1, model.layer1]


def load_backbone(network: nn.Module, backbone: str, folder: Path) -> None:
    """Fill the encoder with ImageNet weights from ``folder``; every weight the encoder has must be there."""
    path = folder / BACKBONES[backbone].weights
    if not path.is_file():
        raise MissingError(f"{path}: no ImageNet weights for backbone {backbone!r}")
    encoder: Any = encoder_of(network)
    target = getattr(encoder, "model", encoder)
    found = {name: value.float() for name, value in load_file(path).items()}
    needed = target.state_dict()
    missing = [name for name in needed if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise MissingError(f"{path}: lacks {len(missing)} weights of {backbone!r}, the first is {missing[0]}")
    target.load_state_dict({name: found.get(name, value) for name, value in needed.items()})

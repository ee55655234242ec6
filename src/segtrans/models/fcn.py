"""Fully convolutional networks (Long et al., CVPR 2015, arXiv 1411.4038): torchvision's head on encoders of smp."""

from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCN, FCNHead

from segtrans.errors import UsageError, first_line
from segtrans.models.base import Preprocessing, SegModel
from segtrans.models.checkpoint import RANDOM, load_weights
from segtrans.models.smp import UNFIT, encoder_settings
from segtrans.paths import at_home

OUTPUT_STRIDE = 16


class _LastFeature(nn.Module):
    """An smp encoder in the form torchvision's segmentation heads expect: a dict with its last feature map."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.encoder(x)[-1]}


def network(encoder: str, classes: int) -> FCN:
    """The head on an encoder with random weights and output stride 16."""
    features = get_encoder(encoder, weights=None, output_stride=OUTPUT_STRIDE)
    return FCN(_LastFeature(features), FCNHead(features.out_channels[-1], classes))


def load(encoder: str, weights: str | None, classes: int | None) -> SegModel:
    """``ENCODER``, by smp's name for it, with the weights of a file or random ones."""
    mean, std, fixed = encoder_settings(encoder)
    if fixed is not None:
        raise UsageError(f"encoder {encoder!r} takes {fixed[0]} × {fixed[1]} only; fcn wants one that takes any size")
    if weights is None or classes is None:
        raise UsageError(f"nobody ships these weights; write fcn:{encoder}?weights=FILE&classes=N, or weights={RANDOM}")
    try:
        built = network(encoder, classes)
    except UNFIT as error:
        raise UsageError(
            f"encoder {encoder!r} cannot be given output stride {OUTPUT_STRIDE} ({first_line(error)})"
        ) from None
    if weights != RANDOM:
        load_weights(built, at_home(weights))
    return SegModel(
        built,
        classes,
        preprocessing=Preprocessing(mean=mean, std=std),
        name=f"fcn/{encoder}",
        backbone=encoder.removeprefix("tu-"),
    )

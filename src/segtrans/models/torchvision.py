"""torchvision's semantic segmentation models."""

import sys
from contextlib import redirect_stdout
from http.client import HTTPException

from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models, segmentation

from segtrans.errors import MissingError, UsageError, unknown
from segtrans.models.base import SegModel
from segtrans.models.checkpoint import RANDOM, fill, load_weights
from segtrans.paths import at_home


def load(name: str, weights: str | None, classes: int | None) -> SegModel:
    """A torchvision model with torchvision's weights for the 21 VOC classes, a file's or random ones."""
    names = list_models(module=segmentation)
    if name not in names:
        raise unknown("torchvision model", name, names)
    trained: WeightsEnum = get_model_weights(name)["DEFAULT"]
    voc = tuple(trained.meta["categories"])
    classes = classes or len(voc)
    if weights is None and classes != len(voc):
        raise UsageError(
            f"torchvision's weights of {name} know {len(voc)} classes, not {classes}; give your own as weights=FILE"
        )
    # Without weights_backbone=None torchvision would fetch an ImageNet backbone only to overwrite it.
    network = get_model(name, weights=None, weights_backbone=None, num_classes=classes, aux_loss=False)
    if weights is None:
        _download(network, name, trained)
    elif weights != RANDOM:
        load_weights(network, at_home(weights))
    return SegModel(
        network,
        voc if classes == len(voc) else classes,
        name=name,
        backbone=name.partition("_")[2],
    )


def _download(network: nn.Module, name: str, trained: WeightsEnum) -> None:
    try:
        # torch.hub announces its downloads on standard output, which belongs to results.
        with redirect_stdout(sys.stderr):
            tensors = trained.get_state_dict(progress=True, check_hash=True, weights_only=True, map_location="cpu")
    except (OSError, HTTPException, RuntimeError) as error:
        raise MissingError(
            f"torchvision's weights of {name} could not be downloaded ({error}); "
            f"offline, use ?weights=FILE with a file you have or ?weights={RANDOM}"
        ) from None
    fill(network, tensors, trained.url)

"""Networks of two layers under names, and where to find a cell of a result."""

from typing import Any

import torch
from torch import Tensor, nn

from segtrans.models import Preprocessing, SegModel

CLASSES = 4


class Poisoned(nn.Module):
    """Returns NaN for images whose top left pixel is white."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        white = (x[:, :, 0, 0] == 1).all(1)
        return self.inner(x).masked_fill(white.view(-1, 1, 1, 1), float("nan"))


def network(seed: int, classes: int = CLASSES) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 3, padding=1))


def toy(name: str, device: str = "cpu") -> SegModel:
    kind, _, seed = name.partition(":")
    inner = network(int(seed), CLASSES + 1 if kind == "wide" else CLASSES)
    if kind == "poisoned":
        inner = Poisoned(inner)
    if kind == "broken":
        nn.init.constant_(inner[0].bias, float("nan"))
    preprocessing = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    classes = CLASSES + 1 if kind == "wide" else CLASSES
    return SegModel(inner, classes, preprocessing=preprocessing, name=name, backbone=kind).to(device)


BARE = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def cell(result: dict[str, Any], **keys: Any) -> dict[str, Any]:
    (found,) = [c for c in result["cells"] if all(c[k] == v for k, v in keys.items())]
    return found

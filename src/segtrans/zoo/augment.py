"""Training augmentation on whole batches, on the device: geometry, colours, and pasting objects across images."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.data.base import VOID


def augment(
    images: Tensor, labels: Tensor, mean: Tensor, *, crop: int, visible: tuple[float, float], paste: float
) -> tuple[Tensor, Tensor]:
    """Randomly zoomed, turned, shifted, flipped and recoloured windows of a batch, (N, 3, crop, crop).

    Args:
        images: (N, 3, H, W) in [0, 1]; labels: (N, H, W).
        mean: (3,) colour that fills what lies outside an image; its labels become void.
        crop: side of the windows in pixels.
        visible: bounds of a window's side as a share of the longer side of the image, drawn log-uniformly.
        paste: probability that an image receives the objects (classes above 0) of its neighbour in the batch.
    """
    images, labels = _warp(images, labels, mean, crop, visible)
    images = _recolour(images)
    if paste > 0:
        images, labels = _paste(images, labels, paste)
    return images, labels


def _warp(
    images: Tensor, labels: Tensor, mean: Tensor, crop: int, visible: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    n, device = len(images), images.device
    height, width = images.shape[-2:]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n, device=device).uniform_(low, high)

    share = uniform(math.log(visible[0]), math.log(visible[1])).exp() * max(height, width)
    across, down = share / width, share / height
    angle = uniform(-10, 10) * math.pi / 180
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()

    def shift(part: Tensor) -> Tensor:
        return uniform(-1, 1) * ((1 - part).abs() + 0.05)

    theta = torch.stack(
        [
            torch.stack([cos * flip * across, -sin * across, shift(across)], 1),
            torch.stack([sin * flip * down, cos * down, shift(down)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [n, 3, crop, crop], align_corners=False)
    fill = mean.view(1, 3, 1, 1)
    warped = F.grid_sample(images - fill, grid, mode="bilinear", align_corners=False) + fill
    # Shifted by one, so that the zeros outside the image are told from class 0.
    ids = F.grid_sample((labels + 1).float()[:, None], grid, mode="nearest", align_corners=False)[:, 0].long()
    return warped, torch.where(ids == 0, VOID, ids - 1)


def _recolour(images: Tensor) -> Tensor:
    shape = (len(images), 1, 1, 1)

    def factor(spread: float) -> Tensor:
        return torch.empty(shape, device=images.device).uniform_(1 - spread, 1 + spread)

    images = images * factor(0.3)
    centre = images.mean((1, 2, 3), keepdim=True)
    images = (images - centre) * factor(0.3) + centre
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * factor(0.3) + grey
    tint = torch.empty(len(images), 3, 1, 1, device=images.device).uniform_(0.92, 1.08)
    return (images * tint).clamp(0, 1)


def _paste(images: Tensor, labels: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Simple copy-paste (Ghiasi et al., CVPR 2021): whole objects of one image cover another."""
    others, their_labels = images.roll(1, 0), labels.roll(1, 0)
    chosen = torch.rand(len(images), 1, 1, device=images.device) < probability
    objects = (their_labels > 0) & (their_labels != VOID) & chosen
    return torch.where(objects[:, None], others, images), torch.where(objects, their_labels, labels)

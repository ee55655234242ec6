"""What an attack maximises: a loss per image, averaged over that image's valid pixels and never over the batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from segtrans.data.base import VOID

if TYPE_CHECKING:
    from segtrans.attack import Run


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """Maximised by an attack."""

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor, run: Run) -> Tensor:
        """Loss per image, (B,), of logits (B, C, H, W) and labels (B, H, W) with 255 = void."""


def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every pixel, (B, H, W); zero where void."""
    return F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none")


def valid_mean(values: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``values`` (B, H, W) over each image's valid pixels, (B,); zero for an image that has none."""
    valid = labels != VOID
    return (values * valid).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Plain pixel cross-entropy (Arnab et al., CVPR 2018)."""

    def __call__(self, logits: Tensor, labels: Tensor, run: Run) -> Tensor:
        return valid_mean(pixel_losses(logits, labels), labels)


@dataclass(frozen=True, kw_only=True)
class SegPGD(Objective):
    """Cross-entropy with weight 1-w on pixels still classified correctly and w on the others, where w grows from 0
    to 1/2 over the iterations: w = (t-1)/(2T) for t = 1 … T (Gu et al., ECCV 2022, arXiv 2207.12391).
    """

    def __call__(self, logits: Tensor, labels: Tensor, run: Run) -> Tensor:
        w = run.iteration / (2 * run.iterations)
        correct = logits.detach().argmax(1) == labels
        return valid_mean(pixel_losses(logits, labels) * correct.to(logits).mul_(1 - 2 * w).add_(w), labels)


@dataclass(frozen=True, kw_only=True)
class CosPGD(Objective):
    """Cross-entropy weighted by the cosine between the softmax and the one-hot label, which is p_y / ‖p‖
    (Agnihotri et al., ICML 2024, arXiv 2302.02213); the weight is not differentiated.
    """

    def __call__(self, logits: Tensor, labels: Tensor, run: Run) -> Tensor:
        # Any multiple of the softmax has the same cosine. Its denominator is left out, since torch's softmax depends, in
        # the last bit, on how it shares a batch among threads.
        p = (logits.detach() - logits.detach().amax(1, keepdim=True)).exp()
        index = labels.where(labels != VOID, 0)[:, None]
        weight = p.gather(1, index)[:, 0] / torch.linalg.vector_norm(p, dim=1)
        return valid_mean(pixel_losses(logits, labels) * weight, labels)

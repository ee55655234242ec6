"""Objectives on the logits: cross-entropy and its relatives, pixels weighted by how far the attack has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segtrans.data.base import VOID
from segtrans.objectives.base import Objective, pixel_losses, valid_mean

if TYPE_CHECKING:
    from segtrans.run import Run, View


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Plain pixel cross-entropy (Arnab et al., CVPR 2018)."""

    def __call__(self, view: View, run: Run) -> Tensor:
        return valid_mean(pixel_losses(view.logits, view.labels), view.labels)


@dataclass(frozen=True, kw_only=True)
class SegPGD(Objective):
    """Cross-entropy with weight 1-w on pixels still classified correctly and w on the others, where w grows from 0
    to 1/2 over the iterations: w = (t-1)/(2T) for t = 1 … T (Gu et al., ECCV 2022, arXiv 2207.12391).
    """

    def __call__(self, view: View, run: Run) -> Tensor:
        w = run.iteration / (2 * run.iterations)
        # Where the attack is not done yet: pixels still right, or, with a target, still elsewhere.
        todo = (view.logits.detach().argmax(1) == view.labels) != run.targeted
        losses = pixel_losses(view.logits, view.labels)
        return valid_mean(losses * todo.to(losses).mul_(1 - 2 * w).add_(w), view.labels)


@dataclass(frozen=True, kw_only=True)
class CosPGD(Objective):
    """Cross-entropy weighted by the cosine between the softmax and the one-hot label, which is p_y / ‖p‖
    (Agnihotri et al., ICML 2024, arXiv 2302.02213); the weight is not differentiated.
    Towards a target the weight is one minus that.
    """

    def __call__(self, view: View, run: Run) -> Tensor:
        logits, labels = view.logits.detach(), view.labels
        # Any multiple of the softmax has the same cosine. The denominator is left out, since torch's softmax depends,
        # in the last bit, on how it shares a batch among threads.
        p = (logits - logits.amax(1, keepdim=True)).exp()
        index = labels.where(labels != VOID, 0)[:, None]
        weight = p.gather(1, index)[:, 0] / torch.linalg.vector_norm(p, dim=1)
        weight = 1 - weight if run.targeted else weight
        return valid_mean(pixel_losses(view.logits, labels) * weight, labels)

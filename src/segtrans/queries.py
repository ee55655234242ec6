"""An ensemble whose weights are found by asking the victim: transfer with a few queries."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from segtrans.attack import Attack, Model, Result
from segtrans.data.base import VOID
from segtrans.errors import ModelError, UsageError, check_number, check_whole
from segtrans.logits import finite_images, predicted_classes
from segtrans.run import Run

Victim = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) in [0, 1] to class ids (N, H, W) or logits (N, C, H, W), of which the largest counts."""


@dataclass(frozen=True)
class Queried:
    """What a search found.

    Attributes:
        adversarial: (N, 3, H, W) on the 8-bit grid, what the victim was shown; inside box and budget, the latter around
            images that are on the grid themselves.
        success: (N,) what the victim made of them: the share of the attacked pixels that it does not give the label or,
            where the attack is targeted, that it does; 0 for an image without valid pixels.
        queries: (N,) int64, how often the victim saw a version of the image.
        weights: (N, M) of the ensemble's members.
    """

    adversarial: Tensor
    success: Tensor
    queries: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class QueriedWeights:
    """Searches, image by image, for the weights of an ensemble's members with which an attack fools one victim (EBAD,
    Cai et al., CVPR 2023, arXiv 2303.14304).

    The first query shows what equal weights, 1/M, make of the image. Then one weight after the other, in turn, is
    raised and lowered by a step; for either the attack goes on from the best image so far, the victim is asked, and the
    better of the two is kept if it beats that image. The step is halved when the search comes back to the weight that
    was the last to help, and no weight falls below a hundredth of 1/M. A search ends early where every valid pixel is
    fooled, and where there is one member or no valid pixel.

    As in the authors' code the victim is asked for masks alone, never for a gradient, and the paper's balance of the
    losses' magnitudes is left out. That code scores untargeted attacks by mIoU, ours by pixels; it counts two queries
    at a time and so can exceed its budget by one, which ours never does.

    Attributes:
        attack: made anew for every query, on the weighted mean of the members' objectives.
        queries: at most this many per image, the first included; 1 searches nothing.
        step: by which a weight is first changed, as a share of 1/M.
    """

    attack: Attack = field(default_factory=lambda: Attack(iterations=5, step_size="eps/2.5"))
    queries: int = 20
    step: float = 0.05

    def __post_init__(self) -> None:
        check_whole("queries", self.queries, 1)
        check_number("step", self.step, 0)
        if not isinstance(cast(Any, self.attack), Attack):
            kind = type(self.attack).__name__
            raise UsageError(f"attack is a {kind}; allowed are attacks of one gradient, such as attack('mi')")
        if self.attack.shared:
            raise UsageError("the images share a perturbation in this attack; weights are searched image by image")

    def __call__(
        self, ensemble: Model, victim: Victim, x: Tensor, y: Tensor | None = None, *, seed: int = 0
    ) -> Queried:
        """Attack a batch; gradient evaluations per image are those of the attack times ``queries``.

        Args:
            ensemble: the surrogate, whose members are weighted.
            victim: asked under inference mode.
            x: images (N, 3, H, W), floating point in [0, 1].
            y: int64 labels (N, H, W) with 255 = void; None takes the ensemble's own clean prediction.
            seed: as for an attack; all queries share their random numbers.

        Raises:
            UsageError, ModelError, NonFiniteError: as an attack does; ModelError too where the victim returns neither
                masks nor logits at the size of the images.
        """
        run = Run(self.attack, ensemble, x, y)
        count, targeted, labels = len(run.members), run.targeted, run.y

        def tried(here: Tensor, weights: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            """Weights, the images they lead to, and how well these do."""
            clean, given = x[here], None if y is None else y[here]
            result = self.attack.perturb(ensemble, clean, given, weights=weights, start=start, seed=seed)
            flags = (torch.zeros_like(valid).index_put((here,), flag) for flag in (result.stalled, result.failed))
            found = Result(result.adversarial, *flags, evaluations=result.evaluations).checked()
            found = self.attack.threat.quantise(found, run.x[here])
            return weights, found, _success(victim, found, labels[here], targeted)

        every, valid = torch.arange(len(x), device=x.device), (labels != VOID).flatten(1).any(1)
        weights, best, success = tried(every, x.new_full((len(x), count), 1 / count), None)
        queries, last = torch.ones_like(every), torch.zeros_like(every)
        step = torch.full_like(success, self.step / count)
        spent, turn = 1, 0
        while spent < self.queries and count > 1 and len(here := (valid & (success < 1)).nonzero().flatten()):
            move = torch.zeros_like(weights[here])
            move[:, turn] = step[here]
            signs = (1, -1)[: self.queries - spent]
            candidates = [
                tried(here, (weights[here] + sign * move).clamp_min(0.01 / count), best[here]) for sign in signs
            ]
            for weight, image, gain in candidates:
                better = gain > success[here]
                there = here[better]
                weights[there], best[there], success[there] = weight[better], image[better], gain[better]
                last[there] = turn
            spent += len(signs)
            queries[here] += len(signs)
            turn = (turn + 1) % count
            # The first rounds are left alone, as in the authors' code.
            step = torch.where((last == turn) & (spent > 5), step / 2, step)
        return Queried(best, success, queries, weights)


def _success(victim: Victim, images: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    with torch.inference_mode():
        output = victim(images.clone())  # it may work in place
        logits = output.ndim == 4 and output.is_floating_point()
        masks = predicted_classes(output) if logits else output
        if masks.shape != labels.shape:
            raise ModelError(
                f"the victim returned {tuple(output.shape)} for images {tuple(images.shape)}; "
                "expected masks (N, H, W) or logits (N, C, H, W) at their size"
            )
        fooled = ((masks == labels) == targeted) & (labels != VOID)
        share = fooled.sum((1, 2)) / (labels != VOID).sum((1, 2)).clamp_min(1)
        # Who fails is not fooled.
        share = share.where(finite_images(output), 0) if logits else share
    return share.to(images.dtype).clone()

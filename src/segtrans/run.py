"""One call of an attack: what its parts may look at, and the gradient that they build on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from segtrans.data.base import VOID
from segtrans.errors import ModelError, UsageError
from segtrans.features import find_layer, forward_with
from segtrans.objectives.pixels import unfinished
from segtrans.random import Draw, derive, image_keys

if TYPE_CHECKING:
    from segtrans.attack import Attack, Model

_GRADIENT_PARTS = 1000  # the first number of the random streams of gradient transformations


def _nothing() -> Tensor:
    return torch.empty(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What the surrogate made of B transformed images.

    Attributes:
        labels: (B, h, w) int64, 255 = void, moved along with the pixels.
        logits: (B, C, h, w); empty where the objective uses features alone.
        features: what the objective's layer returned, (B, …); empty where it names none.
        places: (B,) which image of the attacked batch each item shows.
        reference: the same view of the clean images, for objectives that ask for it.
    """

    labels: Tensor
    logits: Tensor = field(default_factory=_nothing)
    features: Tensor = field(default_factory=_nothing)
    places: Tensor = field(default_factory=_nothing)
    reference: "View | None" = None

    @property
    def clean(self) -> "View":
        """The same view of the clean images, without a gradient."""
        assert self.reference is not None, "an objective that looks at the clean view sets uses_clean"
        return self.reference


class Run:
    """One call of an attack.

    Attributes:
        x, y: clean images, and the labels that are attacked or, where ``targeted``, aimed at.
        allowed: pixels that may change, boolean and broadcastable to ``x``.
        iteration, iterations, alpha: where the loop stands, and the step size.
        losses: (N,) what the objective was at the last gradient.
        norm_weight: (N,) how much the perturbation's norm weighs against the objective, for steps that keep it small;
            one pixel's share of a mean over pixels, unless the objective says otherwise.
        shown: while the surrogate runs, which image each item of its batch shows and which copy of it, (B,) each;
            None outside a gradient.
        evaluations: gradient evaluations spent per image so far.
    """

    def __init__(
        self,
        attack: "Attack",
        model: "Model",
        x: Tensor,
        y: Tensor | None,
        *,
        region: Tensor | None = None,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        _check_images(x)
        self.attack, self.model, self.threat = attack, model, attack.threat
        self.x = x.detach()
        self.iteration, self.iterations, self.alpha = 0, attack.iterations, attack.alpha
        self.targeted = attack.goal.targeted
        self.evaluations = 0
        self.shown: tuple[Tensor, Tensor] | None = None
        self.chunk = max(1, len(x) if chunk is None else chunk)
        self._keys = derive(image_keys(x), seed)
        # On the CPU, so that asking for a number that all images share does not wait for a GPU.
        self._seed = derive(torch.zeros(1, dtype=torch.int64), seed)
        self._gradients_this_iteration = (-1, 0)
        self._gradient_parts = _GRADIENT_PARTS
        self._finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self._alive = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.losses = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        if y is not None:
            _check_labels(y, x)
        self.y = attack.goal.labels(self, y)
        area = attack.area.mask(self.x, self.y)
        self.allowed = area & _region(region, x)
        if attack.area.hidden:
            self.y = self.y.where(~area[:, 0], VOID)
        self._pixels = torch.zeros(len(x), 2, dtype=torch.int64, device=x.device)
        self.norm_weight = 1 / (self.y != VOID).sum((1, 2)).clamp_min(1).to(x.dtype)
        self._loss = attack.objective.bind(self)

    @property
    def remaining(self) -> Tensor:
        """(N,) the share of valid pixels where the attack was not done yet at the last gradient: still right or, with
        a target, still elsewhere. Counted for steps that ask for it.
        """
        left, valid = self._pixels.unbind(1)
        return left / valid.clamp_min(1)

    @cached_property
    def clean_logits(self) -> Tensor:
        """The surrogate's logits of the clean images, (N, C, H, W)."""
        with torch.no_grad():
            parts = [(part, self.model(part)) for part in self.x.split(self.chunk)]
        for part, logits in parts:
            _check_logits(logits, part)
        return torch.cat([logits for _, logits in parts])

    @property
    def members(self) -> Sequence["Model"]:
        """The models of an ensemble, or the surrogate alone."""
        return getattr(self.model, "members", None) or (self.model,)

    @property
    def network(self) -> nn.Module:
        """The surrogate as a module, for parts that reach inside; ModelError if it is a mere function."""
        if not isinstance(self.model, nn.Module):
            raise ModelError(f"the surrogate is a {type(self.model).__name__}; this attack needs a torch.nn.Module")
        return self.model

    def stream(self) -> int:
        """The number of a random stream of its own, for a gradient transformation to pass to :meth:`draw`."""
        self._gradient_parts += 1
        return self._gradient_parts

    def draw(self, part: int, copy: Tensor | None = None, places: Tensor | None = None) -> Draw:
        """The random numbers of part number ``part`` at this iteration, for each image or for the ones at ``places``;
        ``copy``, of the same length, tells copies of an image apart.
        """
        keys = self._keys if places is None else self._keys[places]
        copy = torch.zeros(len(keys), dtype=torch.int64, device=keys.device) if copy is None else copy
        shared = self._seed
        for address in (part, self.iteration, self._gradients_this_iteration[1]):
            keys, shared = derive(keys, address), derive(shared, address)
        return Draw(derive(keys, copy), copy, shared, self.x.dtype)

    def gradient(self, z: Tensor, member: int | None = None) -> Tensor:
        """Gradient of the objective at images ``z`` (N, 3, H, W), averaged over all transformed copies.

        ``member`` asks one model of an ensemble instead of the whole.
        """
        last, count = self._gradients_this_iteration
        self._gradients_this_iteration = (self.iteration, count + 1 if last == self.iteration else 1)
        n, copies = len(z), self.attack.copies
        total, losses = torch.zeros_like(z), torch.zeros_like(self.losses)
        self._pixels = torch.zeros_like(self._pixels)
        for first in range(0, copies * n, self.chunk):
            last = min(first + self.chunk, copies * n)
            item = torch.arange(first, last, device=z.device)
            places = item % n
            with torch.enable_grad():
                leaf = z.detach()[places].requires_grad_()
                loss = self._losses(leaf, places, item // n, member)
                gradient = _input_gradient(loss, leaf)
            # Copy by copy, so that the sums do not depend on how copies were grouped.
            for here, there in _copy_by_copy(first, last, n):
                total[there] += gradient[here]
                losses[there] += loss.detach()[here]
        # NaN logits under void leave the loss finite, but not the gradient.
        self._finite &= losses.isfinite() & total.isfinite().flatten(1).all(1)
        self._alive |= (total != 0).flatten(1).any(1)
        self.evaluations += copies
        self.losses = losses / copies
        return total / copies

    def _losses(self, z: Tensor, places: Tensor, copy: Tensor, member: int | None) -> Tensor:
        """The objective, (B,), of the given copies of the images at ``places``."""
        if member is not None:
            models: Sequence[Model] = (self.members[member],)
        else:
            # A layer belongs to one network, so objectives on features see an ensemble's members one by one.
            apart = getattr(self.model, "apart", False) or self.attack.objective.layer is not None
            models = self.members if apart else (self.model,)
        self.shown = places, copy
        views = [self._view(model, z, places, copy) for model in models]
        losses = [self._loss(view) for view in views]
        self.shown = None
        if self.attack.step.uses_remaining:
            for view in views:
                valid = view.labels != VOID
                counts = torch.stack([unfinished(view, self) & valid, valid], 1).flatten(2).sum(2)
                self._pixels.index_add_(0, places, counts)
        total = losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)
        return -total if self.targeted else total

    def _view(self, model: "Model", z: Tensor, places: Tensor, copy: Tensor) -> View:
        objective = self.attack.objective
        images, labels = self._transformed(z, places, copy)
        logits, features = self._forward(model, images)
        if objective.uses_logits and self.evaluations == 0:
            self.check(logits, images)
        reference = None
        if objective.uses_clean:
            with torch.no_grad():
                before, _ = self._transformed(self.x[places], places, copy)
                reference = View(
                    **dict(zip(("logits", "features"), self._forward(model, before), strict=True)),
                    labels=labels,
                    places=places,
                )
        return View(labels=labels, logits=logits, features=features, places=places, reference=reference)

    def _transformed(self, z: Tensor, places: Tensor, copy: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels as the surrogate sees them; the same random numbers whenever asked within a gradient."""
        labels, remaining = self.y[places], copy
        for number, transform in enumerate(self.attack.transforms, start=1):
            draw = self.draw(number, copy, places)
            # Several multiplying transformations share out the copy number like digits.
            draw.copy, remaining = remaining % transform.copies, remaining // transform.copies
            z, labels = transform(z, labels, draw)
        return z, labels

    def _forward(self, model: "Model", images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and, where the objective names a layer, that layer's output."""
        objective = self.attack.objective
        if objective.layer is None:
            return model(images), _nothing()
        if not isinstance(model, nn.Module):
            raise ModelError(f"the surrogate is a {type(model).__name__}; this objective needs a torch.nn.Module")
        layer = find_layer(model, objective.layer, self.x[:1])
        return forward_with(layer, model, images, stop=not objective.uses_logits)

    def check(self, logits: Tensor, images: Tensor) -> None:
        """ModelError unless ``logits`` are some of ``images`` at their size, UsageError for labels they do not know."""
        _check_logits(logits, images)
        _check_classes(self.y, logits.shape[1])

    def outcome(self, adversarial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adversarial images, with those the model failed on put back as they were; which stalled; which failed."""
        finite = self._finite & adversarial.isfinite().flatten(1).all(1)
        stalled = ~self._alive & finite & (self.iterations > 0)
        return adversarial.where(finite.view(-1, 1, 1, 1), self.x).detach(), stalled, ~finite


def _copy_by_copy(first: int, last: int, n: int) -> Iterator[tuple[slice, slice]]:
    """Items ``first`` … ``last``-1 of all copies of n images: for each copy its items' place in the chunk and the
    places of their images.
    """
    for copy in range(first // n, (last - 1) // n + 1):
        start, stop = max(first, copy * n), min(last, (copy + 1) * n)
        yield slice(start - first, stop - first), slice(start - copy * n, stop - copy * n)


def _input_gradient(losses: Tensor, leaf: Tensor) -> Tensor:
    if losses.requires_grad:
        gradient = cast(Tensor | None, torch.autograd.grad(losses.sum(), leaf, allow_unused=True)[0])
        if gradient is not None:
            return gradient
    raise ModelError("the model's output does not depend on its input differentiably, so it cannot be a surrogate")


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or x.numel() == 0:
        raise UsageError(f"images are {x.dtype} {tuple(x.shape)}; expected floating point (N, 3, H, W) in [0, 1]")
    low, high = x.aminmax()
    if not (low >= 0 and high <= 1):
        raise UsageError(f"images range from {float(low):g} to {float(high):g}; expected values in [0, 1]")


def _check_labels(y: Tensor, x: Tensor) -> None:
    expected = (len(x), *x.shape[-2:])
    if y.dtype != torch.int64 or tuple(y.shape) != expected:
        raise UsageError(f"labels are {y.dtype} {tuple(y.shape)}; expected torch.int64 {expected}")


def _check_classes(y: Tensor, classes: int) -> None:
    wrong = (y != VOID) & ((y < 0) | (y >= classes))
    if wrong.any():
        raise UsageError(
            f"labels contain {int(y[wrong][0])}; the surrogate has {classes} classes, "
            f"so allowed are 0 to {classes - 1} and {VOID} (void)"
        )


def _check_logits(logits: Any, z: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[-2:] != z.shape[-2:]:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the model returned {shape} for images {tuple(z.shape)}; expected logits (N, C, H, W) at input size, "
            "which segtrans.models.SegModel makes of any network"
        )


def _region(region: Tensor | None, x: Tensor) -> Tensor:
    """The pixels that may change, broadcastable to ``x``."""
    if region is None:
        return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=x.device)
    sizes = (x.shape[-2:], (1, *x.shape[-2:]), (len(x), *x.shape[-2:]))
    if region.dtype != torch.bool or tuple(region.shape) not in map(tuple, sizes):
        raise UsageError(
            f"region is {region.dtype} {tuple(region.shape)}; "
            f"expected torch.bool (H, W) or (N, H, W) for images {tuple(x.shape)}"
        )
    return region.view(-1, 1, *region.shape[-2:])

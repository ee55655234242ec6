"""One call of an attack: what its parts may look at, and the gradient that they build on."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from segtrans.data.base import VOID
from segtrans.devices import CPU, sent
from segtrans.errors import ModelError, UsageError, check_whole, first_line
from segtrans.features import find_layer, forward_with
from segtrans.inputs import (
    allowed_region,
    check_classes,
    check_images,
    check_labels,
    check_logits,
    check_seed,
    checked_weights,
    label_range,
)
from segtrans.items import Items
from segtrans.models.ensemble import members_of
from segtrans.objectives.pixels import unfinished
from segtrans.random import Draw, derive, image_keys

if TYPE_CHECKING:
    from segtrans.attack import Attack, Model
    from segtrans.transforms import Transform

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
        reference: for objectives that ask for it, and without a gradient: the same view of the clean images, or the
            view of the same images' other copies.
    """

    labels: Tensor
    logits: Tensor = field(default_factory=_nothing)
    features: Tensor = field(default_factory=_nothing)
    places: Tensor = field(default_factory=_nothing)
    reference: "View | None" = None

    @property
    def clean(self) -> "View":
        """The same view of the clean images, without a gradient; it may last, and is not written to."""
        assert self.reference is not None, "an objective that looks at the clean view sets uses_clean"
        return self.reference

    @property
    def other(self) -> "View":
        """The view of the other copies, half of the copies further on, without a gradient."""
        assert self.reference is not None, "an objective that looks at other copies sets uses_other"
        return self.reference


class Run:
    """One call of an attack.

    Attributes:
        x, y: clean images, and the labels that are attacked or, where ``targeted``, aimed at.
        allowed: pixels that may change, boolean and broadcastable to ``x``.
        reach: by how much the budget lets every value change at once, each by the same.
        iteration, iterations, alpha: where the loop stands, and the step size.
        weights: (N, M) how much the objective of each of the M members of an ensemble counts; None leaves that to the
            ensemble.
        losses: (N,) what the objective was at the last gradient.
        tracked: (N,) how far the attack had come by then, the larger the further: the same, or for steps that ask for
            it what the objective is tracked by.
        norm_weight: (N,) how much the perturbation's norm weighs against the objective, for steps that keep it small;
            one pixel's share of a mean over pixels, unless the objective says otherwise.
        shown: while the surrogate runs, what its batch consists of; None outside a gradient.
        evaluations: gradient evaluations spent per image so far, each one forward and backward pass of one network.
    """

    def __init__(
        self,
        attack: "Attack",
        model: "Model",
        x: Tensor,
        y: Tensor | None,
        *,
        region: Tensor | None = None,
        weights: Tensor | None = None,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        check_images(x)
        if attack.iterations and torch.is_inference_mode_enabled():
            raise UsageError("inference mode is on, in which there are no gradients; attack outside it")
        attack.objective.check(attack)
        self.attack, self.model, self.threat = attack, model, attack.threat
        # A copy, since a surrogate that works in place would reach the caller's images.
        self.x = x.detach().clone()
        self.reach = attack.threat.reach(x)
        self.iteration, self.iterations, self.alpha = 0, attack.iterations, attack.alpha
        self.targeted = attack.goal.targeted
        self.weights = None if weights is None else checked_weights(weights, (len(x), len(self.members))).to(x)
        if weights is not None and any(part.apart for part in attack.gradients):
            raise UsageError("weights are given for an attack that weighs the members of an ensemble itself")
        self.evaluations = 0
        self.shown: Items | None = None
        self.chunk = len(x) if chunk is None else chunk
        check_whole("chunk", self.chunk, 1)
        self._seed = check_seed(seed)
        self._shared_key = derive(torch.zeros(1, dtype=torch.int64, device=CPU), self._seed)
        self._gradients_this_iteration = (-1, 0)
        self._gradient_parts = _GRADIENT_PARTS
        self._finite = torch.ones(len(x), dtype=torch.bool, device=x.device)
        self._alive = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        # Of what an objective finds: itself and, for steps that ask for it, what it is tracked by.
        self._columns = 2 if attack.step.uses_tracked else 1
        self.losses = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        self.tracked = self.losses
        if y is not None:
            check_labels(y, x)
        self.y = attack.goal.labels(self, y)
        area = attack.area.mask(self.x, self.y)
        self.allowed = area & allowed_region(region, x)
        self._everywhere = bool(self.allowed.all())
        if attack.area.hidden:
            self.y = self.y.where(~area[:, 0], VOID)
        # Read before anything is asked of the surrogate, for which reading it would wait on a GPU.
        self._label_range = label_range(self.y)
        self._transforms = attack.transforms
        self._adjustments: dict[int, Tensor] = {}
        self._clean: dict[int, View] = {}  # of each network, where it lasts
        self._first = 0  # of the items in hand, over all copies of all images
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
    def _keys(self) -> Tensor:
        # When they are first asked for: attacks that draw nothing need not wait for the images' contents.
        return derive(image_keys(self.x), self._seed)

    def of_clean(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``reduce`` makes of the surrogate's logits (n, C, H, W) of the clean images, all of them in order."""
        found: list[Tensor] = []
        for part in self.x.split(self.chunk):
            with torch.no_grad():
                logits = self.logits(self.model, part.clone())  # it may work in place
            check_logits(logits, part)
            found.append(reduce(logits))
        return torch.cat(found)

    def logits(self, model: "Model", images: Tensor) -> Tensor:
        """What the surrogate, or a member of it, returns for images (B, 3, H, W), in the attack's precision."""
        half = self.attack.precision == "bfloat16" and images.dtype == torch.float32
        try:
            with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
                found = model(images)
        except (RuntimeError, ModelError) as error:
            # A program that was exported in float32 insists on it.
            if half and "bfloat16" in str(error).lower():
                raise ModelError(f"the surrogate does not run in bfloat16 ({first_line(error)})") from error
            raise
        return found.to(images.dtype) if half and isinstance(cast(Any, found), Tensor) else found

    @cached_property
    def members(self) -> Sequence["Model"]:
        """The models of an ensemble, or the surrogate alone."""
        return members_of(self.model)

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

    def draw(self, part: int, items: Items | None = None, copy: Tensor | None = None) -> Draw:
        """The random numbers of part number ``part`` at this iteration, for each image or for ``items``. ``copy``, (B,)
        on the CPU, is what the part is told of which copies these are, by default what the items say.

        Raises:
            UsageError: none of the attack's parts says that it draws.
        """
        if not self.attack.draws:
            raise UsageError("a part asks for random numbers, and none of the attack's says that it does in its draws")
        items = self.items(0, len(self.x)) if items is None else items
        copy = items.copy if copy is None else copy
        keys, shared = self._keys[items.places], self._shared_key
        for address in (part, self.iteration, self._gradients_this_iteration[1]):
            keys, shared = derive(keys, address), derive(shared, address)
        return Draw(derive(keys, items.copy), copy, shared, self.x.dtype, self.reach, items.device)

    def items(self, first: int, last: int) -> Items:
        """Those from ``first`` to before ``last`` of all copies of all images, copy by copy."""
        item = torch.arange(first, last, device=CPU)
        return Items(item % len(self.x), item // len(self.x), self.x.device)

    def confined(self, values: Tensor, otherwise: Tensor | float) -> Tensor:
        """``values`` (N, 3, H, W) where pixels may change, and elsewhere the other ones."""
        return values if self._everywhere else values.where(self.allowed, otherwise)

    @contextmanager
    def untransformed(self) -> Generator[None]:
        """A context in which gradients are those of images as they are, without the attack's transformations."""
        kept, self._transforms = self._transforms, ()
        try:
            yield
        finally:
            self._transforms = kept

    def ask(self, gradient: Callable[[Tensor], Tensor], z: Tensor, member: int | Tensor) -> Tensor:
        """``gradient`` at images ``z`` as if one member of the ensemble were all of it: its number, from 0, or one
        number per image, (N,) int64. A surrogate that is no ensemble is its own only member.
        """
        if len(self.members) == 1:
            return gradient(z)
        before = self.weights
        self.weights = torch.zeros(len(z), len(self.members), dtype=z.dtype, device=z.device)
        self.weights[torch.arange(len(z), device=z.device), member] = 1
        try:
            return gradient(z)
        finally:
            self.weights = before

    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of the objective at images ``z`` (N, 3, H, W), averaged over all transformed copies."""
        last, count = self._gradients_this_iteration
        self._gradients_this_iteration = (self.iteration, count + 1 if last == self.iteration else 1)
        self._pixels = torch.zeros_like(self._pixels)
        found, total = self._swept(z, differentiate=True)
        self.losses, self.tracked = found[:, 0], found[:, -1]
        # NaN logits under void leave the loss finite, but not the gradient. Its largest value tells in one pass.
        largest = total.abs().flatten(1).amax(1)
        self._finite &= largest.isfinite()
        self._alive |= largest != 0
        asked = len(self.members) if self.weights is None else int((self.weights != 0).sum(1).max())
        self.evaluations += self._copies * passes(self._transforms) * asked
        return total if self._copies == 1 else total / self._copies

    def value(self, z: Tensor) -> Tensor:
        """The objective, (N,), at images ``z`` (N, 3, H, W) without its gradient: one forward pass, with the random
        numbers of the last gradient.
        """
        with self._uncounted():
            return self._swept(z, differentiate=False)[0][:, 0]

    @contextmanager
    def _uncounted(self) -> Generator[None]:
        """A context in which what remains stays as the last gradient found it."""
        counted = self._pixels.clone()
        yield
        self._pixels = counted

    @property
    def _copies(self) -> int:
        return math.prod(t.copies for t in self._transforms)

    def _swept(self, z: Tensor, *, differentiate: bool) -> tuple[Tensor, Tensor]:
        """What :meth:`_losses` finds (N, columns) at images ``z``, a mean over copies, and the sum of the objective's
        gradients or nothing.
        """
        n, copies = len(z), self._copies
        losses = z.new_zeros(n, self._columns)
        whole = copies == 1 and n <= self.chunk
        total = torch.zeros_like(z) if differentiate and not whole else _nothing()
        for first in range(0, copies * n, self.chunk):
            last = min(first + self.chunk, copies * n)
            items = self.items(first, last)
            self._adjustments, self._first = {}, first
            with torch.set_grad_enabled(differentiate):
                leaf = z.detach() if whole and differentiate else z.detach()[items.index]
                leaf.requires_grad_(differentiate)
                if differentiate and passes(self._transforms) > 1:
                    self._adjust(leaf, items)
                loss = self._losses(leaf, items)
                gradient = _gradients(loss[:, 0], [leaf])[0] if differentiate else _nothing()
            if whole:
                losses, total = loss.detach(), gradient
                continue
            # Copy by copy, so that the sums do not depend on how copies were grouped.
            for here, there in _copy_by_copy(first, last, n):
                losses[there] += loss.detach()[here]
                if differentiate:
                    total[there] += gradient[here]
        self._finite &= losses[:, 0].isfinite()
        return losses / copies, total

    def _adjust(self, z: Tensor, items: Items) -> None:
        """Finds how far the numbers that transformations have drawn go downhill on the objective, where they should."""
        with self._uncounted():
            loss = self._losses(z, items)[:, 0]
        for number, slope in zip(self._adjustments, _gradients(loss, [*self._adjustments.values()]), strict=True):
            # An image that the model fails on has no slope; NaN would be no place to read a pixel from.
            self._adjustments[number] = -self._transforms[number - 1].descent * slope.nan_to_num(0, 0, 0)

    def _adjusted(self, number: int, drawn: Tensor) -> Tensor:
        """What transformation ``number`` uses for the numbers it has drawn."""
        assert self.shown is not None, "numbers are adjusted only where the surrogate runs"
        if number not in self._adjustments:
            shape = (min(self.chunk, self._copies * len(self.x)), *drawn.shape[1:])
            self._adjustments[number] = drawn.new_zeros(shape).requires_grad_(torch.is_grad_enabled())
        # Of the chunk's items a member of an ensemble may see only some.
        here = self.shown.copy * len(self.x) + self.shown.places - self._first
        return drawn + self._adjustments[number][sent(here, drawn.device)]

    def _losses(self, z: Tensor, items: Items) -> Tensor:
        """The objective's columns, (B, columns), of ``items``, which are views of ``z``."""
        if self.weights is not None:
            total = z.new_zeros(len(z), self._columns)
            for model, share in zip(self.members, self.weights[items.index].unbind(1), strict=True):
                here = share.nonzero().flatten()
                if len(here):
                    loss = self._loss_of(model, z[here], items.at(here))
                    total = total.index_add(0, here, share[here][:, None] * loss)
        else:
            # A layer belongs to one network, so objectives on features see an ensemble's members one by one.
            apart = getattr(self.model, "apart", False) or self.attack.objective.layer is not None
            models = self.members if apart else (self.model,)
            losses = [self._loss_of(model, z, items) for model in models]
            total = losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)
        return -total if self.targeted else total

    def _loss_of(self, model: "Model", z: Tensor, items: Items) -> Tensor:
        self.shown = items
        view = self._view(model, z, items)
        loss = self._loss(view)[:, None]
        self.shown = None
        if self.attack.step.uses_remaining:
            valid = view.labels != VOID
            counts = torch.stack([unfinished(view, self) & valid, valid], 1).flatten(2).sum(2)
            self._pixels.index_add_(0, view.places, counts)
        if self.attack.step.uses_tracked:
            with torch.no_grad():
                tracked = self.attack.objective.tracked(view)[:, None].to(loss)
            loss = torch.cat([loss, tracked], 1)
        return loss

    def _view(self, model: "Model", z: Tensor, items: Items) -> View:
        objective, view = self.attack.objective, self._seen(model, z, items)
        if objective.uses_clean or objective.uses_other:
            with torch.no_grad():
                view = replace(view, reference=self._reference(model, z, items))
        return view

    def _reference(self, model: "Model", z: Tensor, items: Items) -> View:
        """What the objective compares the items' view with."""
        if not self.attack.objective.uses_clean:
            return self._seen(model, z, replace(items, copy=(items.copy + self._copies // 2) % self._copies))
        # Where nothing changes it, it is what it was; of images that come in parts all would have to be kept.
        lasting = not self._transforms and not self.attack.backward and len(items) == len(self.x)
        if lasting and id(model) in self._clean:
            return self._clean[id(model)]
        found = self._seen(model, self.x[items.index], items)
        if lasting:
            self._clean[id(model)] = found
        return found

    def _seen(self, model: "Model", z: Tensor, items: Items) -> View:
        """What the surrogate makes of ``items``, which need not be those in hand."""
        images, labels = self._transformed(z, items)
        in_hand, self.shown = self.shown, items
        logits, features = self._forward(model, images)
        self.shown = in_hand
        if self.attack.objective.uses_logits and self.evaluations == 0:
            self.check(logits, images)
        return View(labels=labels, logits=logits, features=features, places=items.index)

    def _transformed(self, z: Tensor, items: Items, first: int | None = None) -> tuple[Tensor, Tensor]:
        """Images and labels as the surrogate sees them, or as the ``first`` so many transformations leave them; the
        same random numbers whenever asked within a gradient.
        """
        labels, remaining = self.y[items.index], items.copy
        for number, transform in enumerate(self._transforms[:first], start=1):
            # Several multiplying transformations share out the copy number like digits.
            draw = self.draw(number, items, remaining % transform.copies)
            remaining = remaining // transform.copies
            # What was found for the copies at hand is not for the others that an objective compares them with.
            if transform.descent and items is self.shown:
                draw.adjust = partial(self._adjusted, number)
            if transform.beneath:
                clean, _ = self._transformed(self.x[items.index], items, number - 1)
                content, moved = transform(clean, labels, draw)
                z = content + (z - clean)
            else:
                z, moved = transform(z, labels, draw)
            labels = moved if transform.labels == "move" else labels
        return z, labels

    def _forward(self, model: "Model", images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and, where the objective names a layer, that layer's output."""
        objective = self.attack.objective
        if objective.layer is None:
            return self.logits(model, images), _nothing()
        if not isinstance(model, nn.Module):
            raise ModelError(f"the surrogate is a {type(model).__name__}; this objective needs a torch.nn.Module")
        # The pass that looks for it shows the network none of the attack's items, of which hooks may know the number.
        shown, self.shown = self.shown, None
        layer = find_layer(model, objective.layer, self.x[:1])
        self.shown = shown
        return forward_with(layer, partial(self.logits, model), images, stop=not objective.uses_logits)

    def check(self, logits: Tensor, images: Tensor) -> None:
        """ModelError unless ``logits`` are some of ``images`` at their size, UsageError for labels they do not know."""
        check_logits(logits, images)
        check_classes(self._label_range, logits.shape[1])
        self.attack.goal.check(logits.shape[1])

    def outcome(self, adversarial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Adversarial images, with those the model failed on put back as they were; which stalled; which failed."""
        finite = self._finite & adversarial.isfinite().flatten(1).all(1)
        movable = self.allowed.flatten(1).any(1)
        stalled = ~(self._alive & movable) & finite & (self.iterations > 0)
        return adversarial.where(finite.view(-1, 1, 1, 1), self.x).detach(), stalled, ~finite


def _copy_by_copy(first: int, last: int, n: int) -> Iterator[tuple[slice, slice]]:
    """Items ``first`` … ``last``-1 of all copies of n images: for each copy its items' place in the chunk and the
    places of their images.
    """
    for copy in range(first // n, (last - 1) // n + 1):
        start, stop = max(first, copy * n), min(last, (copy + 1) * n)
        yield slice(start - first, stop - first), slice(start - copy * n, stop - copy * n)


def passes(transforms: Iterable["Transform"]) -> int:
    """Gradients per copy: one more where transformations go downhill first, all of them together."""
    return 2 if any(t.descent for t in transforms) else 1


def _gradients(losses: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if losses.requires_grad:
        found = cast(tuple[Tensor | None, ...], torch.autograd.grad(losses.sum(), leaves, allow_unused=True))
        known = tuple(gradient for gradient in found if gradient is not None)
        if len(known) == len(leaves):
            return known
    raise ModelError("the model's output does not depend on its input differentiably, so it cannot be a surrogate")

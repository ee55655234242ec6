"""Attacks of other libraries as values that are used like ours.

Nothing here knows a single attack. A library's own class or function is called, by its own name, with one image at a
time.
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.attack import Attack, Evaluations, Model, Result
from segtrans.data.base import VOID
from segtrans.errors import ModelError, SegtransError, UsageError, check_number, lacks_memory, reason, unknown
from segtrans.inputs import (
    allowed_region,
    check_classes,
    check_images,
    check_labels,
    check_logits,
    check_seed,
    label_range,
)
from segtrans.interop.libraries import LIBRARIES, find, installed_version
from segtrans.interop.settings import (
    ALIASES,
    GIVEN,
    NORM,
    RELATIVE,
    alias,
    default_iterations,
    known_settings,
    takes_norm,
)
from segtrans.interop.shown import Shown
from segtrans.logits import finite_images, predicted_classes
from segtrans.models.ensemble import members_of
from segtrans.random import derive, image_keys, seeded
from segtrans.threat import L2, LInf, Threat


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An attack of another library, used like an :class:`~segtrans.attack.Attack`.

    Budget, iterations and step size are ours, everything else is the library's default unless it is among ``options``.
    A budget is passed on where the attack takes one, and what the attack returns is moved into it in any case.

    What libraries attack is a classifier. To them an image has two classes: *right*, whose probability is the geometric
    mean of the probabilities of the labels of its valid pixels, and *wrong*. Its cross-entropy is thus the mean
    cross-entropy over valid pixels, our default objective, and void pixels are not in it. An attack has succeeded, and
    may stop, where this mean exceeds log 2 and is twice what it was on the clean image: where it was more than half of
    log 2 there, it is divided by as much as makes this so, which no direction shows. Only adv-lib's attacks for
    segmentation are shown dense logits and labels, with the mask of valid pixels.

    Libraries draw random numbers for a whole batch, so images are attacked one by one, each with the global generators
    seeded for it and put back thereafter: a batch changes nothing, and ``chunk`` has no effect.

    Attributes:
        library: one of ``LIBRARIES``; name: of an attack, as the library spells it, in capitals or not.
        options: further settings, in the library's words.
        threat: the budget; iterations: 1 where the attack has no such setting; step_size: as an Attack's, or None for
            what the library makes of it.
        version: of the library, which decides results.

    Raises:
        UsageError: an unknown library, attack or option. MissingError: the library is not installed.
    """

    library: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    threat: Threat = field(default_factory=LInf)
    iterations: int = 1
    step_size: float | str | None = None
    version: str = field(init=False)

    def __post_init__(self) -> None:
        parameters = self._parameters
        for key in self.options:
            if key not in parameters or key in GIVEN:
                raise unknown(f"setting of {self.library}:{self.name}", key, known_settings(self._make))
        object.__setattr__(self, "version", installed_version(LIBRARIES[self.library].package))
        object.__setattr__(self, "options", dict(sorted(self.options.items())))
        _ = self.alpha, self._as_ours

    @cached_property
    def _make(self) -> Callable[..., Any]:
        return find(self.library, self.name)

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._make).parameters

    @property
    def _as_ours(self) -> Attack:
        """An attack of ours with the same budget, iterations and step, since the same rules hold for them."""
        step_size = "eps/4" if self.step_size is None else self.step_size
        return Attack(threat=self.threat, iterations=self.iterations, step_size=step_size)

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """The attacks of ours that it is made of: none."""
        return ()

    @property
    def alpha(self) -> float:
        """The step size as a number; 0 where that is left to the library."""
        return 0.0 if self.step_size is None else self._as_ours.alpha

    @property
    def copies(self) -> int:
        """Images are shown one by one."""
        return 1

    @property
    def shared(self) -> bool:
        """No two images share anything."""
        return False

    @property
    def draws(self) -> bool:
        """No library says whether it asks for random numbers."""
        return True

    @cached_property
    def evaluations(self) -> int:
        """Gradient evaluations per image on a single surrogate. No library says so beforehand: it is how many a trial
        on a toy took, and may differ for attacks that stop early. :class:`Result` says what was spent.

        Raises:
            UsageError: what the library says when it fails.
        """
        generator = torch.Generator().manual_seed(0)
        image, weight = (torch.rand(shape, generator=generator) for shape in ((1, 3, 16, 16), (5, 3, 3, 3)))
        try:
            return self.perturb(lambda z: F.conv2d(z - 0.5, 10 * (weight - 0.5), padding=1), image).evaluations
        except ModelError as error:
            # There is nothing wrong with the toy.
            raise UsageError(str(error)) from error

    def evaluations_on(self, members: int) -> Evaluations:
        """As :meth:`Attack.evaluations_on`, from that trial."""
        return Evaluations(
            members * self.preparation, members * self.evaluations_per_iteration, members * self.evaluations
        )

    @property
    def evaluations_per_iteration(self) -> int:
        """Gradient evaluations per iteration on a single surrogate, in the trial; 1 where that stopped early."""
        return max(self.evaluations // max(1, self.iterations), min(1, self.evaluations))

    @property
    def preparation(self) -> int:
        """Gradient evaluations beyond those of the iterations, in the trial."""
        return max(0, self.evaluations - self.iterations * self.evaluations_per_iteration)

    def configured(self, **settings: Any) -> "Foreign":
        """This attack under a common protocol, as :meth:`Attack.configured`. It is tried on a toy, so that what cannot
        work fails before anything is done; UsageError if so.
        """
        ours = self._as_ours.configured(**settings)
        step_size = None if self.step_size is None else ours.step_size
        configured = replace(self, threat=ours.threat, iterations=ours.iterations, step_size=step_size)
        _ = configured.evaluations
        return configured

    def __call__(self, model: Model, x: Tensor, y: Tensor | None = None, **options: Any) -> Tensor:
        """The adversarial images, or the error and the warning of :meth:`Attack.__call__`."""
        return self.perturb(model, x, y, **options).checked()

    def perturb(
        self,
        model: Model,
        x: Tensor,
        y: Tensor | None = None,
        *,
        region: Tensor | None = None,
        seed: int = 0,
        chunk: int | None = None,
    ) -> Result:
        """Attack a batch; arguments as in :meth:`Attack.perturb`. ``evaluations`` of the result are counted, one for
        each image that a gradient went back to, and are those of the image that took most.

        Raises:
            UsageError: images or labels of the wrong shape, type or range, or what the library says when it fails.
            ModelError: the model's output is not logits at input size.
        """
        check_images(x)
        x = x.detach()
        if y is not None:
            check_labels(y, x)
        allowed = allowed_region(region, x).expand(len(x), 1, -1, -1)
        keys = derive(image_keys(x), check_seed(seed)).tolist()
        with _frozen(model), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            found = [
                self._perturbed(model, x[i : i + 1], None if y is None else y[i : i + 1], allowed[i : i + 1], key)
                for i, key in enumerate(keys)
            ]
        adversarial, stalled, failed, evaluations = zip(*found, strict=True)
        flags = (torch.tensor(values, device=x.device) for values in (stalled, failed))
        return Result(torch.cat(adversarial), *flags, evaluations=max(evaluations))

    def _perturbed(
        self, model: Model, image: Tensor, labels: Tensor | None, allowed: Tensor, key: int
    ) -> tuple[Tensor, bool, bool, int]:
        """One image (1, 3, H, W): adversarial, stalled, failed, evaluations."""
        with torch.no_grad():
            logits = model(image.clone())  # it may work in place
        check_logits(logits, image)
        if not finite_images(logits).all():
            return image, False, True, 0
        if labels is None:
            labels = predicted_classes(logits)
        check_classes(label_range(labels), logits.shape[1])
        if self.threat.radius == 0 or bool((labels == VOID).all()) or not allowed.any():
            return image, True, False, 0
        shown = Shown(model, image, labels, allowed, logits)
        with seeded(key, image.device), redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            try:
                returned = LIBRARIES[self.library].call(self._make, self.threat, shown, self._arguments(key))
            except (SegtransError, MemoryError):
                raise
            except Exception as error:
                # Runs know what to do where memory ends.
                if lacks_memory(error):
                    raise
                name, size = f"{self.library}:{self.name}", " × ".join(map(str, image.shape[-2:]))
                raise ModelError(f"attack {name} fails on an image of {size}: {reason(error)}") from error
        if not isinstance(returned, Tensor) or returned.shape != image.shape:
            what = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
            raise ModelError(f"attack {self.library}:{self.name} returned {what} for an image {tuple(image.shape)}")
        found = returned.detach().to(image)
        if not (bool(shown.finite) and bool(found.isfinite().all())):
            return image, False, True, shown.evaluations
        stalled = shown.evaluations > 0 and not bool(shown.alive)
        adversarial = self.threat.project(found, image).where(allowed, image)
        return adversarial, stalled, False, len(members_of(model)) * shown.evaluations

    def _arguments(self, key: int) -> dict[str, Any]:
        """What the library's class or function is given beside model, image and labels."""
        parameters = self._parameters
        ours: dict[str, Any] = {"targeted": False, "verbose": False, "seed": key % 2**31}
        ours |= dict.fromkeys(("n_classes", "nb_classes", "num_classes"), 2)
        if "norm" in parameters:
            norm = "inf" if isinstance(self.threat, LInf) else "2"
            ours["norm"] = f"L{norm}" if isinstance(parameters["norm"].default, str) else float(norm)
        ours[alias("eps", parameters)] = self.threat.radius
        if self.iterations != default_iterations(parameters):
            ours[alias("iterations", parameters)] = self.iterations
        if self.step_size is not None:
            ours[alias("step_size", parameters)] = self.alpha
        return {name: value for name, value in ours.items() if name in parameters} | {**self.options}


def foreign(library: str, name: str, settings: Mapping[str, Any], **protocol: Any) -> Foreign:
    """The attack ``library:name(settings)``; the ``protocol`` of :meth:`Foreign.configured` where these are silent.

    ``eps``, ``iterations`` and ``step_size`` are understood for every attack that has something like them, whatever the
    library calls it, and ``eps`` always is; ``norm`` (``"inf"`` or 2) where an attack has several, or is not told its
    budget. Without them the budget is 8/255 or, for attacks of that norm, 5 in L2; iterations are the library's, and
    steps of iterative attacks a quarter of the budget.

    Raises:
        UsageError: an unknown library, attack or setting, or a norm that is no budget of ours.
        MissingError: the library is not installed.
    """
    library = library.replace("-", "_").lower()
    make = find(library, name)
    parameters = inspect.signature(make).parameters
    ours: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for key, value in settings.items():
        own = next((own for own in ALIASES if key in (own, alias(own, parameters))), None)
        if key == "norm" and takes_norm(make):
            ours["norm"] = value
        elif key in RELATIVE and key in parameters:
            check_number(key, value, 1e-6)
            ours["step_size"] = f"eps/{1 / value!r}"
        elif own == "eps" or (own is not None and alias(own, parameters)):
            ours[own] = value
        else:
            options[key] = value
    named = NORM.search(make.__name__)
    norm = str(ours.get("norm", named[1] if named else "inf")).lower().removeprefix("l")
    if norm not in ("inf", "2", "2.0"):
        raise UsageError(f"attack {library}:{name} has the norm {norm!r}; allowed are 'inf' and 2")
    threat = LInf if norm == "inf" else L2
    iterations = ours.get("iterations", default_iterations(parameters))
    stepping = alias("step_size", parameters) and iterations != 1
    found = Foreign(
        library=library,
        name=name,
        options=options,
        threat=threat(ours["eps"]) if "eps" in ours else threat(),
        iterations=iterations,
        step_size=ours.get("step_size", "eps/4" if stepping else None),
    )
    common = {key: value for key, value in protocol.items() if key not in ours}
    return found.configured(**common) if common else found


@contextmanager
def _frozen(model: Model) -> Generator[None]:
    """With no weight of the model asking for a gradient, which libraries would leave there."""
    learning = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)

"""Attacks of other libraries as values that are used like ours.

Nothing here knows a single attack. A library's own class or function is called, by its own name, with one image at a
time.
"""

import inspect
import math
import random
import re
import sys
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.attack import Attack, Evaluations, Model, Result
from segtrans.data.base import VOID
from segtrans.errors import MissingError, ModelError, SegtransError, UsageError, check_number, unknown
from segtrans.inputs import allowed_region, check_classes, check_images, check_labels, check_logits
from segtrans.logits import finite_images, predicted_classes
from segtrans.random import derive, image_keys
from segtrans.threat import L2, LInf, Threat

_ALIASES = {
    "eps": ("eps", "max_epsilon", "ε"),
    "iterations": ("steps", "max_iter", "num_steps", "n_iter", "nb_iter", "num_iter_set", "max_iterations"),
    "step_size": ("alpha", "eps_step", "abs_stepsize", "absolute_step_size"),
}
"""What the libraries call what we call so."""

_RELATIVE = ("rel_stepsize", "relative_step_size")
"""What they call a step as a share of the budget."""

_NORM = re.compile(r"l(inf|[012])", re.IGNORECASE)
"""How names of attacks say what they measure."""

_GIVEN = ("model", "classifier", "estimator", "inputs", "images", "labels", "masks", "targeted", "callback", "kwargs")
"""Arguments that no setting is for."""


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
            if key not in parameters or key in _GIVEN:
                raise unknown(f"setting of {self.library}:{self.name}", key, _settings(self._make))
        object.__setattr__(self, "version", _version(LIBRARIES[self.library].package))
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
        keys = derive(image_keys(x), seed).tolist()
        with _frozen(model), torch.enable_grad():
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
            logits = model(image)
        check_logits(logits, image)
        if not finite_images(logits).all():
            return image, False, True, 0
        if labels is None:
            labels = predicted_classes(logits)
        check_classes(labels, logits.shape[1])
        if self.threat.radius == 0 or bool((labels == VOID).all()):
            return image, True, False, 0
        shown = _Shown(model, image, labels, allowed, logits)
        with _seeded(key, image.device):
            try:
                returned = LIBRARIES[self.library].call(self, shown, self._arguments(key))
            except (SegtransError, MemoryError):
                raise
            except Exception as error:
                # Runs know what to do where memory ends.
                if isinstance(error, RuntimeError) and re.search("memory|ALLOC_FAILED", str(error)):
                    raise
                reason = " ".join(str(error).split()) or type(error).__name__
                size = " × ".join(map(str, image.shape[-2:]))
                raise ModelError(f"attack {self.library}:{self.name} fails on an image of {size}: {reason}") from error
        if not isinstance(returned, Tensor) or returned.shape != image.shape:
            what = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
            raise ModelError(f"attack {self.library}:{self.name} returned {what} for an image {tuple(image.shape)}")
        found = returned.detach().to(image)
        if not (bool(shown.finite) and bool(found.isfinite().all())):
            return image, False, True, shown.evaluations
        stalled = shown.evaluations > 0 and not bool(shown.alive)
        members = len(getattr(model, "members", None) or (model,))
        adversarial = self.threat.project(found, image).where(allowed, image)
        return adversarial, stalled, False, members * shown.evaluations

    def _arguments(self, key: int) -> dict[str, Any]:
        """What the library's class or function is given beside model, image and labels."""
        parameters = self._parameters
        ours: dict[str, Any] = {"targeted": False, "verbose": False, "seed": key % 2**31}
        ours |= dict.fromkeys(("n_classes", "nb_classes", "num_classes"), 2)
        if "norm" in parameters:
            norm = "inf" if isinstance(self.threat, LInf) else "2"
            ours["norm"] = f"L{norm}" if isinstance(parameters["norm"].default, str) else float(norm)
        ours[_alias("eps", parameters)] = self.threat.radius
        if self.iterations != _default_iterations(parameters):
            ours[_alias("iterations", parameters)] = self.iterations
        if self.step_size is not None:
            ours[_alias("step_size", parameters)] = self.alpha
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
        own = next((own for own in _ALIASES if key in (own, _alias(own, parameters))), None)
        if key == "norm" and _takes_norm(make):
            ours["norm"] = value
        elif key in _RELATIVE and key in parameters:
            check_number(key, value, 1e-6)
            ours["step_size"] = f"eps/{1 / value!r}"
        elif own == "eps" or (own is not None and _alias(own, parameters)):
            ours[own] = value
        else:
            options[key] = value
    named = _NORM.search(make.__name__)
    norm = str(ours.get("norm", named[1] if named else "inf")).lower().removeprefix("l")
    if norm not in ("inf", "2", "2.0"):
        raise UsageError(f"attack {library}:{name} has the norm {norm!r}; allowed are 'inf' and 2")
    threat = LInf if norm == "inf" else L2
    iterations = ours.get("iterations", _default_iterations(parameters))
    stepping = _alias("step_size", parameters) and iterations != 1
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


def find(library: str, name: str) -> Callable[..., Any]:
    """A library's own class or function of that name."""
    if library not in LIBRARIES:
        raise unknown("attack library", library, LIBRARIES)
    package, modules, _ = LIBRARIES[library]
    known: dict[str, Callable[..., Any]] = {}
    for module in reversed(modules):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what libraries deprecate is their own business
                members = vars(import_module(module))
        except ImportError as error:
            raise MissingError(f"attacks named {library}:… need {package} ({error}); pip install {package}") from None
        known |= {
            key: value
            for key, value in members.items()
            if (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__.partition(".")[0] == module.partition(".")[0]
            and not inspect.isabstract(value)
        }
    found = known.get(name) or next((value for key, value in known.items() if key.lower() == name.lower()), None)
    if found is None:
        raise unknown(f"attack of {library}", name, known)
    return found


def _alias(own: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """What an attack calls a setting of ours; empty where it has none."""
    found = next((name for name in _ALIASES[own] if name in parameters), "")
    # Where there is no budget alpha is something else.
    return "" if found == "alpha" and "eps" not in parameters else found


def _default_iterations(parameters: Mapping[str, inspect.Parameter]) -> int:
    alias = _alias("iterations", parameters)
    default = parameters[alias].default if alias else 1
    return default if isinstance(default, int) else 1


def _takes_norm(make: Callable[..., Any]) -> bool:
    """Whether an attack can be told its norm, or is told no budget and bears none in its name."""
    parameters = inspect.signature(make).parameters
    return "norm" in parameters or not (_alias("eps", parameters) or _NORM.search(make.__name__))


def _settings(make: Callable[..., Any]) -> set[str]:
    """What may be set, in the library's words and in ours."""
    parameters = inspect.signature(make).parameters
    ours = {own for own in _ALIASES if own == "eps" or _alias(own, parameters)}
    return ({*parameters} - {*_GIVEN}) | ours | ({"norm"} if _takes_norm(make) else set[str]())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


class _Shown(nn.Module):
    """One image (1, 3, H, W) as a library sees it: a classifier of batches (N, 3, H, W) into right and wrong, (N, 2)
    logits; or with ``dense`` the surrogate itself. The surrogate is no submodule, so no library can change its mode.
    """

    def __init__(self, model: Model, image: Tensor, labels: Tensor, allowed: Tensor, clean: Tensor) -> None:
        super().__init__()
        self.image, self.labels, self.valid, self._allowed = image, labels, labels != VOID, allowed
        self._ask: Model = lambda z: model(z)
        self._unit = (2 / math.log(2) * self._loss(clean)).clamp_min(1)
        self.dense = False
        self.evaluations = 0
        self.finite = torch.ones((), dtype=torch.bool, device=image.device)
        self.alive = torch.zeros_like(self.finite)
        # Where libraries look for the device.
        self.place = nn.Parameter(image.new_zeros(()), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.image).where(self._allowed, self.image)
        if x.requires_grad:
            x.register_hook(self._count)
        logits = self._ask(x)
        self.finite &= logits.detach().isfinite().all()
        if self.dense:
            return logits
        # The probability of right is exp(-loss); both logarithms are finite, and so are their derivatives.
        losses = (self._loss(logits) / self._unit).clamp_min(torch.finfo(logits.dtype).tiny)
        return torch.stack([-losses, (-torch.expm1(-losses)).log()], 1)

    def _loss(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy over valid pixels, (N,)."""
        labels = self.labels.expand(len(logits), -1, -1)
        return F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none").sum((1, 2)) / self.valid.sum()

    def _count(self, gradient: Tensor) -> None:
        self.evaluations += len(gradient)
        self.alive |= (gradient != 0).any()


def _foolbox(attack: Foreign, shown: _Shown, arguments: dict[str, Any]) -> Any:
    """Void is not in the two classes. Attacks that keep the perturbation small are not told the budget."""
    foolbox: Any = import_module("foolbox")
    make, norm = find(attack.library, attack.name), "linf" if isinstance(attack.threat, LInf) else "l2"
    if "distance" in inspect.signature(make).parameters:
        arguments = {"distance": getattr(foolbox.distances, norm), **arguments}
    model = foolbox.PyTorchModel(shown, bounds=(0, 1), device=shown.image.device)
    right = foolbox.criteria.Misclassification(torch.zeros(1, dtype=torch.int64, device=shown.image.device))
    return make(**arguments)(model, shown.image.clone(), right, epsilons=attack.threat.radius)[0]


def _torchattacks(attack: Foreign, shown: _Shown, arguments: dict[str, Any]) -> Any:
    """Void is not in the two classes."""
    right = torch.zeros(1, dtype=torch.int64, device=shown.image.device)
    return find(attack.library, attack.name)(shown, **arguments)(shown.image.clone(), right)


def _art(attack: Foreign, shown: _Shown, arguments: dict[str, Any]) -> Any:
    """Void is not in the two classes. The library computes in float32."""
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        shown,
        nn.CrossEntropyLoss(),
        tuple(shown.image.shape[1:]),
        2,
        clip_values=(0, 1),
        device_type="gpu" if shown.image.device.type == "cuda" else "cpu",
    )
    image = shown.image.float().cpu()
    right = np.eye(2, dtype=np.float32)[:1]
    found = find(attack.library, attack.name)(estimator, **arguments).generate(image.numpy().copy(), y=right)
    # What float32 made of a pixel is no change of it.
    return shown.image.cpu().where(image == torch.from_numpy(found), torch.from_numpy(found).to(shown.image.dtype))


def _adv_lib(attack: Foreign, shown: _Shown, arguments: dict[str, Any]) -> Any:
    """Attacks for segmentation get dense labels, and void as what their mask of valid pixels leaves out; for the others
    void is not in the two classes.
    """
    function = find(attack.library, attack.name)
    # A search of theirs would be compiled, for minutes.
    with torch.compiler.set_stance("force_eager"):
        if "masks" in inspect.signature(function).parameters:
            shown.dense = True
            labels = shown.labels.where(shown.valid, 0)
            return function(shown, shown.image.clone(), labels, masks=shown.valid, **arguments)
        right = torch.zeros(1, dtype=torch.int64, device=shown.image.device)
        return function(shown, shown.image.clone(), right, **arguments)


class Library(NamedTuple):
    """A package by its name in registries, the modules its attacks are in, first come first, and how they are called:
    with the attack, one image, and arguments.
    """

    package: str
    modules: tuple[str, ...]
    call: Callable[[Foreign, _Shown, dict[str, Any]], Any]


LIBRARIES = {
    "foolbox": Library("foolbox", ("foolbox.attacks",), _foolbox),
    "torchattacks": Library("torchattacks", ("torchattacks",), _torchattacks),
    "art": Library("adversarial-robustness-toolbox", ("art.attacks.evasion",), _art),
    "adv_lib": Library("adv-lib", ("adv_lib.attacks.segmentation", "adv_lib.attacks"), _adv_lib),
}


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


@contextmanager
def _seeded(key: int, device: torch.device) -> Generator[None]:
    """With every global generator seeded, and put back afterwards; prints go to standard error, warnings nowhere."""
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002 what libraries draw from
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus), redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(key)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(key)
        np.random.seed(key % 2**32)  # noqa: NPY002
        random.seed(key)
        try:
            yield
        finally:
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(python)

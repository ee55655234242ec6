"""The libraries whose attacks can be called, where these are in them and how each is called."""

import inspect
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from segtrans.errors import MissingError, unknown
from segtrans.interop.shown import Shown
from segtrans.threat import LInf, Threat


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


def installed_version(package: str) -> str:
    """The version of a package; empty where that is unknown."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _foolbox(make: Callable[..., Any], threat: Threat, shown: Shown, arguments: dict[str, Any]) -> Any:
    """Void is not in the two classes. Attacks that keep the perturbation small are not told the budget."""
    foolbox: Any = import_module("foolbox")
    norm = "linf" if isinstance(threat, LInf) else "l2"
    if "distance" in inspect.signature(make).parameters:
        arguments = {"distance": getattr(foolbox.distances, norm), **arguments}
    model = foolbox.PyTorchModel(shown, bounds=(0, 1), device=shown.image.device)
    right = foolbox.criteria.Misclassification(torch.zeros(1, dtype=torch.int64, device=shown.image.device))
    return make(**arguments)(model, shown.image.clone(), right, epsilons=threat.radius)[0]


def _torchattacks(make: Callable[..., Any], _threat: Threat, shown: Shown, arguments: dict[str, Any]) -> Any:
    """Void is not in the two classes."""
    right = torch.zeros(1, dtype=torch.int64, device=shown.image.device)
    return make(shown, **arguments)(shown.image.clone(), right)


def _art(make: Callable[..., Any], _threat: Threat, shown: Shown, arguments: dict[str, Any]) -> Any:
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
    found = make(estimator, **arguments).generate(image.numpy().copy(), y=right)
    # What float32 made of a pixel is no change of it.
    return shown.image.cpu().where(image == torch.from_numpy(found), torch.from_numpy(found).to(shown.image.dtype))


def _adv_lib(make: Callable[..., Any], _threat: Threat, shown: Shown, arguments: dict[str, Any]) -> Any:
    """Attacks for segmentation get dense labels, and void as what their mask of valid pixels leaves out; for the others
    void is not in the two classes.
    """
    # A search of theirs would be compiled, for minutes.
    with torch.compiler.set_stance("force_eager"):
        if "masks" in inspect.signature(make).parameters:
            shown.dense = True
            labels = shown.labels.where(shown.valid, 0)
            return make(shown, shown.image.clone(), labels, masks=shown.valid, **arguments)
        right = torch.zeros(1, dtype=torch.int64, device=shown.image.device)
        return make(shown, shown.image.clone(), right, **arguments)


class Library(NamedTuple):
    """A package by its name in registries, the modules its attacks are in, first come first, and how they are called:
    with its own class or function, the budget, one image, and arguments.
    """

    package: str
    modules: tuple[str, ...]
    call: Callable[[Callable[..., Any], Threat, Shown, dict[str, Any]], Any]


LIBRARIES = {
    "foolbox": Library("foolbox", ("foolbox.attacks",), _foolbox),
    "torchattacks": Library("torchattacks", ("torchattacks",), _torchattacks),
    "art": Library("adversarial-robustness-toolbox", ("art.attacks.evasion",), _art),
    "adv_lib": Library("adv-lib", ("adv_lib.attacks.segmentation", "adv_lib.attacks"), _adv_lib),
}

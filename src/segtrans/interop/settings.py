"""What settings of other libraries' attacks are called, there and here."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

ALIASES = {
    "eps": ("eps", "max_epsilon", "ε"),
    "iterations": ("steps", "max_iter", "num_steps", "n_iter", "nb_iter", "num_iter_set", "max_iterations"),
    "step_size": ("alpha", "eps_step", "abs_stepsize", "absolute_step_size"),
}
"""What the libraries call what we call so."""

RELATIVE = ("rel_stepsize", "relative_step_size")
"""What they call a step as a share of the budget."""

NORM = re.compile(r"l(inf|[012])", re.IGNORECASE)
"""How names of attacks say what they measure."""

GIVEN = ("model", "classifier", "estimator", "inputs", "images", "labels", "masks", "targeted", "callback", "kwargs")
"""Arguments that no setting is for."""


def alias(own: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """What an attack calls a setting of ours; empty where it has none."""
    found = next((name for name in ALIASES[own] if name in parameters), "")
    # Where there is no budget alpha is something else.
    return "" if found == "alpha" and "eps" not in parameters else found


def default_iterations(parameters: Mapping[str, inspect.Parameter]) -> int:
    """How many iterations an attack takes where it is not told; 1 where it has no such setting."""
    name = alias("iterations", parameters)
    default = parameters[name].default if name else 1
    return default if isinstance(default, int) else 1


def takes_norm(make: Callable[..., Any]) -> bool:
    """Whether an attack can be told its norm, or is told no budget and bears none in its name."""
    parameters = inspect.signature(make).parameters
    return "norm" in parameters or not (alias("eps", parameters) or NORM.search(make.__name__))


def known_settings(make: Callable[..., Any]) -> set[str]:
    """What may be set, in the library's words and in ours."""
    parameters = inspect.signature(make).parameters
    ours = {own for own in ALIASES if own == "eps" or alias(own, parameters)}
    return ({*parameters} - {*GIVEN}) | ours | ({"norm"} if takes_norm(make) else set[str]())

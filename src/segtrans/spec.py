"""Specs, the spellings of models and data sets: ``SOURCE:NAME``, then options as ``?KEY=VALUE&KEY=VALUE``."""

import re
from collections.abc import Mapping
from inspect import Parameter, formatannotation
from pathlib import Path
from typing import Any

from segtrans.errors import UsageError, unknown
from segtrans.paths import at_home


def spelled_options(query: str, of: str) -> dict[str, str]:
    """What follows the question mark, by key.

    Raises:
        UsageError: an option has no value or is given twice; the message says whose it is, ``of``.
    """
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, text = pair.partition("=")
        if not text:
            raise UsageError(f"option {key!r} of {of} has no value; expected {key}=VALUE")
        if key in options:
            raise UsageError(f"option {key!r} of {of} is given twice")
        options[key] = text
    return options


def typed_options(options: Mapping[str, str], parameters: Mapping[str, Parameter], of: str) -> dict[str, Any]:
    """The options as arguments for the ``parameters`` of their names, which are annotated ``str``, ``int`` or ``Path``,
    each or None.

    Raises:
        UsageError: an option is no parameter or no whole number where one is expected, or a parameter without a default
            is no option; the message says whose it is, ``of``.
    """
    for key in options:
        if key not in parameters:
            raise unknown(f"option of {of}", key, parameters)
    for key, one in parameters.items():
        several = one.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        if one.default is Parameter.empty and key not in options and not several:
            raise UsageError(f"{of} needs option {key!r}; add {key}=VALUE")
    return {key: _typed(text, parameters[key], of) for key, text in options.items()}


def _typed(text: str, parameter: Parameter, of: str) -> str | int | Path:
    # As text: what an annotation names may have been imported for type checkers only.
    kinds = re.findall(r"\w+", formatannotation(parameter.annotation))
    if "Path" in kinds:
        return at_home(text)
    if "int" not in kinds:
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"option {parameter.name!r} of {of} is {text!r}; expected a whole number") from None

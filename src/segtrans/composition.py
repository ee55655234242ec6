"""How attacks are put together: from parts in Python, and from one string on the command line.

``mi(iterations=20)`` is a named attack with a setting changed, ``segpgd + remap(grid=3) + mi`` a composition of attacks
and parts.
"""

import ast
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from segtrans import areas, backward, goals, gradients, objectives, steps, threat, transforms
from segtrans.areas import Area
from segtrans.attack import Attack
from segtrans.backward import Backward
from segtrans.errors import UsageError, unknown
from segtrans.goals import Goal
from segtrans.gradients import GradientTransform
from segtrans.interop.foreign import foreign
from segtrans.objectives import Objective
from segtrans.steps import Step
from segtrans.threat import Threat, exactly
from segtrans.transforms import Transform
from segtrans.worst import AnyAttack, WorstCase

if TYPE_CHECKING:
    from segtrans.catalogue.entry import Entry

Part = Threat | Area | Goal | Objective | Transform | Backward | GradientTransform | Step

_ONE: dict[type, str] = {Threat: "threat", Area: "area", Goal: "goal", Objective: "objective", Step: "step"}
_SEVERAL: dict[type, str] = {Transform: "transforms", Backward: "backward", GradientTransform: "gradients"}
"""Which field of an attack a part goes to: it replaces what is there, or follows it."""

_OWN = {f.name for f in fields(Attack)} - {*_ONE.values(), *_SEVERAL.values()}
"""An attack's settings that are no parts."""

PARTS: dict[str, type[Part]] = {
    cls.__name__.lower(): cls
    for module in (threat, areas, goals, objectives, transforms, backward, gradients, steps)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, get_args(Part)) and not getattr(cls, "__abstractmethods__", None)
}
"""Every part by its lower-case class name, as the composition language spells it."""


def compose(*terms: Part | Attack) -> Attack:
    """One attack from parts and attacks, left to right.

    A part replaces what is there (threat, area, goal, objective, step) or follows it (transformations, changes of the
    backward pass and of the gradient); an attack adds its transformations and overrides whatever it does not leave at
    its default. Momentum, of whichever kind, replaces momentum and comes last, so that ``di + vmi`` accumulates once.
    """
    result = Attack()
    for term in terms:
        result = _joined(result, term)
    return result


def _joined(result: Attack, term: Part | Attack, given: Collection[str] = ()) -> Attack:
    """``result`` with one more term; the fields ``given`` count even where they are at their default."""
    if isinstance(term, Attack):
        joined = {name: _queue(getattr(result, name) + getattr(term, name)) for name in _SEVERAL.values()}
        own = {f.name: getattr(term, f.name) for f in fields(term) if f.name not in joined}
        changed = {name: value for name, value in own.items() if name in given or value != getattr(Attack(), name)}
        return replace(result, **changed, **joined)
    for kind, name in _ONE.items():
        if isinstance(term, kind):
            return replace(result, **{name: term})
    name = next((name for kind, name in _SEVERAL.items() if isinstance(term, kind)), None)
    if name is None:
        raise UsageError(f"compose got {term!r}; allowed are parts and attacks that are one, not several")
    return replace(result, **{name: _queue((*getattr(result, name), term))})


def _queue(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The same, with one accumulating part, which is the last one named, at the end."""
    accumulators = [part for part in parts if isinstance(part, GradientTransform) and part.accumulates]
    return (*(part for part in parts if part not in accumulators), *accumulators[-1:])


def spell(attack: Attack, *, defaults: bool = False) -> str:
    """An attack spelled out of its parts; settings of theirs that are at their defaults are left out unless
    ``defaults`` are asked for. :func:`read` finds it again if all parts are segtrans's own and momentum comes last.
    """
    plain = Attack()
    parts = [part for name in _ONE.values() if (part := getattr(attack, name)) != getattr(plain, name)]
    parts += [part for name in _SEVERAL.values() for part in getattr(attack, name)]
    terms = [_spelled(type(part).__name__, part, {f.name for f in fields(part)}, defaults) for part in parts]
    own = _spelled("bim", attack, _OWN)
    return " + ".join(terms if terms and own == "bim" else [own, *terms])


def _spelled(name: str, value: Part | Attack, keys: Collection[str], defaults: bool = False) -> str:
    found = {f.name: (getattr(value, f.name), f.default) for f in fields(value) if f.name in keys}
    changed = {key: v for key, (v, default) in found.items() if defaults or v != default}
    said = ", ".join(
        f"{key}={exactly(v) if key in _LENGTHS and isinstance(v, float) else repr(v)}" for key, v in changed.items()
    )
    return f"{name}({said})" if said else name


_LENGTHS = ("eps", "step_size")


def read(text: str, named: Mapping[str, "Entry"], **protocol: Any) -> AnyAttack:
    """The attack that ``text`` spells: ``name``, ``name(setting=value, …)``, or several of these joined by ``+``.

    The ``named`` attacks come before parts of the same name, and take their settings too; a part's capitalised name
    means the part alone, so that ``SegPGD`` has no random start and ``segpgd`` has. Where one is the worst case
    of several attacks, settings and other terms are for each of these. Values are numbers, fractions (``8/255``),
    strings, booleans and tuples. The ``protocol`` is what :meth:`segtrans.attack.Attack.configured` takes, and decides
    what ``text`` does not say itself.

    Raises:
        UsageError: an unknown name, an unknown setting, or a value that cannot be read.
    """
    if named_elsewhere := re.fullmatch(r"\s*([\w-]+)\s*:\s*(\w+)\s*(\(.*\))?\s*", text, re.DOTALL):
        library, name, given = named_elsewhere.groups()
        return foreign(library, name, _settings(text, given or "()"), **protocol)
    terms = [term.strip() for term in _split(text)]
    if not all(terms):
        raise UsageError(f"attack {text!r} has an empty term; write for example 'segpgd + remap(grid=2) + mi'")
    results = (Attack(),)
    said: set[str] = set()
    for term in terms:
        values, settings = _term(term, named)
        # Other parts may have settings of these names too.
        said |= {key for key in settings if isinstance(values[0], Threat if key == "eps" else Attack)}
        results = tuple(_joined(result, value, settings) for result in results for value in values)
    common = {key: value for key, value in protocol.items() if key not in said}
    # What made attacks different may have been overridden.
    results = tuple(dict.fromkeys(result.configured(**common) for result in results))
    return results[0] if len(results) == 1 else WorstCase(attacks=results)


def _split(text: str) -> list[str]:
    """``text`` at its ``+`` signs outside parentheses, of which those in strings do not count."""
    terms, depth, quote = [""], 0, ""
    for character in text:
        if character in ("'", '"') and quote in ("", character):
            quote = "" if quote else character
        if not quote:
            depth += (character == "(") - (character == ")")
        if character == "+" and depth == 0:
            terms.append("")
        else:
            terms[-1] += character
    return terms


def _term(text: str, named: Mapping[str, "Entry"]) -> tuple[tuple[Part | Attack, ...], Collection[str]]:
    """What one term spells, a part or one or several attacks, and the settings it gives."""
    match = re.fullmatch(r"([\w-]+)\s*(\(.*\))?", text, re.DOTALL)
    if match is None:
        raise UsageError(f"cannot read attack term {text!r}; write name or name(setting=value, …)")
    name, settings = match[1].lower(), _settings(text, match[2] or "()")
    if name in named and not (name in PARTS and match[1] == PARTS[name].__name__):
        # An attack named after its part, such as admix, takes the settings of both.
        part = PARTS.get(name)
        makes = [partial(_with, attack, part) for attack in named[name].attack.attacks]
        kinds = (Attack,) if part is None else (Attack, part)
        allowed = _OWN if part is None else _OWN | {f.name for f in fields(part)}
    elif name in PARTS:
        makes, kinds = [PARTS[name]], (PARTS[name],)
        allowed = {f.name for f in fields(PARTS[name])}
    else:
        raise unknown("attack or part", name, {*named, *PARTS})
    for key in settings:
        if key not in allowed:
            whose = _whose(key, named[name].attack.attacks) if kinds[0] is Attack else ""
            raise UsageError(f"{unknown(f'setting of {name}', key, allowed)}{whose}")
    try:
        values = tuple(make(**settings) for make in makes)
    except TypeError:
        _check_types(name, kinds, settings)
        raise
    _check_types(name, kinds, settings)
    return values, settings


def _whose(key: str, attacks: tuple[Attack, ...]) -> str:
    """Where a setting is that a named attack does not take itself, to be said after an error."""
    parts = [getattr(attack, name) for attack in attacks for name in _ONE.values()]
    parts += [part for attack in attacks for name in _SEVERAL.values() for part in getattr(attack, name)]
    owners = (type(part).__name__.lower() for part in parts if key in {f.name for f in fields(part)})
    owner = next(owners, "")
    return f"; its part {owner} has one, so spell the attack out, with {owner}({key}=…)" if owner else ""


def _check_types(name: str, kinds: Collection[type], settings: Mapping[str, Any]) -> None:
    """What a part's own checks do not see, since Python takes its type hints for comments."""
    hints = {key: hint for kind in kinds for key, hint in get_type_hints(kind).items()}
    for key, value in settings.items():
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            raise UsageError(f"{name} {key} is {value!r}: {error.errors()[0]['msg'].lower()}") from None


def _with(attack: Attack, part: type[Part] | None, **settings: Any) -> Attack:
    """The attack with other settings; what are not its own are those of its part of the class ``part``, since an entry
    may bear the name of the part it is about.
    """
    inner = {key: settings.pop(key) for key in settings.keys() - _OWN}

    def changed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(changed(element) for element in value)
        return replace(value, **inner) if type(value) is part else value

    parts = {name: changed(getattr(attack, name)) for name in (*_ONE.values(), *_SEVERAL.values())}
    return replace(attack, **parts, **settings)


def _settings(term: str, arguments: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        settings = {str(k.arg): _value(k.value) for k in call.keywords}
        if len(settings) < len(call.keywords):
            raise ValueError
        return settings
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError):
        raise UsageError(f"cannot read the settings of attack term {term!r}; write name(setting=value, …)") from None


def _value(node: ast.expr) -> Any:
    """A literal, a quotient of literals such as 8/255, or a tuple of these."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return float(ast.literal_eval(node.left)) / float(ast.literal_eval(node.right))
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(element) for element in node.elts)
    return ast.literal_eval(node)

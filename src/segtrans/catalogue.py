"""Every published attack by name, each one expression, and the language in which new ones are written.

``attack("mi")`` is a catalogue entry, ``attack("mi(iterations=20)")`` the same with a setting changed, and
``attack("segpgd + remap(grid=3) + mi")`` a composition of entries and parts.
"""

import ast
import re
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from segtrans import gradients, objectives, threat, transforms
from segtrans.attack import Attack
from segtrans.errors import UsageError, unknown
from segtrans.gradients import GradientTransform, Momentum, Nesterov, Smooth
from segtrans.objectives import CosPGD, Objective, SegPGD
from segtrans.threat import Threat
from segtrans.transforms import Remap, Rescale, Resize, Scale, Transform

Part = Objective | Transform | GradientTransform | Threat


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A named attack.

    Attributes:
        provenance: what our version rests on: ``code`` or ``paper`` of the authors, ``reconstruction`` where the
            method is not fully public, ``control`` for what is no attack.
    """

    name: str
    attack: Attack
    title: str
    paper: str
    venue: str
    family: str
    provenance: str


def compose(*terms: Part | Attack) -> Attack:
    """One attack from parts and attacks, left to right.

    A part replaces (objective, threat) or follows (transformations) what is there; an attack adds its transformations
    and overrides whatever it does not leave at its default.
    """
    default = result = Attack()
    for term in terms:
        match term:
            case Attack():
                ours = {
                    "transforms": result.transforms + term.transforms,
                    "gradients": result.gradients + term.gradients,
                }
                changed = {f.name: getattr(term, f.name) for f in fields(term) if f.name not in ours}
                changed = {name: value for name, value in changed.items() if value != getattr(default, name)}
                result = replace(result, **changed, **ours)
            case Objective():
                result = replace(result, objective=term)
            case Threat():
                result = replace(result, threat=term)
            case Transform():
                result = replace(result, transforms=(*result.transforms, term))
            case GradientTransform():
                result = replace(result, gradients=(*result.gradients, term))
    return result


# All iterative attacks share PGD's step, a quarter of the budget (2/255 of 8/255), so that they differ in what they are
# and not in how far they go. The momentum papers step budget / iterations, which transfers less: see docs/protocol.md.
_PGD = Attack(random_start=True)
_MI = Momentum()

_ENTRIES = (
    Entry(
        name="clean", attack=Attack(iterations=0),
        title="no perturbation, only 8-bit rounding",
        paper="", venue="", family="control", provenance="control",
    ),
    Entry(
        name="noise", attack=Attack(iterations=0, random_start=True),
        title="uniform noise within the budget",
        paper="", venue="", family="control", provenance="control",
    ),
    Entry(
        name="fgsm", attack=Attack(iterations=1, step_size="eps/1"),
        title="fast gradient sign method",
        paper="arXiv:1412.6572", venue="ICLR 2015", family="gradient", provenance="paper",
    ),
    Entry(
        name="bim", attack=Attack(),
        title="basic iterative method",
        paper="arXiv:1607.02533", venue="ICLR-W 2017", family="gradient", provenance="paper",
    ),
    Entry(
        name="pgd", attack=_PGD,
        title="projected gradient descent",
        paper="arXiv:1706.06083", venue="ICLR 2018", family="gradient", provenance="paper",
    ),
    Entry(
        name="mi", attack=compose(_MI),
        title="momentum iterative FGSM",
        paper="arXiv:1710.06081", venue="CVPR 2018", family="gradient", provenance="code",
    ),
    Entry(
        name="ni", attack=compose(Nesterov()),
        title="Nesterov iterative FGSM",
        paper="arXiv:1908.06281", venue="ICLR 2020", family="gradient", provenance="code",
    ),
    Entry(
        name="di", attack=compose(Resize(), _MI),
        title="diverse inputs, with momentum",
        paper="arXiv:1803.06978", venue="CVPR 2019", family="input", provenance="code",
    ),
    Entry(
        name="ti", attack=compose(Smooth(), _MI),
        title="translation-invariant gradients, with momentum",
        paper="arXiv:1904.02884", venue="CVPR 2019", family="gradient", provenance="code",
    ),
    Entry(
        name="si", attack=compose(Scale(), Nesterov()),
        title="scale-invariant Nesterov attack (SI-NI-FGSM)",
        paper="arXiv:1908.06281", venue="ICLR 2020", family="input", provenance="code",
    ),
    Entry(
        name="ds", attack=compose(Rescale(), _MI),
        title="dynamic scaling, with momentum",
        paper="arXiv:2111.11368", venue="arXiv 2021", family="segmentation", provenance="reconstruction",
    ),
    Entry(
        name="segpgd", attack=compose(_PGD, SegPGD()),
        title="SegPGD",
        paper="arXiv:2207.12391", venue="ECCV 2022", family="segmentation", provenance="code",
    ),
    Entry(
        name="cospgd", attack=compose(_PGD, CosPGD()),
        title="CosPGD",
        paper="arXiv:2302.02213", venue="ICML 2024", family="segmentation", provenance="code",
    ),
    Entry(
        name="segtrans", attack=compose(SegPGD(), Remap(), _MI),
        title="SegTrans, our reconstruction from its abstract",
        paper="arXiv:2510.08922", venue="IEEE TMM 2025", family="segmentation", provenance="reconstruction",
    ),
)  # fmt: skip

ENTRIES = {entry.name: entry for entry in _ENTRIES}

PARTS: dict[str, type[Part]] = {
    cls.__name__.lower(): cls
    for module in (threat, objectives, transforms, gradients)
    for cls in vars(module).values()
    if isinstance(cls, type)
    and issubclass(cls, (Objective, Transform, GradientTransform, Threat))
    and not getattr(cls, "__abstractmethods__", None)
}
"""Every part by its lower-case class name, as the composition language spells it."""


def attack(text: str) -> Attack:
    """The attack that ``text`` spells: ``name``, ``name(setting=value, …)``, or several of these joined by ``+``.

    Names of the catalogue come before names of parts. Values are numbers, fractions (``8/255``), strings, booleans and
    tuples.

    Raises:
        UsageError: an unknown name, an unknown setting, or a value that cannot be read.
    """
    terms = [term.strip() for term in _split(text)]
    if not all(terms):
        raise UsageError(f"attack {text!r} has an empty term; write for example 'segpgd + remap(grid=2) + mi'")
    return compose(*(_term(term) for term in terms))


def _split(text: str) -> list[str]:
    """``text`` at its ``+`` signs outside parentheses."""
    terms, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "+" and depth == 0:
            terms.append("")
        else:
            terms[-1] += character
    return terms


def _term(text: str) -> Part | Attack:
    match = re.fullmatch(r"([\w-]+)\s*(\(.*\))?", text, re.DOTALL)
    if match is None:
        raise UsageError(f"cannot read attack term {text!r}; write name or name(setting=value, …)")
    name, settings = match[1].lower(), _settings(text, match[2] or "()")
    if name in ENTRIES:
        base = ENTRIES[name].attack
        allowed = {f.name for f in fields(base)} - {"threat", "objective", "transforms", "gradients"}
        make = partial(replace, base)
    elif name in PARTS:
        make = PARTS[name]
        allowed = {f.name for f in fields(make)}
    else:
        raise unknown("attack or part", name, {*ENTRIES, *PARTS})
    for key in settings:
        if key not in allowed:
            raise unknown(f"setting of {name}", key, allowed)
    try:
        return make(**settings)
    except TypeError as error:
        raise UsageError(f"attack term {text!r}: {error}") from None


def _settings(term: str, arguments: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
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

"""The catalogue and its language."""

import ast
import inspect
import re
import textwrap
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import get_args

import pytest

from segtrans import catalogue
from segtrans.areas import Everywhere, Patch
from segtrans.attack import Attack
from segtrans.catalogue import ENTRIES, PARTS, Entry, attack, compose
from segtrans.composition import Part, spell
from segtrans.config import read_config
from segtrans.errors import UsageError
from segtrans.goals import Untargeted
from segtrans.gradients import Momentum, Nesterov, Smooth
from segtrans.listing import attacks
from segtrans.objectives import CosPGD, CrossEntropy, Margin, SegPGD
from segtrans.steps import Steepest, Universal
from segtrans.threat import L2, LInf
from segtrans.transforms import Admix, Remap, Rescale, Resize, Scale
from segtrans.worst import WorstCase
from toys import Context, changed, images, labels

each_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
each_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("mi", ENTRIES["mi"].attack),
        (" mi ", ENTRIES["mi"].attack),
        ("MI", ENTRIES["mi"].attack),
        ("mi()", ENTRIES["mi"].attack),
        ("mi(iterations=20)", replace(ENTRIES["mi"].attack, iterations=20)),
        ("mi (iterations = 20, step_size='1/255')", Attack(gradients=(Momentum(),), iterations=20, step_size="1/255")),
        ("momentum", Attack(gradients=(Momentum(),))),
        ("momentum(decay=0.5)", Attack(gradients=(Momentum(decay=0.5),))),
        ("remap(grid=2) + momentum", Attack(transforms=(Remap(grid=2),), gradients=(Momentum(),))),
        ("remap+momentum", Attack(transforms=(Remap(),), gradients=(Momentum(),))),
        ("crossentropy", Attack()),
        ("linf(eps=4/255)", Attack(threat=LInf("4/255"))),
        ("linf(eps='4/255')", Attack(threat=LInf("4/255"))),
        ("linf(eps=0.02)", Attack(threat=LInf(0.02))),
        ("l2(eps=3) + bim", Attack(threat=L2(3))),
        ("mi + linf(eps=16/255)", Attack(threat=LInf(16 / 255), gradients=(Momentum(),))),
        ("remap(window=(1/2, 2), flip='none')", Attack(transforms=(Remap(window=(0.5, 2), flip="none"),))),
        ("resize(scale=[0.5, 1.0])", Attack(transforms=(Resize(scale=(0.5, 1.0)),))),
        ("pgd(random_start=False)", Attack()),
        (
            "admix(share=0.1, iterations=2, copies=1)",
            Attack(transforms=(Admix(share=0.1, copies=1), Scale()), gradients=(Momentum(),), iterations=2),
        ),
        ("smooth(size=5) + scale(copies=3)", Attack(gradients=(Smooth(size=5),), transforms=(Scale(copies=3),))),
    ],
)
def test_strings_spell_values(text: str, value: Attack) -> None:
    assert attack(text) == value
    assert hash(attack(text)) == hash(value)


def test_a_composition_of_everything() -> None:
    assert attack("segpgd + remap(grid=2) + mi") == Attack(
        objective=SegPGD(), transforms=(Remap(grid=2),), gradients=(Momentum(),), random_start=True
    )
    assert attack("segpgd + remap(grid=2) + mi") == compose(
        ENTRIES["segpgd"].attack, Remap(grid=2), ENTRIES["mi"].attack
    )


def test_the_last_word_counts_and_transformations_queue() -> None:
    found = attack("di + cospgd(iterations=7) + ti + ds + segpgd(step_size=0.01, iterations=3) + l2 + linf(eps=0.1)")
    assert found == Attack(
        threat=LInf(0.1),
        objective=SegPGD(),
        transforms=(Resize(), Rescale()),
        gradients=(Smooth(), Momentum()),
        iterations=3,
        step_size=0.01,
        random_start=True,
    )


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_can_be_spelled_out(name: str) -> None:
    for value in ENTRIES[name].attack.attacks:
        assert attack(spell(value)) == value
        assert attack(spell(value, defaults=True)) == value


def test_defaults_are_listed() -> None:
    shown = {row["name"]: row["defaults"] for row in attacks()}
    assert shown["vmi"] == "Variance(samples=20, radius=1.5, ahead=0.0) + Momentum(decay=1.0)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Attack(), "bim"),
        (Attack(gradients=(Momentum(),)), "Momentum"),
        (Attack(threat=LInf("4/255"), step_size=1 / 255), "bim(step_size=1/255) + LInf(eps=4/255)"),
        (Attack(threat=L2(0.3), step_size="eps/T"), "bim(step_size='eps/T') + L2(eps=0.3)"),
        (Attack(objective=SegPGD(), transforms=(Remap(window=(0.6, 1.0)),)), "SegPGD + Remap(window=(0.6, 1.0))"),
    ],
)
def test_spelling(value: Attack, text: str) -> None:
    assert spell(value) == text
    assert attack(text) == value


def test_strings_may_hold_what_means_something_outside() -> None:
    assert attack("FeatureSimilarity(layer='a) + b(') + mi").objective.layer == "a) + b("


def test_a_capitalised_name_means_the_part_alone() -> None:
    assert attack("SegPGD") == Attack(objective=SegPGD()) != attack("segpgd")
    assert attack("Admix(share=0.1)").transforms == (Admix(share=0.1),)
    assert attack("MI") == attack("mi"), "but names of attacks may be written as papers do"


@pytest.mark.parametrize(
    ("text", "spelled_out"),
    [
        ("di + vmi", "resize + variance + momentum"),
        ("di + ti", "mi-di-ti"),
        ("vmi + ti", "variance + smooth + momentum"),
        ("mi + smooth", "ti"),
        ("mi + ni", "ni"),
        ("mi + momentum(decay=0.5)", "momentum(decay=0.5)"),
        (
            "segtrans + vmi",
            "SegPGD(temperature=2, balance=0.5) + remap(keep=0.25) + grey + smooth(size=5) + variance + mi",
        ),
        ("fspgd + remap + vmi", "pgd(iterations=20) + featuresimilarity + remap + variance + momentum"),
    ],
)
def test_gradients_are_accumulated_once_and_last(text: str, spelled_out: str) -> None:
    assert attack(text) == attack(spelled_out)


def test_what_an_attack_leaves_at_its_default_it_does_not_override() -> None:
    assert attack("mi(iterations=20) + bim").iterations == 20
    assert attack("pgd + mi").random_start
    assert attack("cospgd + mi").objective == CosPGD()
    assert attack("l2(eps=1) + mi").threat == L2(1)
    assert attack("cospgd + crossentropy").objective == CrossEntropy(), "but a part always does"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segpdg", "unknown attack or part 'segpdg'; did you mean segpgd"),
        ("mi + re-map", "unknown attack or part 're-map'; did you mean remap"),
        ("qqqq", "unknown attack or part 'qqqq'; known: "),
        ("remap(gird=2)", "unknown setting of remap 'gird'; did you mean grid?"),
        ("admix(shape=2)", "unknown setting of admix 'shape'; did you mean share?"),
        ("admix(share=2)", "Admix share is 2; allowed are numbers from 0 to 1"),
        ("mi(iteration=2)", "unknown setting of mi 'iteration'; did you mean iterations?"),
        ("mi(objective=3)", "unknown setting of mi 'objective'; known: iterations, precision, random_start, step_size"),
        ("mi(threat='x')", "unknown setting of mi 'threat'"),
        ("", "attack '' has an empty term; write for example"),
        ("mi +", "attack 'mi +' has an empty term"),
        ("mi ++ ti", "has an empty term"),
        ("mi(", "cannot read attack term 'mi('"),
        ("mi)", "cannot read attack term"),
        ("mi ti", "cannot read attack term 'mi ti'; write name or name(setting=value, …)"),
        ("8/255", "cannot read attack term '8/255'"),
        ("remap(2)", "cannot read the settings of attack term 'remap(2)'; write name(setting=value, …)"),
        ("remap(grid=)", "cannot read the settings"),
        ("remap(grid=1, grid=2)", "cannot read the settings"),
        ("remap(**{'grid': 2})", "cannot read the settings"),
        ("remap(grid=two)", "cannot read the settings"),
        ("linf(eps=8/0)", "cannot read the settings"),
        ("remap(grid=(1, 2)/3)", "cannot read the settings"),
        ("remap(grid=__import__('os').getcwd())", "cannot read the settings"),
        ("remap(grid=1) or mi()", "cannot read"),
        ("remap(grid=3)(copies=2)", "cannot read the settings"),
        ("mi()()", "cannot read the settings"),
        ("remap(grid=0)", "Remap grid is 0; allowed are whole numbers from 1"),
        ("remap(grid=2.5)", "Remap grid is 2.5; allowed are whole numbers from 1"),
        ("remap(grid='two')", "Remap grid is 'two'; allowed"),
        ("remap(window=2)", "remap window is 2: input should be a valid tuple"),
        ("remap(window=(1, 'x'))", "remap window is (1, 'x'): input should be a valid number"),
        ("smooth(size=4)", "Smooth size is 4; allowed are odd numbers from 1"),
        ("smooth(sigmas=1e400)", "Smooth sigmas is inf; allowed are numbers from 0"),
        ("momentum(decay=-1)", "Momentum decay is -1; allowed are numbers from 0"),
        ("nesterov(decay=1e400)", "Nesterov decay is inf; allowed are numbers from 0"),
        ("attribution(oppose=1e400)", "Attribution oppose is inf; allowed are numbers from 0"),
        ("adam(floor=1e400)", "Adam floor is inf; allowed are numbers above 0"),
        ("momentum(decay='x')", "Momentum decay is 'x'; allowed are numbers from 0"),
        ("mi(random_start='no')", "mi random_start is 'no': input should be a valid boolean"),
        ("mi(step_size=2)", "step_size is 2; images are in [0, 1], so write 2/255"),
        ("mi(iterations=-1)", "iterations is -1; allowed"),
        ("mi(iterations=True)", "iterations is True; allowed"),
        ("linf(eps=8)", "eps is 8; images are in [0, 1], so write 8/255 for 8 grey levels"),
        ("linf(eps=-1/255)", "eps is -0.0039"),
        ("linf(eps='much')", "eps is 'much'; allowed are numbers and fractions such as 8/255"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        attack(text)
    assert "\n" not in str(error.value)


@each_entry
def test_entries_are_complete(entry: Entry) -> None:
    assert ENTRIES[entry.name] is entry
    assert re.fullmatch(r"[a-z0-9-]+", entry.name)
    assert entry.title
    assert entry.family
    assert entry.provenance in ("code", "paper", "third-party", "reconstruction", "control")
    if entry.provenance != "control":
        assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/\S+|pp\. \d+–\d+|https://\S+", entry.paper)
        assert re.search(r"20[12]\d$", entry.venue)


def test_entries_take_at_most_six_lines() -> None:
    rooms = Path(catalogue.__file__).parent.glob("*.py")
    calls = [node for room in rooms for node in ast.walk(ast.parse(room.read_text())) if isinstance(node, ast.Call)]
    entries = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Entry"]
    assert len(entries) == len(ENTRIES)
    assert not [ast.unparse(entry) for entry in entries if (entry.end_lineno or 0) - entry.lineno >= 6]


@each_part
def test_methods_of_a_part_take_at_most_forty_lines(part: type[Part]) -> None:
    """Lines of code in all of them together, but for the one that checks the settings."""
    text = textwrap.dedent(inspect.getsource(part))
    (source,) = ast.parse(text).body
    assert isinstance(source, ast.ClassDef)
    methods = [m for m in source.body if isinstance(m, ast.FunctionDef) and m.name != "__post_init__"]
    bodies = [m.body[1:] if ast.get_docstring(m) else m.body for m in methods]
    # Comments belong to no statement, and what stands above a method's body is its signature.
    code = {n for body in bodies for s in body for n in range(s.lineno, (s.end_lineno or s.lineno) + 1)}
    lines = text.splitlines()
    assert sum(bool(lines[n - 1].split("#")[0].strip()) for n in code) <= 40


@each_entry
def test_entries_are_spelled_by_their_name(entry: Entry) -> None:
    assert attack(entry.name) == entry.attack
    assert attack(f"{entry.name}(iterations=3)") == changed(entry.attack, iterations=3)


@each_entry
def test_evaluations_are_known_before_running(entry: Entry) -> None:
    result = entry.attack.perturb(Context(), images(1, (8, 9)), labels(1, (8, 9)))
    assert result.evaluations == entry.attack.evaluations


@each_entry
def test_repr_is_the_value(entry: Entry) -> None:
    names = {cls.__name__: cls for cls in PARTS.values()}
    assert eval(repr(entry.attack), {**names, "Attack": Attack, "WorstCase": WorstCase}) == entry.attack


def test_no_two_entries_are_the_same_attack() -> None:
    assert len({entry.attack for entry in ENTRIES.values()}) == len(ENTRIES)
    assert len({repr(entry.attack) for entry in ENTRIES.values()}) == len(ENTRIES)


def test_every_concrete_part_is_registered() -> None:
    """Whatever module it was defined in, which anything that imports the package has loaded."""
    classes, unseen = set[type](), list[type](get_args(Part))
    while unseen:
        classes.add(cls := unseen.pop())
        unseen += cls.__subclasses__()
    ours = {cls for cls in classes if cls.__module__.startswith("segtrans.")}
    assert set(PARTS.values()) == {cls for cls in ours if not cls.__abstractmethods__}
    assert {"remap", "resize", "rescale", "scale", "momentum", "nesterov", "smooth", "linf", "l2"} <= set(PARTS)


@each_part
def test_parts_are_frozen_values_with_defaults(part: type[Part]) -> None:
    value = part()
    assert value == part()
    assert hash(value) == hash(part())
    assert eval(repr(value), {part.__name__: part}) == value
    assert compose(value) != compose() or value in (CrossEntropy(), LInf(), Everywhere(), Untargeted(), Steepest())
    for field in fields(value):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)


@each_part
def test_parts_are_spelled_by_their_name(part: type[Part]) -> None:
    # An entry of the same name comes first; it holds the part.
    name = part.__name__.lower()
    assert attack(name) == (ENTRIES[name].attack if name in ENTRIES else compose(part()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("universal(tile=4)", compose(Universal(tile=4))),
        (
            "margin(confidence=1, iterations=3)",
            replace(ENTRIES["margin"].attack, objective=Margin(confidence=1), iterations=3),
        ),
        ("patch(side=0.5, row=0)", replace(ENTRIES["patch"].attack, area=Patch(side=0.5, row=0))),
        ("cospgd(probabilities='sigmoid')", ENTRIES["cospgd-sigmoid"].attack),
    ],
)
def test_entries_take_the_settings_of_the_part_whose_name_they_bear(text: str, value: Attack) -> None:
    assert attack(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patch(size=3)", "unknown setting of patch 'size'; did you mean side"),
        ("patch(side=1.5)", "Patch side is 1.5; allowed"),
        ("patch(side='x')", "patch side is 'x': input should be a valid number"),
        ("patch(area=3)", "unknown setting of patch 'area'"),
        ("mi(decay=0)", "known: iterations, precision, random_start, step_size; its part momentum"),
        ("hide(index=3)", "its part hideclass has one, so spell the attack out, with hideclass(index=…)"),
        ("bsr(copies=3)", "its part shuffle has one"),
        ("noise(eps=3/255)", "its part linf has one"),
    ],
)
def test_and_no_others(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        attack(text)


def test_si_is_ni_with_darker_copies() -> None:
    assert ENTRIES["si"].attack == Attack(transforms=(Scale(copies=5),), gradients=(Nesterov(),))
    assert ENTRIES["si"].attack.evaluations == 50


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("mi(iterations=20) + segpgd(iterations=10)", "iterations", 10),
        ("segpgd + mi(random_start=False)", "random_start", False),
        ("fgsm + mi(iterations=10)", "iterations", 10),
        ("fgsm + mi", "iterations", 1),
    ],
)
def test_a_setting_that_is_given_counts_even_at_its_default(text: str, field: str, value: object) -> None:
    assert getattr(attack(text), field) == value


@pytest.mark.parametrize(
    ("text", "eps", "iterations", "alpha"),
    [
        ("mi", 4 / 255, 3, 1 / 255),
        ("mi(iterations=20)", 4 / 255, 20, 1 / 255),
        ("mi(iterations=10)", 4 / 255, 10, 1 / 255),
        ("linf(eps=16/255) + mi", 16 / 255, 3, 1 / 255),
        ("linf(eps=8/255) + mi(iterations=20, step_size='eps/T')", 8 / 255, 20, 8 / 255 / 20),
        ("linf + mi", 4 / 255, 3, 1 / 255),
        ("projection(iterations=5) + mi", 4 / 255, 3, 1 / 255),
        ("fgsm", 4 / 255, 1, 4 / 255),
    ],
)
def test_what_an_attack_says_itself_comes_before_the_protocol(
    text: str, eps: float, iterations: int, alpha: float
) -> None:
    found = attack(text, eps="4/255", iterations=3, step_size="1/255")
    assert (found.threat.radius, found.iterations) == (eps, iterations)
    assert found.alpha == pytest.approx(alpha)


def test_the_comparison_of_the_whole_catalogue_has_every_entry() -> None:
    """All but those that need a target of the user's own."""
    configs = Path(__file__).resolve().parents[2] / "configs"
    compared = {name for path in configs.glob("catalogue*.yaml") for name in read_config(path)["attacks"]}
    assert ENTRIES.keys() - compared == {"towards", "towards-cospgd"}

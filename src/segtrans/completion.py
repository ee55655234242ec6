"""What the shell offers when a word is completed, read from the text of this package: importing it takes seconds."""

import ast
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from segtrans.paths import at_home

Offer = tuple[str, str]
"""A whole word, and what to say about it."""

LISTINGS = ["attacks", "parts", "models", "datasets"]
"""What ``segtrans list`` lists."""

_HERE = Path(__file__).parent
_cut = ""
"""What stands in the word before the piece that bash completes; see :func:`mend_words`."""


def attacks(incomplete: str) -> list[Offer]:
    """The catalogue's names; after a plus, those that could follow it."""
    before = re.match(r"(.*\+\s*)?", _cut + incomplete, re.DOTALL)
    assert before is not None, "the pattern matches the empty string"
    return _offered(before[0], _entries())


def models(incomplete: str) -> list[Offer]:
    """The embedded models and the other sources; in an ensemble, those that could be its next member."""
    sources = [*_table("models/load.py")]
    ensembles = "|".join(name for name, what in sources if what.startswith("an ensemble"))
    before = re.match(rf"((?:{ensembles})(?:.*,)?)?", _cut + incomplete)
    assert before is not None, "the pattern matches the empty string"
    folders = (_HERE / "zoo" / "weights", _HERE.parents[1] / "zoo")
    cards = [path.relative_to(root).with_suffix("") for root in folders for path in sorted(root.glob("*/*.json"))]
    zoo = {f"zoo:{name.as_posix()}": "embedded" for name in sorted(cards)}
    return _offered(before[0], (zoo | {name: what for name, what in sources if name != "zoo:"}).items())


def data(incomplete: str) -> list[Offer]:
    """The sources of data and, behind a source's colon, folders."""
    source, colon, path = (_cut + incomplete).partition(":")
    if not colon:
        return _offered("", _table("data/load.py"))
    parent, name = os.path.split(path)
    try:
        inside = sorted(entry.name for entry in os.scandir(at_home(parent)) if entry.is_dir())
    except OSError:
        inside = []
    before = f"{source}:{parent}{'' if parent in ('', '/') else '/'}"
    return _offered(before, [(f"{folder}/", "") for folder in inside if folder.startswith(name)])


def mend_words() -> None:
    """Joins what bash cuts at colons and equals signs: ``zoo:voc/x`` comes as three words, of which it replaces the
    last alone. The words are passed on in the environment without the pieces before it, and offers go without them.
    """
    global _cut
    words: list[str] = []
    for word in os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]:
        if words and word and (word[0] in ":=" or words[-1].endswith((":", "="))):
            words[-1] += word
        else:
            words.append(word)
    place = max(words[-1].rfind(":"), words[-1].rfind("=")) + 1
    _cut, last = words[-1][:place], words[-1][place:]
    if _cut.startswith("-"):
        option, _, _cut = _cut.partition("=")
        words.insert(-1, option)
    words[-1] = last
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}


def _offered(before: str, offers: Iterable[Offer]) -> list[Offer]:
    whole = ((f"{before}{name}", what) for name, what in offers)
    return [(name.removeprefix(_cut), what) for name, what in whole if name.startswith(_cut)]


def _entries() -> Iterator[Offer]:
    for path in sorted((_HERE / "catalogue").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                said = {k.arg: str(k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)}
                if "name" in said and "title" in said:
                    yield said["name"], said["title"]


def _table(path: str) -> Iterator[Offer]:
    """The first column of the table in a loader's docstring, as far as it is not the user's to fill in; the second."""
    for name, what in re.findall(r"^ +``([a-z0-9]+:?)[^`]*``.*?  +(.*)$", (_HERE / path).read_text("utf-8"), re.M):
        yield name, what.replace("``", "")

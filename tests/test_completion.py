"""What shells offer, through the protocol that they speak: words in environment variables, offers as lines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segtrans import completion
from segtrans.catalogue import ENTRIES
from segtrans.data import READERS
from segtrans.listing import LISTINGS
from segtrans.models.load import SOURCES
from segtrans.zoo import cards

HEAVY = {"torch", "torchvision", "numpy", "scipy", "matplotlib", "transformers", "timm", "jinja2", "PIL"}
ZOO = [f"zoo:{name}" for name in cards()]


def python(code: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def offered(shell: str, words: str, number: int | None = None) -> list[str]:
    """``words`` are the line for zsh and fish; for bash, lines of words as it cuts them."""
    said = {"COMP_WORDS": words, "COMP_CWORD": str(number)} if shell == "bash" else {"_TYPER_COMPLETE_ARGS": words}
    asked = {"_SEGTRANS_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return python("from segtrans.cli import main; main()", **said, **asked).splitlines()


@pytest.mark.parametrize(
    ("before", "last", "offers"),
    [
        ("run -a", "segtrans-k", ["segtrans-k5", "segtrans-k20"]),
        ("attack x.png -a", "segpgd+segtrans-k", ["segpgd+segtrans-k5", "segpgd+segtrans-k20"]),
        ("run -s zoo :", "voc/deeplabv3p", [n[4:] for n in ZOO if n.startswith("zoo:voc/deeplabv3p")]),
        ("run -s zoo", ":", [name[4:] for name in ZOO]),
        ("run --surrogate = zoo :", "voc/fcn-m", ["voc/fcn-mobilenetv3s"]),
        ("doctor -m loss : zoo : voc/x,zoo :", "voc/fcn-m", ["voc/fcn-mobilenetv3s"]),
        ("run -t zoo : voc/x -o eps = 8/255 --data", "ci", ["cityscapes:"]),
        ("list", "", list(LISTINGS)),
        ("run", "--work", ["--workers"]),
        ("", "att", ["attack"]),
    ],
)
def test_bash(before: str, last: str, offers: list[str]) -> None:
    words = ["segtrans", *before.split(), last]
    assert offered("bash", "\n".join(words), len(words) - 1) == offers


def test_quoted_words_in_bash_are_one() -> None:
    assert offered("bash", 'segtrans\nrun\n-a\n"segpgd + segtrans-k2', 3) == ["segpgd + segtrans-k20"]


def test_zsh_and_fish_get_explanations_too() -> None:
    (line,) = offered("fish", "segtrans run -a segtrans-k2")
    name, what = line.split("\t")
    assert (name, what) == ("segtrans-k20", ENTRIES["segtrans-k20"].title)
    # zsh parts names from explanations at colons that are not escaped.
    assert r'"zoo\\:voc/fcn-mobilenetv3s":' in "".join(offered("zsh", "segtrans run -t zoo:voc/fcn-m"))


def test_every_explanation_is_on_one_line() -> None:
    lines = offered("fish", "segtrans run -a ")
    assert dict(line.split("\t") for line in lines) == {name: entry.title for name, entry in ENTRIES.items()}


def test_folders_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOC.tar").touch()
    assert completion.data(f"voc:{tmp_path}/VO") == [(f"voc:{tmp_path}/VOCdevkit/", "")]
    assert completion.data(f"voc:{tmp_path}/nowhere/") == []
    monkeypatch.chdir(tmp_path)
    assert completion.data("voc:V") == [("voc:VOCdevkit/", "")]


def test_offers_are_what_there_is() -> None:
    assert dict(completion.attacks("")) == {n: e.title for n, e in ENTRIES.items()}
    assert {name.rstrip(":") for name, _ in completion.data("")} == {*READERS}
    models = {name for name, _ in completion.models("")}
    assert {name for name in models if name.startswith("zoo:")} == {*ZOO}
    assert {name.rstrip(":") for name in models - {*ZOO}} == {*SOURCES} - {"zoo"}
    assert list(LISTINGS) == completion.LISTINGS


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--help"], {}),
        (["run", "--help"], {}),
        ([], {"_SEGTRANS_COMPLETE": "complete_bash", "COMP_WORDS": "segtrans\nrun\n-a\nm", "COMP_CWORD": "3"}),
        ([], {"_SEGTRANS_COMPLETE": "complete_bash", "COMP_WORDS": "segtrans\nrun\n-s\nz", "COMP_CWORD": "3"}),
    ],
)
def test_help_and_completion_wait_for_nothing_heavy(arguments: list[str], environment: dict[str, str]) -> None:
    code = """
import sys
from segtrans.cli import main
try:
    main()
except SystemExit:
    print("\\nimported", *sys.modules)
"""
    said, _, imported = python(code, *arguments, **environment).partition("\nimported ")
    assert len(said) > 5
    assert "typer" in imported.split()
    assert HEAVY.isdisjoint(imported.split())
    # Where there is pydantic, typer itself takes it to check the types of a command's options.
    assert "pydantic" not in imported.split() or arguments != ["--help"]


def test_the_package_itself_imports_nothing() -> None:
    found = python("import sys, segtrans; print(*(name for name in sys.modules if name.startswith('segtrans')))")
    assert found.split() == ["segtrans"]

"""What README and docs say to run runs, and links lead somewhere."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import typer
import yaml
from torch import nn
from typer.testing import CliRunner

from segtrans import bench, cli, config
from segtrans.catalogue import attack

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLLOWED = [page for page in PAGES if page.parent.name == "how-to" or page.name == "tutorial.md"]
"""Pages whose commands are run too, in the order in which they stand, between the Python."""

PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]{2,}\b|…")
"""Words in capitals stand for folders of the reader's; a command with one is only parsed."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """Language, title and text of every block with a language."""
    yield from re.findall(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```', page.read_text(encoding="utf-8"), re.M | re.S)


def commands(text: str) -> list[list[str]]:
    """The arguments of every ``segtrans`` in a console block."""
    lines = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [words[1:] for words in lines if words[:1] == ["segtrans"]]


class Segmentor(nn.Module):
    """What `init_model` of mmsegmentation makes, as far as it is looked at."""

    def __init__(self, *_: str) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 21, 3, padding=1)
        self.decode_head = SimpleNamespace(num_classes=21)
        self.data_preprocessor = SimpleNamespace(channel_conversion=True)

    def encode_decode(self, inputs: torch.Tensor, _: list[dict[str, Any]]) -> torch.Tensor:
        return self.backbone(inputs)


@pytest.fixture
def mmsegmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library in name; it need not be installed."""
    package, apis = ModuleType("mmseg"), ModuleType("mmseg.apis")
    apis.__dict__["init_model"] = Segmentor
    monkeypatch.setitem(sys.modules, "mmseg", package)
    monkeypatch.setitem(sys.modules, "mmseg.apis", apis)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, where every run takes two images, without which there is no interval, and one iteration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    make = config.make_config
    for module in (config, bench):
        monkeypatch.setattr(module, "make_config", lambda values: make({**values, "limit": 2, "iterations": 1}))


# foolbox imports a function from where SciPy no longer wants it.
@pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")
@pytest.mark.usefixtures("small", "mmsegmentation")
@each_page
def test_a_page_runs(page: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Conv2d(3, 21, 3, padding=1)
    names: dict[str, Any] = {
        "__name__": "page",
        "network": network,
        "images": torch.linspace(0, 1, 3 * 16 * 24).view(1, 3, 16, 24),
        "labels": torch.zeros(1, 16, 24, dtype=torch.int64),
    }
    before = {*sys.modules}
    for language, title, text in blocks(page):
        if title:
            Path(title).write_text(text, encoding="utf-8")
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
        if language == "console" and page in FOLLOWED and not PLACEHOLDER.search(text):
            for words in commands(text):
                found = CliRunner().invoke(cli.app, words)
                assert found.exit_code == 0, f"{words}: {found.exception or found.output}"
    for name in {*sys.modules} - before:
        if (Path.cwd() / f"{name}.py").is_file():
            del sys.modules[name]
    if page.name == "README.md":
        assert 0 < float((names["adversarial"] - names["images"]).abs().max()) <= 8 / 255 + 1e-7


@each_page
def test_commands_parse(page: Path) -> None:
    for _, _, text in (block for block in blocks(page) if block[0] == "console"):
        for words in commands(text):
            command: Any = typer.main.get_command(cli.app)
            while hasattr(command, "commands") and not words[0].startswith("-"):
                command, words = command.commands[words[0]], words[1:]
            values = command.make_context(command.name, [*words], resilient_parsing="--version" in words).params
            for name in values.get("attack") or ():
                if not PLACEHOLDER.search(name):
                    attack(name)


@pytest.mark.parametrize("text", [text for page in PAGES for language, _, text in blocks(page) if language == "yaml"])
def test_configurations_are_valid(text: str) -> None:
    for name in config.make_config(yaml.safe_load(text)).attacks:
        attack(name)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"

"""The Python of README and docs runs as it stands, and links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from segtrans.catalogue import attack
from segtrans.spec import make_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    return [source for text in texts for source in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


# foolbox imports a function from where SciPy no longer wants it.
@pytest.mark.filterwarnings("ignore:Please import `gaussian_filter`:DeprecationWarning")
@pytest.mark.parametrize("source", blocks("python"))
def test_python_runs(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Conv2d(3, 21, 3, padding=1)
    names = {
        "network": network,
        "images": torch.linspace(0, 1, 3 * 16 * 24).view(1, 3, 16, 24),
        "labels": torch.zeros(1, 16, 24, dtype=torch.int64),
    }
    exec(compile(source, "README.md", "exec"), names)
    if "adversarial" in names:
        assert 0 < float((names["adversarial"] - names["images"]).abs().max()) <= 8 / 255 + 1e-7


@pytest.mark.parametrize("source", blocks("yaml"))
def test_configurations_are_valid(source: str) -> None:
    config = make_config(yaml.safe_load(source))
    for name in config.attacks:
        attack(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"

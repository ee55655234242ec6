"""The site builds without a warning, holds what is public, and fetches nothing from elsewhere."""

import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from segtrans.catalogue import ENTRIES

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//|"""
    r"""<link\b(?![^>]*rel=["']?(?:canonical|next|prev))[^>]*\bhref=["']?(?:https?:)?//|"""
    r"""(?:@import\s*|url\()["']?(?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("needs MkDocs: pip install 'segtrans[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    surroundings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    for page in pages:
        assert not FETCHED.search(read(page)), page


def test_the_catalogue_is_complete(site: Path) -> None:
    names = re.findall(r"<tr>\s*<td><code>([\w-]+)</code></td>", read(site / "catalogue" / "index.html"))
    assert sorted(names) == sorted(ENTRIES)


def test_the_reference_holds_what_is_public(site: Path) -> None:
    for page in (site / "reference").iterdir():
        module = import_module(f"segtrans.{page.name}")
        html = read(page / "index.html")
        for name in getattr(module, "__all__", ()):
            assert f'id="segtrans.{page.name}.{name}"' in html, f"{page.name} lacks {name}"
        assert not re.search(r":(class|func|meth|attr|mod|data):", html), page.name
        assert "=====" not in html, page.name


def test_no_page_is_left_out_of_the_navigation(site: Path) -> None:
    first = read(site / "index.html")
    for page in site.rglob("index.html"):
        place = page.parent.relative_to(site).as_posix()
        assert place == "." or f'href="{place}/" class="md-nav__link"' in first, place

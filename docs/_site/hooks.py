"""What the site makes from the repository while it is built: its first page, the catalogue, examples, reference."""

import ast
import re
from inspect import getdoc
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from segtrans.catalogue import Entry
from segtrans.listing import attacks

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "catalogue", "attack", "threat", "areas", "goals", "objectives", "transforms", "backward", "gradients", "steps",
    "queries", "worst", "models", "data", "bench", "metrics", "report", "doctor", "testing", "run", "random",
    "composition", "io", "bank", "memory", "interop", "interop.hub", "models.mmseg", "models.onnx", "models.layout",
)  # fmt: skip
"""The public modules, from what most people need to what only writers of parts do."""


def on_config(config: Any) -> None:
    config.nav.append({"Reference": [f"reference/{module}.md" for module in MODULES]})


def on_files(files: Files, config: Any) -> None:
    pages = {"index.md": _index(), "catalogue.md": _catalogue(), "examples.md": _examples()}
    pages |= {f"reference/{module}.md": _reference(module) for module in MODULES}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))


def _reference(module: str) -> str:
    """Everything in a module, and of `segtrans.interop` a table that has no docstring too."""
    options = "    options:\n      show_if_no_docstring: true\n" if module == "interop" else ""
    return f"# segtrans.{module}\n\n::: segtrans.{module}\n{options}"


def _index() -> str:
    """The README, whose links lead from the repository's root."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", re.sub(r"\]\(examples/[^)]*\)", "](examples.md)", text))


def _catalogue() -> str:
    """What `segtrans list attacks` shows, a table for each family."""
    rows = attacks()
    provenance = (getdoc(Entry) or "").partition("provenance: ")[2].replace("``", "`")
    intro = (
        f"All {len(rows)} named attacks, as `segtrans list attacks` prints them. *Gradients* are evaluations per "
        "iteration on one surrogate; a number after a plus is spent once, before the first. *Provenance* is "
    )
    parts = ["---\nhide: [toc]\n---\n\n# Catalogue", intro + " ".join(provenance.split())]
    for family in dict.fromkeys(row["family"] for row in rows):
        lines = [
            "| name | what | composition | paper | venue | gradients | iterations | provenance |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row["family"] == family:
                gradients = f"{row['gradients per iteration']}{f' + {p}' if (p := row['preparation']) else ''}"
                cells = (
                    f"`{row['name']}`", row["title"], f"`{row['composition']}`".replace(" | ", "` or `"),
                    _linked(row["paper"]), row["venue"], gradients, row["iterations"],
                    row["provenance"],
                )  # fmt: skip
                lines.append(f"| {' | '.join(map(str, cells))} |")
        parts += [f"## {family.capitalize()}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _linked(paper: str) -> str:
    """A paper's identifier as a link, where it has an address."""
    kind, _, number = paper.partition(":")
    address = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}.get(kind)
    return f"[{paper}]({address}{number})" if address else paper


def _examples() -> str:
    """Every script of `examples/` under the first line of its docstring."""
    parts = ["# Examples", "Each runs offline and is run by the tests; they lie in `examples/` of the repository."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(source)) or path.stem).splitlines()[0].rstrip(".")
        parts.append(f"## {title}\n\n`examples/{path.name}`\n\n```python\n{source}```")
    return "\n\n".join(parts) + "\n"

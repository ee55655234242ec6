"""What the site makes from the repository while it is built: its first page, the catalogue, examples, reference."""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "catalogue", "attack", "threat", "areas", "goals", "objectives", "transforms", "backward", "gradients", "steps",
    "universal", "ensembles", "queries", "worst", "models", "data", "bench", "metrics", "report", "doctor", "testing",
    "run", "random", "composition",
)  # fmt: skip
"""The public modules, from what most people need to what only writers of parts do."""


def on_config(config: Any) -> None:
    config.nav.append({"Reference": [f"reference/{module}.md" for module in MODULES]})


def on_files(files: Files, config: Any) -> None:
    pages = {"index.md": _index(), "catalogue.md": _catalogue(), "examples.md": _examples()}
    pages |= {f"reference/{module}.md": f"# segtrans.{module}\n\n::: segtrans.{module}\n" for module in MODULES}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))


def _index() -> str:
    """The README, whose links lead from the repository's root."""
    return re.sub(r"\]\(docs/", "](", (ROOT / "README.md").read_text(encoding="utf-8"))


def _catalogue() -> str:
    """What `segtrans list attacks` shows, a table for each family."""
    from segtrans.catalogue.entry import Entry
    from segtrans.listing import attacks

    rows = attacks()
    lines = [
        "# Catalogue",
        f"All {len(rows)} named attacks, as `segtrans list attacks` prints them. *Gradients* are per iteration on one "
        "surrogate, `+ n` those of preparation before the first. *Provenance* says what our version rests on:",
        Entry.__doc__ or "",
    ]
    return "\n\n".join(lines)


def _examples() -> str:
    """Every script of `examples/` under the first line of its docstring."""
    parts = ["# Examples", "Each runs offline and is run by the tests; they lie in `examples/` of the repository."]
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        title = (ast.get_docstring(ast.parse(source)) or path.stem).splitlines()[0].rstrip(".")
        parts.append(f"## {title}\n\n`examples/{path.name}`\n\n```python\n{source}```")
    return "\n\n".join(parts) + "\n"

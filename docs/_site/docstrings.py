"""Docstrings as the site needs them: roles and papers become links, tables of reStructuredText become Markdown."""

import re
from typing import Any

import griffe

ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
SHARED = re.compile(r"^    ((?:\w+, )+\w+): (.*(?:\n {8,}.*)*)", re.MULTILINE)
RULE = re.compile(r"^(=+)\s+=+$")


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(lambda role: _link(obj, role[2], short=bool(role[1])), obj.docstring.value)
            text = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)
            # Attributes that share a description get it each; the parser would take the second for a type.
            text = SHARED.sub(lambda found: "\n".join(f"    {name}: {found[2]}" for name in found[1].split(", ")), text)
            obj.docstring.value = _tables(text)


def _link(obj: griffe.Object, name: str, *, short: bool) -> str:
    """A link where the site has a place for ``name``, else its plain spelling."""
    try:
        target = obj.resolve(name)
    except griffe.NameResolutionError:
        target = name
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref optional identifier="{target}"><code>{shown}</code></autoref>'


def _tables(text: str) -> str:
    """``text`` with its two-column tables in Markdown."""
    lines: list[str] = []
    width = 0
    for line in text.splitlines():
        rule = RULE.match(line.strip())
        if rule and not width:
            width = len(rule[1])
            lines += ["| | |", "|---|---|"]
        elif rule:
            width = 0
        elif width:
            lines.append(f"| {line[:width].strip()} | {line[width:].strip()} |")
        else:
            lines.append(line)
    return "\n".join(lines)

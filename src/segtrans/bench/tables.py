"""Cells and costs of a run as tables for other programs."""

import csv
import io
from pathlib import Path
from typing import Any

from segtrans.errors import optional
from segtrans.io import write_atomically

Row = dict[str, Any]


def flat(entries: list[Row]) -> list[Row]:
    """Cells or costs with intervals as two columns."""
    return [
        {
            key: value
            for name, inner in entry.items()
            for key, value in (
                [(f"{name}_low", inner[0]), (f"{name}_high", inner[1])] if isinstance(inner, list) else [(name, inner)]
            )
        }
        for entry in entries
    ]


def as_csv(entries: list[Row]) -> str:
    """Cells or costs as CSV.

    Names are on one line, and begin with an apostrophe, as spreadsheets mark text, where those would see a formula.
    """
    buffer, rows = io.StringIO(), flat(entries)
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: _inert(v) if isinstance(v, str) else v for key, v in row.items()} for row in rows])
    return buffer.getvalue()


def write_parquet(path: Path, entries: list[Row]) -> None:
    """Cells or costs as Parquet, names as they are and undefined measures as null.

    Raises:
        MissingError: pyarrow is not installed.
    """
    with optional("Parquet", "tables"):
        import pyarrow
        from pyarrow import parquet
    table = pyarrow.Table.from_pylist(flat(entries))
    write_atomically(path, lambda temporary: parquet.write_table(table, temporary))


def _inert(name: str) -> str:
    line = " ".join(name.split())
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line

"""What is there, what a configuration may say, and downloads."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segtrans import completion
from segtrans.cli.options import AsJson, Quiet, command
from segtrans.cli.output import print_json
from segtrans.errors import check_number, unknown


@command("segtrans fetch https://example.org/data.tgz data.tgz --sha256 HASH --unpack data")
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="http or https.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The new file.")],
    sha256: Annotated[
        str | None, typer.Option(metavar="HASH", help="The hash it must have; with it a broken download goes on.")
    ] = None,
    unpack: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="New folder for the files of an archive.")
    ] = None,
    most: Annotated[float, typer.Option(metavar="GIB", help="GiB; larger files are refused.")] = 32,
    quiet: Quiet = False,
) -> None:
    """Download data or weights, checked, and unpack them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from segtrans.fetch import fetch as download
    from segtrans.unpack import check_new
    from segtrans.unpack import unpack as unpack_into

    check_number("--most", most, 0)
    if unpack is not None:
        check_new(unpack)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(out.name, total=None)
        found = download(
            url,
            out,
            sha256=sha256,
            most=int(most * 2**30),
            on_bytes=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if sha256 is None:
        console.print(
            f"not checked: nothing tells that this is the file you meant; to get the same again, give --sha256 {found}",
            soft_wrap=True,
            highlight=False,
        )
    if unpack is not None:
        unpack_into(out, unpack)


@command("segtrans list attacks", "segtrans list models --json", name="list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help=f"{', '.join(completion.LISTINGS)}.", autocompletion=lambda: completion.LISTINGS
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what there is."""
    from segtrans.listing import LISTINGS

    if what not in LISTINGS:
        raise unknown("listing", what, LISTINGS)
    rows = LISTINGS[what]()
    if as_json:
        print_json(rows)
        return
    from segtrans.report.table import print_rows

    # A table cut to 80 columns loses its last words when it is piped somewhere.
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    print_rows(rows, Console(width=None if known else 200))


@command("segtrans schema > schema.json")
def schema() -> None:
    """Print the JSON Schema of configuration files, with which editors check and explain them."""
    from segtrans.config import json_schema

    print_json(json_schema())

"""Commands on the folder of a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from segtrans.cli.options import AsJson, Quiet, What, command
from segtrans.cli.output import print_json


@command("segtrans report runs/demo", "segtrans report runs/new --against runs/old")
def report(
    run: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a run.")],
    against: Annotated[Path | None, What(metavar="FOLDER", help="Folder of another run to compare it with.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's page, pictures and figures again; the numbers stay as they are."""
    from segtrans.report import write_report

    written = write_report(run, against)
    if as_json:
        print_json({"wrote": [str(path) for path in written]})
    elif not quiet:
        sys.stdout.writelines(f"wrote {path}\n" for path in written)


@command("segtrans tables runs/demo")
def tables(
    run: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a run.")], quiet: Quiet = False
) -> None:
    """Write a run's cells and costs as Parquet files, beside the CSV files that are there."""
    from segtrans.bench.tables import write_parquet
    from segtrans.report.content import read_document

    result = read_document(run)
    for name in ("cells", "costs"):
        write_parquet(run / f"{name}.parquet", result[name])
        if not quiet:
            sys.stdout.write(f"wrote {run / f'{name}.parquet'}\n")

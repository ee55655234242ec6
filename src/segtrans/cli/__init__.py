"""The command line. Heavy imports wait inside the commands, so that help and errors come at once."""

import io
import os
import sys
from typing import Annotated

import typer

import segtrans
from segtrans import completion
from segtrans.cli.options import app
from segtrans.cli.output import print_error
from segtrans.errors import SegtransError
from segtrans.memory import keep_freed_memory

# isort: off
# Help shows commands in the order in which they are imported.
from segtrans.cli import runs, results, models, tools, zoo

__all__ = ["app", "main", "models", "results", "runs", "tools", "zoo"]


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"segtrans {segtrans.__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: errors a user can cause become one sentence and a documented exit code."""
    if shell := os.environ.get("_SEGTRANS_COMPLETE"):
        # A line per offer, however narrow the terminal: what does not fit would be offered as words of its own.
        os.environ["TERMINAL_WIDTH"] = "1000"
        if shell == "complete_bash":
            completion.mend_words()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Signs that an encoding lacks are no reason to end a run.
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="segtrans")
    except SegtransError as error:
        print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        # A full disk or a folder that was taken away; what is finished is kept.
        if isinstance(error, BrokenPipeError):
            # The reader of a pipe went away; what is left to flush has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            print_error(f"{error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(1)

"""Commands that attack and score."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer
import yaml
from rich.console import Console

from segtrans.cli.options import SWITCHES, AsJson, FileOptions, Quiet, RunOptions, Shown, command
from segtrans.cli.output import print_json
from segtrans.errors import UsageError

if TYPE_CHECKING:
    from segtrans.data import Dataset


@command(
    "segtrans run configs/catalogue.yaml --data voc:VOCdevkit/VOC2012 --limit 20",
    "segtrans run -s zoo:voc/pspnet-mobilenetv3s -t zoo:voc/deeplabv3plus-mobilenetv3s -a mi -a segtrans",
)
def run(**options: Unpack[FileOptions]) -> None:
    """Craft on every surrogate with every attack, score on every target."""
    values, switches = _chosen(options)
    raise typer.Exit(_run(values, **switches, data=None))


@command("segtrans plan configs/catalogue.yaml --data voc:VOCdevkit/VOC2012 --limit 20", without=("dry_run", "quiet"))
def plan(**options: Unpack[FileOptions]) -> None:
    """Show what a run with these options has to do, and what time and disk it will take, but do nothing of it."""
    from dataclasses import asdict

    from segtrans.bench import make_plan
    from segtrans.bench.estimate import estimate
    from segtrans.config import make_config

    values, switches = _chosen(options)
    found = estimate(make_plan(make_config(values)))
    if switches["as_json"]:
        print_json(asdict(found))
        return
    hours, rest = divmod(round(found.seconds), 3600)
    sys.stdout.write(
        f"{found.units} units of work on {found.images} images, {found.done} of them done\n"
        f"left: {found.gradient_evaluations:,} gradient evaluations and {found.forward_passes:,} forward passes\n"
        f"about {hours} h {rest // 60:02} min {rest % 60:02} s for one process of this machine, and "
        f"{found.disk_bytes / 2**20:,.1f} MiB of images and masks\n"
    )


@command(
    "segtrans attack cat.jpg -s zoo:voc/pspnet-mobilenetv3s -a segtrans --out runs/cat",
    "segtrans attack *.jpg -s zoo:voc/pspnet-mobilenetv3s -a mi --eps 4/255 -o save_images=false",
)
def attack(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Photographs.")], **options: Unpack[RunOptions]
) -> None:
    """Attack single photographs; each target's own clean prediction is the reference."""
    from segtrans.data.folder import FILES, files

    values, switches = _chosen({**options, "data": FILES})
    if values["data"] != FILES:
        raise UsageError(f"data is {values['data']}; segtrans attack takes photographs, segtrans run a data set")
    raise typer.Exit(_run({"pictures": len(images)} | values, **switches, data=files(images)))


@command("segtrans demo", "segtrans demo --out runs/demo --quiet")
def demo(
    out: Annotated[Path, Shown(metavar="FOLDER", help="Folder for results.")] = Path("runs/demo"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The main job on embedded photographs and models, offline: SegTrans beside the classics."""
    from segtrans.demo import CONFIG

    raise typer.Exit(_run({**CONFIG, "out": out}, as_json=as_json, quiet=quiet))


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``-o KEY=VALUE`` options, values read as YAML."""
    from segtrans.config import parsed

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"-o {pair!r} has no value; write -o KEY=VALUE")
        try:
            values[key.replace("-", "_")] = parsed(value)
        except (ValueError, yaml.YAMLError):
            raise UsageError(f"-o {pair!r}: {value!r} is not readable as YAML") from None
    return values


def _chosen(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool]]:
    """The keys of a command's configuration, of which those among its ``options`` that were given come before those of
    the file, and its switches.
    """
    from segtrans.config import read_config

    given = {key: value for key, value in options.items() if value is not None}
    switches = {name: bool(given.pop(name, False)) for name in SWITCHES}
    more = _settings(given.pop("settings", []))
    values = read_config(given.pop("config")) if "config" in given else {}
    return values | given | more, switches


def _run(
    values: dict[str, Any], *, as_json: bool, quiet: bool, dry_run: bool = False, data: "Dataset | None" = None
) -> int:
    """Do a run, show it, and return its exit code."""
    from segtrans.bench import do, make_plan
    from segtrans.bench.engines import leads
    from segtrans.config import make_config
    from segtrans.report import write_report
    from segtrans.report.costs import failures
    from segtrans.report.table import print_tables
    from segtrans.report.words import counted

    plan = make_plan(make_config(values), data)
    errors = Console(stderr=True)
    if dry_run:
        gradients = sum(map(plan.evaluations, plan.units))
        counts = {"units": len(plan.units), "images": len(plan.data), "gradient_evaluations": gradients}
        if as_json:
            print_json(counts)
        elif not quiet:
            errors.print(", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()) + ": all resolved")
        return 0
    outcome, result = do(plan, quiet=quiet)
    code = 130 if outcome.interrupted else 3 if outcome.failures else 0
    if not leads():
        return code
    # Before the page is drawn: numbers are not lost to a picture that cannot be, nor the page to a closed pipe.
    try:
        if as_json:
            print_json(result)
        elif not quiet:
            print_tables(result, Console())
    finally:
        written = write_report(plan.store.root)
    if not quiet:
        for path in written:
            errors.print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)
    if outcome.interrupted:
        done = f"{sum(map(plan.is_done, plan.units))} of {counted(len(plan.units), 'unit')} finished"
        errors.print(f"interrupted: {done}; the same command does the rest", soft_wrap=True)
    for failure in failures(result):
        errors.print(
            f"failed: {failure.named} ({failure.where}): {failure.reason}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    return code

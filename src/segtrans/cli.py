"""The command line. Heavy imports wait inside the commands, so that help and errors come at once."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

import segtrans
from segtrans.errors import SegtransError, UsageError, unknown

if TYPE_CHECKING:
    from segtrans.data import Dataset

app = typer.Typer(
    help="Measure how adversarial examples transfer between semantic segmentation models.",
    epilog="Exit codes: 0 ok, 1 unexpected, 2 usage or configuration, 3 finished but some images failed, "
    "4 missing data, extra or device, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
zoo_app = typer.Typer(help="The embedded models: check them, train new ones.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")

Surrogates = Annotated[list[str] | None, typer.Option("--surrogate", "-s", help="Model to attack; repeatable.")]
Targets = Annotated[list[str] | None, typer.Option("--target", "-t", help="Model to fool; repeatable.")]
Attacks = Annotated[list[str] | None, typer.Option("--attack", "-a", help="Attack or composition; repeatable.")]
Size = Annotated[int | None, typer.Option(help="Squeeze images to this square; default: native size.")]
Eps = Annotated[str | None, typer.Option(help="Budget of L-inf attacks, such as 8/255.")]
Iterations = Annotated[int | None, typer.Option(help="Iterations of every iterative attack.")]
StepSize = Annotated[str | None, typer.Option(help="Step of every iterative attack: 2/255, eps/4 or eps/T.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Seed; repeatable, one repetition each.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")]
Batch = Annotated[int | None, typer.Option(help="Images per forward pass.")]
Workers = Annotated[int | None, typer.Option(help="Processes that share the work.")]
Pictures = Annotated[int | None, typer.Option(help="How many images to draw with masks.")]
Out = Annotated[Path | None, typer.Option(help="Folder for results; finished work there is not done again.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no tables.")]
Settings = Annotated[list[str] | None, typer.Option("-o", help="Any configuration key: KEY=VALUE; repeatable.")]


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"segtrans {segtrans.__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="YAML file; options override it.")] = None,
    surrogate: Surrogates = None,
    target: Targets = None,
    attack: Attacks = None,
    data: Annotated[str | None, typer.Option(help="voc:PATH, cityscapes:PATH, …, photos.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    size: Size = None,
    eps: Eps = None,
    iterations: Iterations = None,
    step_size: StepSize = None,
    seed: Seeds = None,
    device: Device = None,
    batch: Batch = None,
    workers: Workers = None,
    pictures: Pictures = None,
    out: Out = None,
    setting: Settings = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Resolve and check everything, then stop.")] = False,
) -> None:
    """Craft on every surrogate with every attack, score on every target."""
    from segtrans.spec import read_config

    given = {
        "surrogates": surrogate,
        "targets": target,
        "attacks": attack,
        "data": data,
        "limit": limit,
        "size": size,
        "eps": eps,
        "iterations": iterations,
        "step_size": step_size,
        "seeds": seed,
        "device": device,
        "batch": batch,
        "workers": workers,
        "pictures": pictures,
        "out": out,
    }
    values = read_config(config) if config is not None else {}
    values |= {key: value for key, value in given.items() if value is not None} | _settings(setting or [])
    raise typer.Exit(_run(values, as_json=as_json, quiet=quiet, dry_run=dry_run))


@app.command()
def attack(
    images: Annotated[list[Path], typer.Argument(help="Photographs.")],
    surrogate: Surrogates = None,
    target: Targets = None,
    attack: Attacks = None,
    size: Size = None,
    eps: Eps = None,
    iterations: Iterations = None,
    step_size: StepSize = None,
    seed: Seeds = None,
    device: Device = None,
    out: Out = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Attack single photographs; each target's own clean prediction is the reference."""
    from segtrans.data.folder import files

    given = {
        "surrogates": surrogate,
        "targets": target,
        "attacks": attack,
        "size": size,
        "eps": eps,
        "iterations": iterations,
        "step_size": step_size,
        "seeds": seed,
        "device": device,
        "out": out,
    }
    values = {key: value for key, value in given.items() if value is not None}
    values |= {"pictures": len(images), "data": "images"}
    raise typer.Exit(_run(values, as_json=as_json, quiet=quiet, data=files(images)))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.")] = Path("runs/demo"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The main job on embedded photographs and models, offline: SegTrans beside the classics."""
    from segtrans.demo import CONFIG

    raise typer.Exit(_run({**CONFIG, "out": out}, as_json=as_json, quiet=quiet))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    against: Annotated[Path | None, typer.Option(help="Folder of another run to compare it with.")] = None,
) -> None:
    """Write a run's page, pictures and figures again; the numbers stay as they are."""
    from segtrans.report import write_report

    for path in write_report(run, against):
        Console().print(f"wrote {path}", soft_wrap=True, highlight=False, markup=False)


@app.command()
def doctor(
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Model to examine; repeatable.")] = None,
    data: Annotated[str, typer.Option(help="What to examine it on: voc:PATH, …, photos.")] = "photos",
    size: Annotated[int, typer.Option(help="Squeeze images to this square.")] = 128,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what results depend on here, and what is wrong with models (then the exit code is 2)."""
    from dataclasses import asdict

    from segtrans.doctor import diagnose, environment

    surroundings, found = environment(), diagnose(model or [], data, size=size, device=device)
    if as_json:
        findings = {name: [asdict(finding) for finding in findings] for name, findings in found.items()}
        _print_json({"environment": surroundings, "models": findings})
    else:
        lines = [f"{name}: {value}" for name, value in surroundings.items()]
        for name, findings in found.items():
            lines += [f"{name}: {finding.fault}: {finding.advice}" for finding in findings] or [f"{name}: sound"]
        sys.stdout.write("\n".join(lines) + "\n")
    raise typer.Exit(2 if any(found.values()) else 0)


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(help="http or https.")],
    out: Annotated[Path, typer.Argument(help="The new file.")],
    sha256: Annotated[
        str | None, typer.Option(help="The hash it must have; with it a broken download goes on.")
    ] = None,
    unpack: Annotated[Path | None, typer.Option(help="New folder for the files of an archive.")] = None,
    most: Annotated[float, typer.Option(help="GiB; larger files are refused.")] = 32,
    quiet: Quiet = False,
) -> None:
    """Download data or weights, checked, and unpack them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from segtrans.fetch import fetch as download
    from segtrans.unpack import unpack as unpack_into

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
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


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="attacks, parts, models or datasets.")],
    as_json: AsJson = False,
) -> None:
    """Show what there is."""
    from segtrans.listing import LISTINGS

    if what not in LISTINGS:
        raise unknown("listing", what, LISTINGS)
    rows = LISTINGS[what]()
    if as_json:
        _print_json(rows)
        return
    table = Table(*rows[0], box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    # A table cut to 80 columns loses its last words when it is piped somewhere.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@zoo_app.command()
def verify(
    data: Annotated[str, typer.Option(help="The evaluation data of the cards, such as voc:PATH.")],
) -> None:
    """Recompute every card's figures on the data it names."""
    from segtrans.data import load_data
    from segtrans.zoo.cards import verify_cards

    dataset = load_data(data)
    console = Console()
    checked = different = 0
    for card, score, accuracy in verify_cards(dataset):
        same = abs(score - card.miou) <= 0.1 and abs(accuracy - card.pixel_accuracy) <= 0.1
        different += not same
        console.print(
            f"{card.name}: mIoU {score:.2f} (card {card.miou:.2f}), pixel accuracy {accuracy:.2f} "
            f"(card {card.pixel_accuracy:.2f}) {'ok' if same else 'DIFFERENT'}",
            soft_wrap=True,
        )
        checked += 1
    if not checked:
        raise UsageError(f"no card was made on data of the kind {dataset.name!r}")
    raise typer.Exit(1 if different else 0)


@zoo_app.command(name="table")
def table_() -> None:
    """Print the cards as a Markdown table, as docs/zoo.md shows it."""
    from segtrans.zoo.cards import table

    sys.stdout.write(table())


@zoo_app.command()
def train(
    name: Annotated[str, typer.Argument(help="GROUP/HEAD-BACKBONE, such as voc/pspnet-mobilenetv3s.")],
    data: Annotated[str, typer.Option(help="Training data, such as voc:PATH?split=train.")],
    evaluation: Annotated[str, typer.Option(help="Evaluation data of the card, such as voc:PATH.")],
    weights: Annotated[Path, typer.Option(help="Folder with the ImageNet backbones.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, card and checkpoint.")],
    steps: Annotated[int | None, typer.Option(help="Optimisation steps; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option()] = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a zoo model, store it as fp16 with its card; a run that was killed goes on."""
    from segtrans.zoo.recipe import train_and_publish

    card = train_and_publish(name, data, evaluation, weights, out, steps=steps, seed=seed, device=device, quiet=quiet)
    Console().print(f"{card.name}: mIoU {card.miou:.2f}, pixel accuracy {card.pixel_accuracy:.2f}")


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``-o KEY=VALUE`` options, values read as YAML."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"-o {pair!r} has no value; write -o KEY=VALUE")
        try:
            values[key.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"-o {pair!r}: {value!r} is not readable as YAML") from None
    return values


def _run(
    values: dict[str, Any], *, as_json: bool, quiet: bool, dry_run: bool = False, data: "Dataset | None" = None
) -> int:
    """Do a run, show it, and return its exit code."""
    from segtrans.bench import execute, make_plan, save
    from segtrans.bench.engines import leads
    from segtrans.report import write_report
    from segtrans.report.table import print_tables
    from segtrans.spec import make_config

    plan = make_plan(make_config(values), data)
    errors = Console(stderr=True)
    if dry_run:
        gradients = sum(map(plan.evaluations, plan.units))
        counts = {"units": len(plan.units), "images": len(plan.data), "gradient_evaluations": gradients}
        if as_json:
            _print_json(counts)
        errors.print(", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()) + ": all resolved")
        return 0
    outcome = execute(plan, quiet=quiet)
    result = save(plan, outcome)
    code = 130 if outcome.interrupted else 3 if outcome.failures else 0
    if not leads():
        return code
    # Before the page is drawn: numbers are not lost to a picture that cannot be.
    if as_json:
        _print_json(result)
    elif not quiet:
        print_tables(result, Console())
    written = write_report(plan.store.root)
    if not quiet:
        for path in written:
            errors.print(f"wrote {path}", soft_wrap=True, highlight=False)
    for failure in outcome.failures:
        errors.print(
            f"failed: {failure.image} ({failure.where}): {failure.reason}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    return code


def _say(message: str) -> None:
    Console(stderr=True, highlight=False).print(f"error: {message}", soft_wrap=True, markup=False)


def _print_json(document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())


def main() -> None:
    """Entry point: errors a user can cause become one sentence and a documented exit code."""
    try:
        app()
    except SegtransError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        # A full disk or a folder that was taken away; what is finished is kept.
        if isinstance(error, BrokenPipeError):
            # The reader of a pipe went away; what is left to flush has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            _say(f"{error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(1)

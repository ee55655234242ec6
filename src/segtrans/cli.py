"""The command line. Heavy imports wait inside the commands, so that help and errors come at once."""

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar, Unpack, get_args, get_type_hints

import typer
import yaml
from rich.console import Console
from typer.core import TyperCommand

import segtrans
from segtrans import completion
from segtrans.errors import SegtransError, UsageError, unknown

if TYPE_CHECKING:
    from segtrans.data import Dataset

app = typer.Typer(
    help="Measure how adversarial examples transfer between semantic segmentation models.",
    epilog="""
    Start with 'segtrans demo': it needs no data and no network.

    Exit codes: 0 ok, 1 unexpected, 2 usage or configuration, 3 finished but some images failed,
    4 missing data, extra or device, 130 interrupted.
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
zoo_app = typer.Typer(help="The embedded models: check them, train new ones.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")

_UNLESS = " An attack that says its own keeps it."

# Options in the groups that help shows them in.
_what = partial(typer.Option, rich_help_panel="What is run")
_how = partial(typer.Option, rich_help_panel="How strong attacks are")
_where = partial(typer.Option, rich_help_panel="What runs it")
_shown = partial(typer.Option, rich_help_panel="What comes out")

_MODEL: dict[str, Any] = {"metavar": "MODEL", "autocompletion": completion.models}
_DATA: dict[str, Any] = {"metavar": "DATA", "autocompletion": completion.data}

Quiet = Annotated[bool, _shown("--quiet", "-q", help="No progress bars, no tables.")]
AsJson = Annotated[bool, _shown("--json", help="One JSON document on standard output.")]


class RunOptions(TypedDict, total=False):
    """What every command that does a run takes, by configuration key; what is None was not given."""

    surrogates: Annotated[list[str] | None, _what("--surrogate", "-s", help="Model to attack; repeatable.", **_MODEL)]
    targets: Annotated[
        list[str] | None,
        _what("--target", "-t", help="Model to fool; repeatable; default: the surrogates.", **_MODEL),
    ]
    attacks: Annotated[
        list[str] | None,
        _what(
            "--attack", "-a", metavar="ATTACK", autocompletion=completion.attacks,
            help="A name from 'segtrans list attacks', or several parts joined by +; repeatable.",
        ),
    ]  # fmt: skip
    size: Annotated[int | None, _what(metavar="PIXELS", help="Squeeze images to this square; default: native size.")]
    eps: Annotated[str | None, _how(metavar="EPS", help="How far a colour value may move, such as 8/255." + _UNLESS)]
    iterations: Annotated[int | None, _how(metavar="N", help="Iterations of attacks that take several." + _UNLESS)]
    step_size: Annotated[str | None, _how(metavar="STEP", help="Step: 2/255, eps/4 or eps/T." + _UNLESS)]
    seeds: Annotated[
        list[int] | None,
        _how("--seed", metavar="N", help="Start of the random numbers; repeatable, everything is done with each."),
    ]
    device: Annotated[str | None, _where(metavar="DEVICE", help="cpu, cuda, cuda:1, mps or auto.")]
    batch: Annotated[int | None, _where(metavar="N", help="Images per forward pass.")]
    workers: Annotated[int | None, _where(metavar="N", help="Processes that share the work.")]
    engine: Annotated[str | None, _where(metavar="ENGINE", help="Where they are: local, ray or slurm; default: local.")]
    address: Annotated[str | None, _where(metavar="HOST:PORT", help="Of a Ray cluster.")]
    gpus: Annotated[float | None, _where(metavar="N", help="GPUs of each worker of a cluster; 0.5 puts two on each.")]
    settings: Annotated[
        list[str] | None,
        _where("-o", metavar="KEY=VALUE", help="Any key that 'segtrans schema' lists; repeatable."),
    ]
    dry_run: Annotated[bool, _where("--dry-run", help="Resolve and check everything, then stop.")]
    pictures: Annotated[int | None, _shown(metavar="N", help="How many images to draw with masks.")]
    out: Annotated[
        Path | None, _shown(metavar="FOLDER", help="Folder for results; finished work there is not done again.")
    ]
    as_json: AsJson
    quiet: Quiet


class FileOptions(RunOptions, total=False):
    """What commands take besides that read a configuration and images of it."""

    config: Annotated[Path | None, typer.Argument(metavar="FILE", help="Configuration (YAML); options override it.")]
    data: Annotated[str | None, _what(help="voc:PATH, cityscapes:PATH, …, photos.", **_DATA)]
    limit: Annotated[int | None, _what(metavar="N", help="Only the first so many images.")]


Function = TypeVar("Function", bound=Callable[..., None])


class _Command(TyperCommand):
    """Help with options in groups; typer groups them in boxes only, which narrow terminals break."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in sorted(self.get_params(ctx), key=lambda param: param.param_type_name != "argument"):
            group = "Arguments" if param.param_type_name == "argument" else getattr(param, "rich_help_panel", None)
            if (record := param.get_help_record(ctx)) is not None:
                # Behind a metavar of ours typer adds the Python type.
                groups.setdefault(group or "Options", []).append((re.sub(r" <.*>", "", record[0]), record[1]))
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _command(
    *examples: str, to: typer.Typer = app, name: str | None = None, without: Collection[str] = ()
) -> Callable[[Function], Function]:
    """A command whose help ends with examples. ``**options: Unpack[RunOptions]`` becomes an option for each key but
    those that mean nothing to it.
    """

    def add(function: Function) -> Function:
        own, shared = dict(signature(function, eval_str=True).parameters), {}
        if (options := own.pop("options", None)) is not None:
            (keys,) = get_args(options.annotation)
            shared = get_type_hints(keys, include_extras=True)
        keywords = [
            Parameter(key, Parameter.KEYWORD_ONLY, default=False if key in _SWITCHES else None, annotation=hint)
            for key, hint in shared.items()
            if key not in without
        ]
        rest = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own.values()]
        function.__signature__ = Signature([*keywords, *rest])  # pyright: ignore[reportFunctionMemberAccess]
        lines = "\n".join(("Example:" if len(examples) == 1 else "Examples:", *(f"  {each}" for each in examples)))
        return to.command(name=name, cls=_Command, epilog=f"\b\n{lines}")(function)

    return add


_SWITCHES = ("as_json", "quiet", "dry_run")


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"segtrans {segtrans.__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@_command(
    "segtrans run configs/catalogue.yaml --data voc:VOCdevkit/VOC2012 --limit 20",
    "segtrans run -s zoo:voc/pspnet-mobilenetv3s -t zoo:voc/deeplabv3plus-mobilenetv3s -a mi -a segtrans",
)
def run(**options: Unpack[FileOptions]) -> None:
    """Craft on every surrogate with every attack, score on every target."""
    values, switches = _chosen(options)
    raise typer.Exit(_run(values, **switches, data=None))


@_command("segtrans plan configs/catalogue.yaml --data voc:VOCdevkit/VOC2012 --limit 20", without=("dry_run", "quiet"))
def plan(**options: Unpack[FileOptions]) -> None:
    """Show what a run with these options has to do, and what time and disk it will take, but do nothing of it."""
    from dataclasses import asdict

    from segtrans.bench import make_plan
    from segtrans.bench.estimate import estimate
    from segtrans.spec import make_config

    values, switches = _chosen(options)
    found = estimate(make_plan(make_config(values)))
    if switches["as_json"]:
        _print_json(asdict(found))
        return
    hours, rest = divmod(round(found.seconds), 3600)
    sys.stdout.write(
        f"{found.units} units of work on {found.images} images, {found.done} of them done\n"
        f"left: {found.gradient_evaluations:,} gradient evaluations and {found.forward_passes:,} forward passes\n"
        f"about {hours} h {rest // 60:02} min {rest % 60:02} s for one process of this machine, and "
        f"{found.disk_bytes / 2**20:,.1f} MiB of images and masks\n"
    )


@_command(
    "segtrans attack cat.jpg -s zoo:voc/pspnet-mobilenetv3s -a segtrans --out runs/cat",
    "segtrans attack *.jpg -s zoo:voc/pspnet-mobilenetv3s -a mi --eps 4/255 -o save_images=false",
)
def attack(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Photographs.")], **options: Unpack[RunOptions]
) -> None:
    """Attack single photographs; each target's own clean prediction is the reference."""
    from segtrans.data.folder import files

    values, switches = _chosen({**options, "data": "images"})
    raise typer.Exit(_run({"pictures": len(images)} | values, **switches, data=files(images)))


@_command("segtrans demo", "segtrans demo --out runs/demo --quiet")
def demo(
    out: Annotated[Path, _shown(metavar="FOLDER", help="Folder for results.")] = Path("runs/demo"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The main job on embedded photographs and models, offline: SegTrans beside the classics."""
    from segtrans.demo import CONFIG

    raise typer.Exit(_run({**CONFIG, "out": out}, as_json=as_json, quiet=quiet))


@_command("segtrans report runs/demo", "segtrans report runs/new --against runs/old")
def report(
    run: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a run.")],
    against: Annotated[Path | None, _what(metavar="FOLDER", help="Folder of another run to compare it with.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's page, pictures and figures again; the numbers stay as they are."""
    from segtrans.report import write_report

    written = write_report(run, against)
    if as_json:
        _print_json({"wrote": [str(path) for path in written]})
    elif not quiet:
        sys.stdout.writelines(f"wrote {path}\n" for path in written)


@_command("segtrans tables runs/demo")
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


@_command("segtrans export zoo:voc/deeplabv3plus-mobilenetv3s model.onnx")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model to write.", autocompletion=completion.models)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FILE.onnx; one that is there is replaced.")],
    size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="H W", help="Height and width of all images; default: any.")
    ] = None,
) -> None:
    """Write a model as one ONNX file: images in [0, 1] in, logits at their size out."""
    from segtrans.models import load_model
    from segtrans.models.onnx import export_onnx

    fixed = export_onnx(load_model(model), file, size)
    images = "images of any size" if fixed is None else f"images of {fixed[0]} × {fixed[1]} (height × width) only"
    sys.stdout.write(f"wrote {file}: {images}\n")


@_command("segtrans doctor", "segtrans doctor -m torchvision:deeplabv3_resnet50 --data voc:VOCdevkit/VOC2012")
def doctor(
    model: Annotated[list[str] | None, _what("--model", "-m", help="Model to examine; repeatable.", **_MODEL)] = None,
    data: Annotated[str, _what(help="What to examine it on: voc:PATH, …, photos.", **_DATA)] = "photos",
    size: Annotated[int, _what(metavar="PIXELS", help="Squeeze images to this square.")] = 128,
    device: Annotated[str, _where(metavar="DEVICE", help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
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


@_command("segtrans fetch https://example.org/data.tgz data.tgz --sha256 HASH --unpack data")
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


@_command("segtrans list attacks", "segtrans list models --json", name="list")
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
        _print_json(rows)
        return
    from segtrans.report.table import print_rows

    # A table cut to 80 columns loses its last words when it is piped somewhere.
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    print_rows(rows, Console(width=None if known else 200))


@_command("segtrans schema > schema.json")
def schema() -> None:
    """Print the JSON Schema of configuration files, with which editors check and explain them."""
    from segtrans.spec import json_schema

    _print_json(json_schema())


@_command("segtrans zoo verify --data voc:VOCdevkit/VOC2012", to=zoo_app)
def verify(
    data: Annotated[str, _what(help="The evaluation data of the cards, such as voc:PATH.", **_DATA)],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Recompute every card's figures on the data it names."""
    from segtrans.data import load_data
    from segtrans.zoo.cards import verify_cards

    dataset = load_data(data)
    found: list[dict[str, Any]] = []
    for card, score, accuracy in verify_cards(dataset):
        same = abs(score - card.miou) <= 0.1 and abs(accuracy - card.pixel_accuracy) <= 0.1
        found.append({"name": card.name, "miou": score, "pixel_accuracy": accuracy, "same": same})
        if not as_json and not (quiet and same):
            sys.stdout.write(
                f"{card.name}: mIoU {score:.2f} (card {card.miou:.2f}), pixel accuracy {accuracy:.2f} "
                f"(card {card.pixel_accuracy:.2f}) {'ok' if same else 'DIFFERENT'}\n"
            )
    if not found:
        raise UsageError(f"no card was made on data of the kind {dataset.name!r}")
    if as_json:
        _print_json(found)
    raise typer.Exit(0 if all(card["same"] for card in found) else 1)


@_command("segtrans zoo table > docs/zoo.md", name="table", to=zoo_app)
def table_() -> None:
    """Print the cards as a Markdown table, as docs/zoo.md shows it."""
    from segtrans.zoo.cards import table

    sys.stdout.write(table())


@_command(
    "segtrans zoo train voc/pspnet-mobilenetv3s --data 'voc:VOCdevkit/VOC2012?split=train' \\\n"
    "      --evaluation voc:VOCdevkit/VOC2012 --weights backbones --out zoo/voc",
    to=zoo_app,
)
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="GROUP/HEAD-BACKBONE, such as voc/pspnet-mobilenetv3s.")],
    data: Annotated[str, _what(help="Training data, such as voc:PATH?split=train.", **_DATA)],
    evaluation: Annotated[str, _what(help="Evaluation data of the card, such as voc:PATH.", **_DATA)],
    weights: Annotated[Path, _what(metavar="FOLDER", help="Folder with the ImageNet backbones.")],
    out: Annotated[Path, _shown(metavar="FOLDER", help="Folder for weights, card and checkpoint.")],
    steps: Annotated[int | None, typer.Option(metavar="N", help="Optimisation steps; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Start of the random numbers.")] = 0,
    device: Annotated[str, _where(metavar="DEVICE", help="cpu, cuda, cuda:1, mps or auto.")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a zoo model, store it as fp16 with its card; a run that was killed goes on."""
    from dataclasses import asdict

    from segtrans.zoo.recipe import train_and_publish

    card = train_and_publish(name, data, evaluation, weights, out, steps=steps, seed=seed, device=device, quiet=quiet)
    if as_json:
        _print_json(asdict(card))
    elif not quiet:
        sys.stdout.write(f"{card.name}: mIoU {card.miou:.2f}, pixel accuracy {card.pixel_accuracy:.2f}\n")


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


def _chosen(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool]]:
    """The keys of a command's configuration, of which those among its ``options`` that were given come before those of
    the file, and its switches.
    """
    from segtrans.spec import read_config

    given = {key: value for key, value in options.items() if value is not None}
    switches = {name: bool(given.pop(name, False)) for name in _SWITCHES}
    more = _settings(given.pop("settings", []))
    values = read_config(given.pop("config")) if "config" in given else {}
    return values | given | more, switches


def _run(
    values: dict[str, Any], *, as_json: bool, quiet: bool, dry_run: bool = False, data: "Dataset | None" = None
) -> int:
    """Do a run, show it, and return its exit code."""
    from segtrans.bench import do, make_plan
    from segtrans.bench.engines import leads
    from segtrans.report import write_report
    from segtrans.report.costs import failures
    from segtrans.report.table import print_tables
    from segtrans.spec import make_config

    plan = make_plan(make_config(values), data)
    errors = Console(stderr=True)
    if dry_run:
        gradients = sum(map(plan.evaluations, plan.units))
        counts = {"units": len(plan.units), "images": len(plan.data), "gradient_evaluations": gradients}
        if as_json:
            _print_json(counts)
        elif not quiet:
            errors.print(", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()) + ": all resolved")
        return 0
    outcome, result = do(plan, quiet=quiet)
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
    for failure in failures(result):
        errors.print(
            f"failed: {failure.named} ({failure.where}): {failure.reason}",
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
    if os.environ.get("_SEGTRANS_COMPLETE") == "complete_bash":
        completion.mend_words()
    try:
        app(prog_name="segtrans")
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

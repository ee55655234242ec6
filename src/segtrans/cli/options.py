"""What commands take and how their help looks."""

import re
from collections.abc import Callable, Collection
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from segtrans import completion

app = typer.Typer(
    help="Measure how adversarial examples transfer between semantic segmentation models.",
    epilog="""
    Start with 'segtrans demo': it needs no data and no network.

    Exit codes: 0 ok, 1 unexpected, or a card that is not met, 2 usage or configuration, or an unsound model,
    3 finished but some images failed, 4 missing data, extra or device, 130 interrupted.
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

zoo_app = typer.Typer(help="The embedded models: check them, train new ones.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")

_UNLESS = " Attacks whose spelling says their own keep it."

# Options in the groups that help shows them in. Where a metavar is an option's own name in capitals, the name is given,
# too, since typer 0.26 and 0.27 would take the metavar for it.
What = partial(typer.Option, rich_help_panel="What is run")
How = partial(typer.Option, rich_help_panel="How strong attacks are")
Where = partial(typer.Option, rich_help_panel="What runs it")
Shown = partial(typer.Option, rich_help_panel="What comes out")

MODEL: dict[str, Any] = {"metavar": "MODEL", "autocompletion": completion.models}
DATA: dict[str, Any] = {"metavar": "DATA", "autocompletion": completion.data}

Quiet = Annotated[bool, Shown("--quiet", "-q", help="No progress bars, no tables.")]
AsJson = Annotated[bool, Shown("--json", help="One JSON document on standard output.")]


class RunOptions(TypedDict, total=False):
    """What every command that does a run takes, by configuration key; what is None was not given."""

    surrogates: Annotated[list[str] | None, What("--surrogate", "-s", help="Model to attack; repeatable.", **MODEL)]
    targets: Annotated[
        list[str] | None,
        What("--target", "-t", help="Model to fool; repeatable; default: the surrogates.", **MODEL),
    ]
    attacks: Annotated[
        list[str] | None,
        What(
            "--attack", "-a", metavar="ATTACK", autocompletion=completion.attacks,
            help="A name from 'segtrans list attacks', or names and parts joined by +, such as SegPGD + Remap + mi; "
            "repeatable; default: segtrans.",
        ),
    ]  # fmt: skip
    size: Annotated[int | None, What(metavar="PIXELS", help="Squeeze images to this square; default: native size.")]
    eps: Annotated[
        str | None,
        How(
            "--eps",
            metavar="EPS",
            help="How far a colour value may move; default: each attack's, mostly 8/255." + _UNLESS,
        ),
    ]
    iterations: Annotated[
        int | None,
        How(metavar="N", help="Iterations of attacks that take several; default: each attack's, mostly 10." + _UNLESS),
    ]
    step_size: Annotated[
        str | None, How(metavar="STEP", help="2/255, eps/4 or eps/T; default: each attack's, mostly eps/4." + _UNLESS)
    ]
    seeds: Annotated[
        list[int] | None,
        How(
            "--seed",
            metavar="N",
            help="Start of the random numbers; repeatable, everything is done with each; default: 0.",
        ),
    ]
    device: Annotated[
        str | None, Where("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps or auto; default: auto.")
    ]
    batch: Annotated[int | None, Where(metavar="N", help="Images per forward pass; default: 4.")]
    workers: Annotated[int | None, Where(metavar="N", help="Processes that share the work; default: 1.")]
    engine: Annotated[
        str | None, Where("--engine", metavar="ENGINE", help="Where workers run: local, ray or slurm; default: local.")
    ]
    address: Annotated[
        str | None, Where(metavar="HOST:PORT", help="Address of a Ray cluster; default: what Ray finds.")
    ]
    gpus: Annotated[
        float | None, Where(metavar="N", help="GPUs of each worker of a cluster; 0.5 puts two on each; default: 0.")
    ]
    settings: Annotated[
        list[str] | None,
        Where("-o", metavar="KEY=VALUE", help="Any key that 'segtrans schema' lists; repeatable."),
    ]
    dry_run: Annotated[bool, Where("--dry-run", help="Resolve names, load models and check them, then stop.")]
    pictures: Annotated[int | None, Shown(metavar="N", help="How many images to draw with masks; default: 4.")]
    out: Annotated[
        Path | None,
        Shown(
            metavar="FOLDER", help="Folder for results; finished work there is not done again; default: runs/latest."
        ),
    ]
    as_json: AsJson
    quiet: Quiet


class FileOptions(RunOptions, total=False):
    """What commands take besides that read a configuration and images of it."""

    config: Annotated[Path | None, typer.Argument(metavar="FILE", help="Configuration (YAML); options override it.")]
    data: Annotated[
        str | None, What("--data", help="voc:PATH, cityscapes:PATH, …; default: photos, which are built in.", **DATA)
    ]
    limit: Annotated[int | None, What(metavar="N", help="Only the first so many images; default: all.")]


Function = TypeVar("Function", bound=Callable[..., None])

SWITCHES = ("as_json", "quiet", "dry_run")


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


def command(
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
            Parameter(key, Parameter.KEYWORD_ONLY, default=False if key in SWITCHES else None, annotation=hint)
            for key, hint in shared.items()
            if key not in without
        ]
        rest = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own.values()]
        function.__signature__ = Signature([*keywords, *rest])  # pyright: ignore[reportFunctionMemberAccess]
        lines = "\n".join(("Example:" if len(examples) == 1 else "Examples:", *(f"  {each}" for each in examples)))
        return to.command(name=name, cls=_Command, epilog=f"\b\n{lines}")(function)

    return add

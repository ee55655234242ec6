"""The configuration of a run: YAML, command-line options and Python keywords become one checked value."""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segtrans.errors import DataError, UsageError, unknown
from segtrans.threat import fraction
from segtrans.track import TRACKERS

_NAMES = ("surrogates", "targets", "attacks")

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class RunConfig(BaseModel):
    """What a run does. Every key may stand in the YAML file and, with dashes, on the command line.

    Attributes:
        surrogates, targets: model names as :func:`segtrans.models.load_model` reads them; without targets the
            surrogates are scored against each other.
        attacks: as :func:`segtrans.catalogue.attack` reads them.
        baseline: one of the attacks, with which the others are compared image by image.
        data: as :func:`segtrans.data.load_data` reads it.
        skip: leave out the first so many images; limit: of the others, only the first so many.
        size: squeeze images and masks to this square; without it images keep their native size.
        eps: budget of every L-inf attack; iterations: of every iterative attack; step_size: of every iterative attack.
            Left out, each attack keeps its own.
        seeds: one repetition of everything per seed.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
        batch: images per forward pass, transformed copies counted; it changes memory and speed, not results, and is
            halved as often as memory does not suffice.
        slice: images per unit, which is what is finished or lost as a whole, and the least that a worker takes on.
        workers: so many processes share the work; on this machine also its threads and GPUs. Further runs in the same
            ``out``, wherever they run, share it likewise.
        engine: where the workers are: ``local``, on this machine; ``ray``, where a Ray cluster has room; ``slurm``, in
            jobs that submitit submits (or starts here, where there is no SLURM). All must see ``out``, data and weights
            at the same paths.
        address: of the Ray cluster; left out, what Ray finds, or a cluster of this machine alone.
        cpus: per worker of a cluster; gpus: per worker of a cluster, 0.5 for two workers on each.
        slurm: further parameters of the jobs, as submitit spells them, such as ``{slurm_partition: gpu, timeout_min:
            240}``.
        save_images: keep every adversarial image as PNG.
        pictures: how many images are shown with masks.
        track: ``tensorboard``, ``mlflow`` or ``wandb``, which are told of every finished unit; they write to
            ``OUT/track`` unless their own environment variables name a server.
        out: where results go; finished work found there is not done again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    surrogates: Names
    targets: tuple[str, ...] = ()
    attacks: Names = ("segtrans",)
    baseline: str | None = None
    data: str = "photos"
    skip: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1)] | None = None
    size: Annotated[int, Field(ge=16)] | None = None
    eps: float | str | None = None
    iterations: Annotated[int, Field(ge=1)] | None = None
    step_size: float | str | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    device: str = "auto"
    batch: Annotated[int, Field(ge=1)] = 4
    slice: Annotated[int, Field(ge=1)] = 64
    workers: Annotated[int, Field(ge=1)] = 1
    engine: Literal["local", "ray", "slurm"] = "local"
    address: str | None = None
    cpus: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0.0
    slurm: dict[str, Any] = Field(default_factory=dict)
    save_images: bool = True
    pictures: Annotated[int, Field(ge=0)] = 4
    track: tuple[str, ...] = ()
    out: Path = Path("runs/latest")

    @field_validator("surrogates", "targets", "attacks", "seeds", "track", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One name stands for a list of one, nothing for none; repetitions count once, however they are spaced."""
        if value is None:
            return ()
        values = cast(list[Any], value) if isinstance(value, list | tuple) else [value]
        return tuple(dict.fromkeys(v.strip() if isinstance(v, str) else v for v in values))

    @field_validator(
        *("skip", "limit", "size", "eps", "iterations", "step_size", "batch", "slice", "workers", "cpus", "gpus"),
        "pictures",
        mode="before",
    )
    @classmethod
    def _number(cls, value: Any) -> Any:
        """YAML reads ``yes`` as true, which Python takes for 1."""
        if isinstance(value, bool):
            raise UsageError(f"{value} is no number")
        return value

    @model_validator(mode="after")
    def _compared(self) -> Self:
        if self.baseline is not None and self.baseline not in self.attacks:
            raise unknown("baseline", self.baseline, self.attacks)
        return self

    @field_validator("track")
    @classmethod
    def _tracked(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in TRACKERS:
                raise unknown("tracker", name, TRACKERS)
        return value

    @field_validator("out")
    @classmethod
    def _home(cls, value: Path) -> Path:
        return value.expanduser()

    @field_validator("eps")
    @classmethod
    def _radius(cls, value: float | str | None) -> float | str | None:
        radius = 0.0 if value is None else fraction(value, "eps")
        if radius > 1:
            raise UsageError(
                f"eps is {value}; images are in [0, 1], so write {radius:g}/255 for {radius:g} grey levels"
            )
        if 0 < radius < 1 / 255:
            raise UsageError(f"eps is {value}; images have 8 bits, so allowed are 0 and budgets from 1/255")
        return value


def make_config(values: dict[str, Any]) -> RunConfig:
    """A checked configuration; UsageError with one sentence for the first thing that is wrong.

    Beside the keys of :class:`RunConfig` there may be ``vary``, which maps names to lists of values: every attack and
    model that says ``{name}`` stands for as many as there are values, in all combinations of the names it says.
    """
    # Options are spelled with dashes, and so may be keys.
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    if "vary" in values:
        values |= _varied({key: values[key] for key in _NAMES if key in values}, values.pop("vary"))
    for key in values:
        if key not in RunConfig.model_fields:
            raise unknown("configuration key", key, RunConfig.model_fields)
    try:
        return RunConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if "ctx" in first and "error" in first["ctx"]:
            raise UsageError(str(first["ctx"]["error"])) from None
        if first["type"] == "missing":
            raise UsageError(f"configuration lacks {key!r}; give it in the file or as an option") from None
        shown = shorten(repr(first["input"]), 80, placeholder="…")
        raise UsageError(f"configuration key {key!r} is {shown}: {first['msg'].lower()}") from None


def _varied(names: Mapping[str, Any], vary: Any) -> dict[str, list[str]]:
    """Lists of names with each ``{blank}`` in them replaced by every value that ``vary`` lists for it."""
    lists: dict[str, list[str]] = {}
    for blank, values in cast(Mapping[str, Any], vary).items() if isinstance(vary, Mapping) else [("", None)]:
        if not isinstance(values, list) or not values:
            raise UsageError(f"vary is {vary!r}; expected names with lists of values, such as 'vary: {{grid: [1, 2]}}'")
        lists[str(blank)] = [_written(value) for value in cast(list[Any], values)]
    used: set[str] = set()

    def filled(text: str) -> Iterator[str]:
        blanks = list(dict.fromkeys(re.findall(r"\{(\w+)\}", text)))
        used.update(blanks)
        for blank in blanks:
            if blank not in lists:
                raise unknown(f"blank in {text!r}", blank, lists)
        for values in product(*(lists[blank] for blank in blanks)):
            whole = text
            for blank, value in zip(blanks, values, strict=True):
                whole = whole.replace(f"{{{blank}}}", value)
            yield whole

    found = {
        key: [one for text in (listed if isinstance(listed, list | tuple) else [listed]) for one in filled(str(text))]  # pyright: ignore[reportUnknownVariableType]
        for key, listed in names.items()
    }
    for blank in lists.keys() - used:
        raise UsageError(f"vary lists {blank!r}, but no attack or model says {{{blank}}}")
    return found


def _written(value: Any) -> str:
    """A value as attacks spell it: YAML's lists are tuples there."""
    return str(tuple(cast(list[Any], value))) if isinstance(value, list) else str(value)


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; relative paths in it are relative to the working directory, as in the shell."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: holds {type(document).__name__}; expected keys and values such as 'attacks: [mi]'")
    return cast(dict[str, Any], document)

"""The configuration of a run: YAML, command-line options and Python keywords become one checked value."""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from yaml.constructor import ConstructorError

from segtrans.errors import DataError, UsageError, reason, unknown
from segtrans.paths import at_home
from segtrans.threat import fraction
from segtrans.track import TRACKERS

_NAMES = ("surrogates", "targets", "attacks")


def _listed(value: Any) -> Any:
    """One name stands for a list of one, nothing for none; how they are spaced says nothing."""
    if value is None:
        return ()
    values = cast(list[Any], value) if isinstance(value, list | tuple) else [value]
    return tuple(v.strip() if isinstance(v, str) else v for v in values)


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Repetitions count once, of seeds 1 and "1" too."""
    return tuple(dict.fromkeys(values))


Names = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    AfterValidator(_once),
    BeforeValidator(_listed, json_schema_input_type=str | Annotated[list[str], Field(min_length=1)]),
]
MaybeNames = Annotated[
    tuple[str, ...],
    AfterValidator(_once),
    BeforeValidator(_listed, json_schema_input_type=str | list[str] | None),
]
Seeds = Annotated[
    tuple[int, ...],
    Field(min_length=1),
    AfterValidator(_once),
    BeforeValidator(_listed, json_schema_input_type=int | Annotated[list[int], Field(min_length=1)]),
]


class RunConfig(BaseModel):
    """What a run does. Every key may stand in the YAML file and, with dashes, on the command line; what is said of a
    key below is also its description in :func:`json_schema`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    surrogates: Names
    """Models that attacks are made on, such as zoo:voc/pspnet-mobilenetv3s; 'segtrans list models' shows sources."""
    targets: MaybeNames = ()
    """Models that are scored, spelled likewise; without any the surrogates are scored against each other."""
    attacks: Names = ("segtrans",)
    """Names from 'segtrans list attacks', such as mi or mi(iterations=20), or parts joined by +."""
    baseline: str | None = None
    """One of the attacks, with which the others are compared image by image."""
    data: str = "photos"
    """Images and masks, such as voc:PATH or folder:PATH; 'segtrans list datasets' shows the sources."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Leave out the first so many images."""
    every: Annotated[int, Field(ge=1)] = 1
    """Of the images that are not skipped, only each so-many-th, from the first on. Neighbours in a list, such as frames
    of a video or views of a city, are often alike."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Of the images that are left then, only the first so many."""
    size: Annotated[int, Field(ge=16)] | None = None
    """Squeeze images and masks to a square of so many pixels; without it images keep their native size."""
    eps: float | str | None = None
    """Budget of L-inf attacks, such as 8/255; attacks that say their own keep it, and without this key all do."""
    iterations: Annotated[int, Field(ge=1)] | None = None
    """Iterations of iterative attacks; attacks that say their own keep them, and without this key all do."""
    step_size: float | str | None = None
    """Step of iterative attacks, such as 2/255, eps/4 or eps/T; attacks that say their own keep it, and without this
    key all do."""
    seeds: Seeds = (0,)
    """Starts of the random numbers; everything is repeated with each."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps or auto."""
    batch: Annotated[int, Field(ge=1)] = 4
    """Images per forward pass, transformed copies counted. It changes memory and speed, not results, and is halved as
    often as memory does not suffice."""
    slice: Annotated[int, Field(ge=1)] = 64
    """Images per unit of work, which is what is finished or lost as a whole, and the least that a worker takes on."""
    workers: Annotated[int, Field(ge=1)] = 1
    """So many processes share the work; on this machine also its threads and GPUs. Further runs in the same folder,
    wherever they run, share it likewise."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """Where the workers are: local, on this machine; ray, where a Ray cluster has room; slurm, in jobs that submitit
    submits, or starts here where there is no SLURM. All must see the folder, data and weights at the same paths."""
    address: str | None = None
    """Of the Ray cluster; without it what Ray finds, or a cluster of this machine alone."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """Processors of each worker of a cluster."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of each worker of a cluster; 0.5 puts two workers on each."""
    slurm: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of the jobs, as submitit spells them, such as {slurm_partition: gpu, timeout_min: 240}."""
    save_images: bool = True
    """Keep every adversarial image as PNG, and make again what is missing of them."""
    pictures: Annotated[int, Field(ge=0)] = 4
    """How many images are shown with masks."""
    track: MaybeNames = ()
    """Any of tensorboard, mlflow and wandb, which are told of every finished trial; they write to track in the folder
    for results unless their own environment variables name a server."""
    out: Path = Path("runs/latest")
    """Folder for results; finished work found there is not done again."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``yes`` as true, which Python takes for 1."""
        key = str(info.field_name)
        values = cast(list[Any], value) if isinstance(value, list | tuple) else [value]
        if cls.model_fields[key].annotation is not bool and any(isinstance(v, bool) for v in values):
            raise UsageError(f"{key} is {value}; allowed are no truth values, which YAML makes of yes, no, on and off")
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
        return at_home(value)

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


VARY = (
    "Names with lists of values: every attack and model that says {name} stands for as many as there are values, "
    "in all combinations of the names it says."
)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of configuration files, in every form that :func:`make_config` reads."""
    schema = RunConfig.model_json_schema()
    properties = {key: _plain(value) for key, value in schema["properties"].items()}
    properties |= {key.replace("_", "-"): {"$ref": f"#/properties/{key}"} for key in properties if "_" in key}
    values = {"type": "array", "minItems": 1}
    properties["vary"] = {"type": "object", "additionalProperties": values, "description": VARY}
    # Nothing is required: options may say what a file does not.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of a segtrans run",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _plain(key: dict[str, Any]) -> dict[str, Any]:
    """What is said of a key, without the titles that pydantic makes of names and the ends of lines in the source."""
    return {
        name: " ".join(value.split()) if name == "description" else value
        for name, value in key.items()
        if name != "title"
    }


def make_config(values: dict[str, Any]) -> RunConfig:
    """A checked configuration; UsageError with one sentence for the first thing that is wrong.

    Beside the keys of :class:`RunConfig` there may be ``vary``, as :data:`VARY` says.
    """
    # Options are spelled with dashes, and so may be keys.
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    if "vary" in values:
        values |= _varied({key: values[key] for key in _NAMES if values.get(key) is not None}, values.pop("vary"))
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


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML's own takes the last in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        said: set[tuple[str, str]] = set()
        for key, _ in node.value:
            # Keys of a configuration are spelled with dashes or without.
            name = (key.tag, str(key.value).replace("-", "_"))
            if name in said and not key.tag.endswith(":merge"):
                raise ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            said.add(name)
        return node


def parsed(text: str) -> Any:
    """What a text says in YAML; yaml.YAMLError or ValueError where it says nothing, or a key twice."""
    return yaml.load(text, _Loader)


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a YAML file; relative paths in it are relative to the working directory, as in the shell."""
    try:
        document = parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such configuration file") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not readable as YAML ({reason(error)})") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: holds {type(document).__name__}; expected keys and values such as 'attacks: [mi]'")
    return cast(dict[str, Any], document)

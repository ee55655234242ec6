"""Following a run with the tools that follow trainings; what they are told is also in the run's own files.

A measure of a cell is called ``asr_miou/SURROGATE/ATTACK/TARGET``, seconds ``seconds/SURROGATE/ATTACK``, both with the
seed as the step; at the end come ``summary/asr_miou/BLOCK/ATTACK``. In names whatever is no letter, digit, dot or dash
is ``_``. A run that goes on tells all of it again.
"""

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from segtrans.errors import MissingError, optional, reason
from segtrans.metrics import HEADLINES

Values = Mapping[str, float]
Log = Callable[[Values, int], None]
Document = Mapping[str, Any]


def _tensorboard(folder: Path, config: Mapping[str, Any]) -> tuple[Log, Callable[[], None]]:
    from torch.utils.tensorboard import SummaryWriter

    # What was written there before does not count any more, since it is written again.
    writer = SummaryWriter(folder, purge_step=0)
    writer.add_text("config", str(config))

    def log(values: Values, step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log, writer.close


def _mlflow(folder: Path, config: Mapping[str, Any]) -> tuple[Log, Callable[[], None]]:
    from mlflow import MlflowClient

    # Files are all that mlflow-skinny can write to, and mlflow wants this said before it does.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", folder.resolve().as_uri()))
    known = client.get_experiment_by_name("segtrans")
    experiment = known.experiment_id if known else client.create_experiment("segtrans")
    run = client.create_run(experiment, run_name=str(config["out"])).info.run_id
    for name, value in config.items():
        client.log_param(run, name, str(value)[:6000])

    def log(values: Values, step: int) -> None:
        for name, value in values.items():
            client.log_metric(run, name, value, step=step)

    return log, lambda: client.set_terminated(run)


def _wandb(folder: Path, config: Mapping[str, Any]) -> tuple[Log, Callable[[], None]]:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    settings = wandb.Settings(silent=True, console="off")
    run = wandb.init(project="segtrans", mode=mode, dir=folder, config=dict(config), settings=settings)
    # Its own steps may not go back, as seeds do where several processes share a run.
    return lambda values, step: run.log({**values, "seed": step}), run.finish


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], tuple[Log, Callable[[], None]]]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
"""Each opens a folder, given a run's configuration, and returns what logs and what closes."""


@contextmanager
def followed(
    names: Iterable[str], folder: Path, config: Mapping[str, Any], on_trial: Callable[[Any], None] | None = None
) -> Generator[tuple[Callable[[Document], None], Callable[[Document], None]]]:
    """What tells the named trackers and ``on_trial`` of a trial, and what tells trackers of the whole run, each by its
    document. One that fails is left alone from there on, after a sentence on standard error.

    Raises:
        MissingError: a tracker that is not installed.
    """
    logs: list[Log] = []
    heard = [] if on_trial is None else [_guarded("on_trial", on_trial)]

    def tell(document: Document) -> None:
        for hear in heard:
            hear(document)
        for values, step in _values(document):
            for log in logs:
                log(values, step)

    def conclude(document: Document) -> None:
        for log in logs:
            log(_summary(document), 0)

    with ExitStack() as opened:
        for name in names:
            try:
                with optional(f"track: {name}", "track"):
                    log, close = TRACKERS[name](folder / name, config)
            except MissingError:
                raise
            except Exception as error:  # noqa: BLE001 whatever it is, it concerns the tracker alone
                _give_up(name, error)
            else:
                logs.append(_guarded(name, log))
                opened.callback(_guarded(name, close))
        yield tell, conclude


def _guarded(name: str, call: Callable[..., None]) -> Callable[..., None]:
    failed = False

    def guarded(*arguments: Any) -> None:
        nonlocal failed
        if not failed:
            try:
                call(*arguments)
            except Exception as error:  # noqa: BLE001 as above
                failed = True
                _give_up(name, error)

    return guarded


def _give_up(name: str, error: Exception) -> None:
    sentence = f"track: {name} failed ({reason(error)}); the run goes on without it"
    Console(stderr=True, highlight=False).print(sentence, soft_wrap=True, markup=False)


def _values(document: Document) -> Iterator[tuple[Values, int]]:
    """Measures by name, with the seed."""
    for cell in document["cells"]:
        where = _path(cell["surrogate"], cell["attack"], cell["target"])
        yield _defined({f"{name}/{where}": cell[name] for name in (*HEADLINES, "miou")}), cell["seed"]
    for cost in document["costs"]:
        yield {f"seconds/{_path(cost['surrogate'], cost['attack'])}": cost["seconds"]}, cost["seed"]


def _summary(document: Document) -> Values:
    return _defined(
        {
            f"summary/{name}/{_path(entry['block'], entry['attack'])}": entry[name]
            for entry in document["summary"]
            for name in HEADLINES
        }
    )


def _defined(values: Mapping[str, float | None]) -> Values:
    return {name: value for name, value in values.items() if value is not None}


def _path(*names: str) -> str:
    """Names in characters that all trackers take."""
    return "/".join(re.sub(r"[^\w.-]+", "_", name).strip("_") for name in names)

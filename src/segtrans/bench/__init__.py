"""The main job: surrogates × attacks × targets × images, planned, done, kept and tabulated."""

from collections.abc import Callable, Mapping
from typing import Any

from segtrans.bench.engines import leads
from segtrans.bench.plan import Plan, Trial, Unit, make_plan
from segtrans.bench.results import document, trial_document
from segtrans.bench.runner import Outcome, execute
from segtrans.bench.store import Shard
from segtrans.bench.tables import as_csv
from segtrans.config import RunConfig, make_config
from segtrans.data import Dataset
from segtrans.errors import UsageError
from segtrans.io import write_json, write_text
from segtrans.models import SegModel
from segtrans.track import followed
from segtrans.worst import AnyAttack

__all__ = ["Outcome", "Plan", "RunConfig", "Trial", "Unit", "do", "execute", "make_plan", "run", "save"]


def run(
    config: RunConfig | None = None,
    *,
    data: Dataset | str | None = None,
    models: Mapping[str, SegModel] | None = None,
    attacks: Mapping[str, AnyAttack] | list[str] | tuple[str, ...] | str | None = None,
    quiet: bool = False,
    on_trial: Callable[[dict[str, Any]], None] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """Do a run and return its document, as ``segtrans run`` does; :func:`segtrans.report.write_report` adds the page.

    Args:
        config: a checked configuration, or give its keys as keywords: ``run(surrogates=[…], targets=[…], …)``.
        data: a data set of your own in place of the one the configuration names, or another name.
        models: models of your own, by names that ``surrogates`` and ``targets`` use.
        attacks: names as in a configuration, or attacks of your own by name.
        quiet: no progress bars.
        on_trial: called with the ``cells`` and ``costs`` of every trial, also of those that were finished before; where
            it fails it is not called again, and the run goes on.

    Returns:
        The document that is also written to ``OUT/result.json``, with its cells and costs in ``OUT/cells.csv`` and
        ``OUT/costs.csv``.

    Raises:
        UsageError: a configuration and keywords beside it, attacks without names, or what :func:`make_plan` refuses.
    """
    own_attacks = attacks if isinstance(attacks, Mapping) else None
    if attacks is not None:
        names: list[Any] = list(attacks) if isinstance(attacks, Mapping | list | tuple) else [attacks]
        if nameless := [type(name).__name__ for name in names if not isinstance(name, str)]:
            raise UsageError(
                f"attacks holds a value of type {nameless[0]} without a name; allowed are names, and attacks of your "
                "own by name, as in attacks={'mine': compose(...)}"
            )
        values["attacks"] = names
    if config is not None and values:
        raise UsageError(f"{', '.join(values)} given beside a configuration; put everything into one of the two")
    config = make_config(values) if config is None else config
    if isinstance(data, str):
        config, data = config.model_copy(update={"data": data}), None
    plan = make_plan(config, data, models, own_attacks)
    return do(plan, quiet=quiet, on_trial=on_trial)[1]


def do(
    plan: Plan, *, quiet: bool = False, on_trial: Callable[[dict[str, Any]], None] | None = None
) -> tuple[Outcome, dict[str, Any]]:
    """Execute a plan, tell its trackers and ``on_trial`` of it, save and return what it left.

    Raises:
        MissingError: a tracker is not installed. What :func:`execute` raises.
    """
    config = plan.config
    with followed(config.track if leads() else (), config.out / "track", config.model_dump(mode="json"), on_trial) as (
        tell,
        conclude,
    ):

        def finished(trial: Trial, crafted: Shard, scores: dict[str, Shard]) -> None:
            tell(trial_document(plan, trial, crafted, scores))

        outcome = execute(plan, quiet=quiet, on_trial=finished if config.track or on_trial else None)
        result = save(plan, outcome)
        conclude(result)
    return outcome, result


def save(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Write ``result.json``, ``cells.csv`` and ``costs.csv`` into the run's folder and return the first's document."""
    result = document(plan, outcome)
    if not leads():
        return result
    write_json(plan.store.root / "result.json", result)
    for name in ("cells", "costs"):
        write_text(plan.store.root / f"{name}.csv", as_csv(result[name]))
        # Of the result before, if somebody asked for it.
        (plan.store.root / f"{name}.parquet").unlink(missing_ok=True)
    return result

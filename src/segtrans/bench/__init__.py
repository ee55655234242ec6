"""The main job: surrogates × attacks × targets × images, planned, done, kept and tabulated."""

from typing import Any

from segtrans.bench.plan import Plan, Unit, make_plan
from segtrans.bench.results import as_csv, document
from segtrans.bench.runner import Outcome, execute
from segtrans.data import Dataset
from segtrans.io import write_json, write_text
from segtrans.spec import RunConfig, make_config

__all__ = ["Outcome", "Plan", "RunConfig", "Unit", "execute", "make_plan", "run", "save"]


def run(
    config: RunConfig | None = None, *, data: Dataset | str | None = None, quiet: bool = False, **values: Any
) -> dict[str, Any]:
    """Do a run and return its document; the same as ``segtrans run``.

    Args:
        config: a checked configuration, or give its keys as keywords: ``run(surrogates=[…], targets=[…], …)``.
        data: a data set of your own in place of the one the configuration names, or another name.
        quiet: no progress bars.

    Returns:
        The document that is also written to ``OUT/result.json``, with its cells in ``OUT/cells.csv``.
    """
    config = make_config(values) if config is None else config
    if isinstance(data, str):
        config, data = config.model_copy(update={"data": data}), None
    plan = make_plan(config, data)
    return save(plan, execute(plan, quiet=quiet))


def save(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Write ``result.json`` and ``cells.csv`` into the run's folder and return the former's document."""
    result = document(plan, outcome)
    write_json(plan.store.root / "result.json", result)
    write_text(plan.store.root / "cells.csv", as_csv(result["cells"]))
    return result

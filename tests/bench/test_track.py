"""Trackers write what the run's own document says, again when it goes on, and never stop it."""

import json
import re
import time
import warnings
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segtrans import bench, track
from segtrans.config import make_config
from segtrans.errors import MissingError, UsageError
from segtrans.models import SegModel, wrap
from segtrans.track import TRACKERS

MEASURES = ("asr_miou", "asr_pixel", "miou")


def toy(seed: int) -> SegModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    return wrap(network, 4, name=f"toy {seed}")


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def go(**values: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "surrogates": ["my/a"],
            "targets": ["my/a", "my/b"],
            "attacks": ["mi + linf(eps=8/255)", "noise"],
            "models": {"my/a": toy(0), "my/b": toy(1)},
            "data": "photos?side=32",
            "limit": 2,
            "iterations": 2,
            "seeds": [0, 1],
            "pictures": 0,
            "device": "cpu",
            "out": tmp_path / "run",
        }
        return bench.run(quiet=True, **{**defaults, **values})

    return go


def expected(result: dict[str, Any]) -> dict[tuple[str, int], float]:
    """Every number that trackers are told of, by name and step."""

    def plain(name: str) -> str:
        return re.sub(r"[^\w.-]+", "_", name).strip("_")

    found: dict[tuple[str, int], float] = {}
    for c in result["cells"]:
        for m in MEASURES:
            found[f"{m}/{plain(c['surrogate'])}/{plain(c['attack'])}/{plain(c['target'])}", c["seed"]] = c[m]
    for c in result["costs"]:
        found[f"seconds/{plain(c['surrogate'])}/{plain(c['attack'])}", c["seed"]] = c["seconds"]
    for s in result["summary"]:
        for m in MEASURES[:2]:
            found[f"summary/{m}/{plain(s['block'])}/{plain(s['attack'])}", 0] = s[m]
    return found


def test_units_are_told_once_and_again_by_a_run_that_goes_on(go: Callable[..., dict[str, Any]]) -> None:
    told: list[dict[str, Any]] = []
    result = go(on_trial=told.append)
    # Of an attack that draws nothing all seeds are told at once.
    for kind in ("cells", "costs"):
        found = [row for one in told for row in one[kind]]
        assert sorted(found, key=itemgetter("seed")) == sorted(result[kind], key=itemgetter("seed"))
    again: list[dict[str, Any]] = []
    go(on_trial=again.append)
    assert again == told


def test_several_processes_tell_through_one(go: Callable[..., dict[str, Any]]) -> None:
    told: list[dict[str, Any]] = []
    result = go(on_trial=told.append, workers=2)
    key = json.dumps
    assert sorted(key(cell) for one in told for cell in one["cells"]) == sorted(map(key, result["cells"]))
    assert len(told) == 4


def test_tensorboard(go: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    for _ in range(2):
        result = go(track="tensorboard")
        events = EventAccumulator(str(tmp_path / "run" / "track" / "tensorboard"))
        events.Reload()
        found = [((tag, e.step), e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]
        assert len(found) == len(dict(found)), "what is told again replaces what was told"
        assert dict(found) == pytest.approx(expected(result), rel=1e-6)
    assert len(found) == 2 * 2 * 2 * 3 + 2 * 2 + 2 * 2 * 2


def test_mlflow(go: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for runs in (1, 2):
        result = go(track=["mlflow"])
        client = mlflow.MlflowClient((tmp_path / "run" / "track" / "mlflow").as_uri())
        experiment = client.get_experiment_by_name("segtrans").experiment_id
        listed = client.search_runs([experiment])
        assert [run.info.status for run in listed] == ["FINISHED"] * runs
        run = listed[0]
        assert run.data.params["iterations"] == "2"
        names = {name for name, _ in expected(result)}
        found = [((n, m.step), m.value) for n in names for m in client.get_metric_history(run.info.run_id, n)]
        assert dict(found) == pytest.approx(expected(result))
        assert len(found) == len(expected(result))
        assert run.data.metrics.keys() == names


def test_wandb(go: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    result = go(track=["wandb"])
    (folder,) = (tmp_path / "run" / "track" / "wandb" / "wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    names = [name.encode() for name, _ in expected(result)]

    def found() -> int:
        raw = log.read_bytes()
        return sum(name in raw for name in names)

    # A process of its own writes the file, and on a busy machine is not always through when it says so.
    deadline = time.monotonic() + 60
    # A name that lies across two blocks of the file is cut in two.
    while found() < len(names) - 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_that_fails_is_left_alone(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it fails when it opens, logs or closes, or is the caller's own: a sentence each, and the run as ever."""
    calls: list[str] = []

    def fails(*_: Any) -> None:
        calls.append("call")
        raise RuntimeError("the disk of\nthe server is full")

    def nothing(*_: Any) -> None:
        pass

    result = go()
    monkeypatch.setattr(
        track,
        "TRACKERS",
        {"tensorboard": fails, "mlflow": lambda *_: (fails, nothing), "wandb": lambda *_: (nothing, fails)},
    )
    tracked = go(track=["tensorboard", "mlflow", "wandb"], on_trial=fails)
    assert tracked["cells"] == result["cells"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("track: ")]
    names = ("tensorboard", "on_trial", "mlflow", "wandb")
    assert said == [f"track: {n} failed (the disk of the server is full); the run goes on without it" for n in names]
    assert len(calls) == 4


def test_unknown_and_missing_trackers(go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="unknown tracker 'mlfow'; did you mean mlflow"):
        make_config({"surrogates": "a", "track": "mlfow"})
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    closed: list[bool] = []
    monkeypatch.setitem(TRACKERS, "first", lambda folder, config: (lambda *said: None, lambda: closed.append(True)))
    with pytest.raises(MissingError, match=r"track: wandb needs wandb; run: pip install 'segtrans\[track\]'"):
        go(track=["first", "wandb"])
    assert closed == [True], "what was opened before is closed"

"""Signals end a run after the unit in hand, and what is finished is kept."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_run import CLASSES

from segtrans.bench import runner, work
from segtrans.cli import main

pytestmark = pytest.mark.usefixtures("toys")


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]], ids=["once", "by timeout"])
def test_interrupt_finishes_the_unit_and_keeps_it(
    signals: list[signal.Signals], go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    craft = work.UnitWork._craft

    def interrupted(self: work.UnitWork) -> None:
        for number in signals:
            signal.raise_signal(number)
        craft(self)

    monkeypatch.setattr(work.UnitWork, "_craft", interrupted)
    result = go()
    assert result["interrupted"]
    assert {c["attack"] for c in result["cells"]} == {"noise"}
    monkeypatch.setattr(work.UnitWork, "_craft", craft)
    again = go()
    assert {c["attack"] for c in again["cells"]} == {"noise", "mi", "segtrans"}
    assert not again["interrupted"]


def test_interrupt_between_clean_predictions(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[str] = []
    clean = runner.clean_work

    def interrupted(plan: Any, model: str, *rest: Any) -> Any:
        predicted.append(model)
        signal.raise_signal(signal.SIGTERM)
        return clean(plan, model, *rest)

    monkeypatch.setattr(runner, "clean_work", interrupted)
    result = go()
    assert result["interrupted"]
    assert (predicted, result["cells"]) == (["a:0"], [])


def test_a_run_that_was_asked_to_stop_does_not_make_lost_images_again(
    go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go(save_images=False, pictures=0)
    clean = runner.clean_work

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return clean(*arguments)

    monkeypatch.setattr(runner, "clean_work", interrupted)
    result = go(pictures=0)
    assert (result["interrupted"], result["cells"]) == (True, [])
    assert not list((tmp_path / "run" / "images").rglob("seed0*/*.png"))


def test_the_command_line_tells_what_is_left(
    toys: None, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    craft = work.UnitWork._craft

    def interrupted(self: work.UnitWork) -> None:
        signal.raise_signal(signal.SIGINT)
        craft(self)

    monkeypatch.setattr(work.UnitWork, "_craft", interrupted)
    options = ["-s", "a:0", "-t", "a:1", "-a", "noise", "-a", "mi", "--data", f"folder:{data}?classes={CLASSES}"]
    monkeypatch.setattr(sys, "argv", ["segtrans", "run", *options, "--out", str(tmp_path / "run"), "-o", "slice=2"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert "interrupted: 1 of 6 units finished; the same command does the rest" in capsys.readouterr().err


def test_second_interrupt_stops(go: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(work.UnitWork, "_craft", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert signal.getsignal(signal.SIGINT) is before

"""adv-lib plots with a package that it names no extra for; nothing is plotted here."""

import sys
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    plots: Any = ModuleType("visdom")
    plots.Visdom = object
    monkeypatch.setitem(sys.modules, "visdom", plots)

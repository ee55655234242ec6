"""Cost against success: the front, the places of names, what a log axis cannot show."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_run

from segtrans.report.plot import _LETTER, _LINE, Plot, _steps, cost_plot, points
from segtrans.report.ranking import ranking

ATTACKS = ("noise", "fgsm", "mi", "di", "vmi", "segtrans", "segpgd + remap(grid=2) + mi(decay=0.9)")


def made(root: Path, means: dict[str, float], gradients: dict[str, int]) -> dict[str, Any]:
    document = make_run(root, attacks=list(means), images={})
    for entry in document["summary"]:
        value = means[entry["attack"]]
        entry |= {"asr_miou": value, "asr_miou_interval": [value - 0.04, value + 0.05]}
    for cost in document["costs"]:
        cost["gradient_evaluations"] = gradients[cost["attack"]]
    return document


def test_the_front_is_what_nothing_as_cheap_surpasses(tmp_path: Path) -> None:
    means = {"noise": 0.9, "fgsm": 0.1, "mi": 0.3, "di": 0.4, "vmi": 0.35, "segtrans": 0.5}
    gradients = {"noise": 0, "fgsm": 1, "mi": 10, "di": 10, "vmi": 60, "segtrans": 100}
    document = made(tmp_path, means, gradients)
    found = points(document)
    assert [p.attack for p in found] == [r.attack for r in ranking(document)]
    assert {p.attack for p in found if p.front} == {"fgsm", "di", "segtrans"}
    plot = cost_plot(document, 760, 440, "wide")
    assert plot is not None
    assert [line.point.attack for line in plot.lines] == ["noise"]
    at = {mark.point.attack: mark for mark in plot.marks}
    assert at["fgsm"].x < at["di"].x < at["mi"].x < at["vmi"].x < at["segtrans"].x
    assert at["segtrans"].y < at["di"].y < at["fgsm"].y
    assert at["mi"].high < at["mi"].y < at["mi"].low
    # A log axis: as far from 1 to 10 as from 10 to 100, where the two attacks at 10 stand side by side around it.
    ten = (at["di"].x + at["mi"].x) / 2
    assert ten - at["fgsm"].x == pytest.approx(at["segtrans"].x - ten)
    assert "di: 10 gradients per image, 40.0 % (36.0 to 45.0) (Pareto front)" in plot.words
    assert "noise: no gradients, 90.0 %" in plot.words


def test_a_mean_costs_what_its_pairs_cost(tmp_path: Path) -> None:
    document = made(tmp_path, {"mi": 0.3}, {"mi": 10})
    first, second = document["config"]["surrogates"]
    for cost in document["costs"]:
        cost["gradient_evaluations"] = 10 if cost["surrogate"] == first else 40
    # Three pairs of the first surrogate, two of the second.
    for cell in document["cells"]:
        cell["block"] = "white box" if (cell["surrogate"], cell["target"]) == (second, second) else "other backbone"
    assert [point.cost for point in points(document)] == [pytest.approx((3 * 10 + 2 * 40) / 5)]
    for cell in document["cells"]:
        cell["block"] = "white box" if cell["surrogate"] == second else "other backbone"
    assert [point.cost for point in points(document)] == [10]


def test_an_attack_is_not_free_for_having_failed_with_one_seed(tmp_path: Path) -> None:
    document = made(tmp_path, {"segtrans": 0.3}, {"segtrans": 10})
    for cost in document["costs"]:
        if cost["seed"] == 0:
            cost |= {"images": 0, "gradient_evaluations": 0}
    assert [point.cost for point in points(document)] == [10]


@pytest.mark.parametrize(("cost", "ticks"), [(30, ["30"]), (10, ["10"]), (350, ["350"])])
def test_equal_costs_have_a_tick(tmp_path: Path, cost: int, ticks: list[str]) -> None:
    plot = cost_plot(made(tmp_path, {"mi": 0.3, "di": 0.4}, {"mi": cost, "di": cost}), 760, 440, "")
    assert plot is not None
    assert [tick.text for tick in plot.columns] == ticks


def boxes(plot: Plot) -> list[tuple[float, float, float, float]]:
    found = []
    for text in plot.texts:
        width = _LETTER * len(text.text)
        left = text.x - {"start": 0, "middle": width / 2, "end": width}[text.style.split()[0]]
        found.append((left, text.y - _LINE + 3, left + width, text.y + 3))
    return found


@pytest.mark.parametrize(("width", "height"), [(760, 440), (350, 400)])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.1])
def test_names_never_collide(tmp_path: Path, width: int, height: int, spread: float) -> None:
    names = [f"{attack}{' + mi' * i}" for i in range(4) for attack in ATTACKS]
    means = {name: 0.3 + spread * (i % 7) for i, name in enumerate(names)}
    plot = cost_plot(
        made(tmp_path, means, {n: (10, 10, 10, 20)[i % 4] for i, n in enumerate(names)}), width, height, ""
    )
    assert plot is not None
    assert len(plot.marks) == len(names)
    placed = boxes(plot)
    assert placed
    for one, other in combinations(placed, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for left, top, right, bottom in placed:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert not any(left < m.x < right and top < m.y < bottom for m in plot.marks)


def test_lines_that_lie_together_share_a_name(tmp_path: Path) -> None:
    means = {"clean": 0.0, "noise": 0.01, "mi": 0.3}
    plot = cost_plot(made(tmp_path, means, {"clean": 0, "noise": 0, "mi": 10}), 760, 440, "")
    assert plot is not None
    assert [text.text for text in plot.texts] == ["noise, clean", "mi"]
    assert re.fullmatch(r"M[\d.]+ [\d.]+H[\d.]+", plot.front)


def test_no_plot_without_gradients_or_means(tmp_path: Path) -> None:
    assert cost_plot(made(tmp_path, {"noise": 0.1}, {"noise": 0}), 760, 440, "") is None
    document = made(tmp_path, {"mi": 0.1}, {"mi": 10})
    assert cost_plot({**document, "cells": [], "costs": [], "summary": []}, 760, 440, "") is None


@pytest.mark.parametrize("low", [-0.01, -3.9, -39.08, -4e5])
def test_an_axis_has_a_few_round_steps_however_far_it_goes(low: float) -> None:
    steps = _steps(low, 1.0)
    assert 2 <= len(steps) <= 7
    assert all(low <= step <= 1 for step in steps)

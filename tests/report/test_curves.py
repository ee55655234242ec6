"""Curves over budget and iterations: which attacks belong together, and where their points stand."""

from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_run

from segtrans.catalogue import attack
from segtrans.io import write_json
from segtrans.report import write_report
from segtrans.report.curves import curves, series
from segtrans.threat import in_grey_levels

ATTACKS = (
    "mi", "linf(eps=4/255) + mi", "linf(eps=16/255) + mi", "mi(iterations=20)", "mi(iterations=5, step_size='eps/T')",
    "mi(iterations=10, step_size='eps/T')", "segtrans", "segtrans + linf(eps=2/255)", "ila", "noise", "di",
)  # fmt: skip


def made(root: Path, attacks: tuple[str, ...] = ATTACKS, **settings: Any) -> dict[str, Any]:
    document = make_run(root, attacks=attacks, images={}, **settings)
    for place, (name, entry) in enumerate(document["attacks"].items()):
        value = attack(name)
        entry |= {"value": repr(value), "eps": in_grey_levels(value.threat.radius), "iterations": value.iterations}
        for found in document["summary"]:
            if found["attack"] == name:
                found |= {"asr_miou": place / 20, "asr_miou_interval": [place / 20 - 0.02, place / 20 + 0.03]}
    return document


def test_attacks_that_differ_in_one_number_alone_make_a_curve(tmp_path: Path) -> None:
    document = made(tmp_path)
    budgets = {name: [(p.cost, p.attack) for p in points] for name, points in series(document, "eps").items()}
    assert budgets == {
        "mi": [(4, "linf(eps=4/255) + mi"), (8, "mi"), (16, "linf(eps=16/255) + mi")],
        "segtrans": [(2, "segtrans + linf(eps=2/255)"), (8, "segtrans")],
    }
    lengths = {name: [(p.cost, p.attack) for p in points] for name, points in series(document, "iterations").items()}
    assert lengths == {
        "mi": [(10, "mi"), (20, "mi(iterations=20)")],
        "mi(step_size='eps/T')": [
            (5, "mi(iterations=5, step_size='eps/T')"),
            (10, "mi(iterations=10, step_size='eps/T')"),
        ],
    }


def test_plots_of_a_kind_share_their_axes(tmp_path: Path) -> None:
    found = curves(made(tmp_path))["eps"]
    assert [plot.title for plot in found] == ["segtrans", "mi"]
    assert [[tick.text for tick in plot.columns] for plot in found] == [["2", "4", "8", "16"]] * 2
    assert found[0].rows == found[1].rows
    two, eight = found[0].marks
    four, again, sixteen = found[1].marks
    # On a log axis one doubling is as wide as another.
    assert four.x - two.x == pytest.approx(eight.x - four.x) == pytest.approx(sixteen.x - again.x)
    assert again.x == eight.x
    assert sixteen.high < sixteen.y < sixteen.low
    assert found[0].faint == (found[1].front,)
    assert found[0].words == "segtrans: 35.0 % at 2 (33.0 to 38.0), 30.0 % at 8 (28.0 to 33.0)"


def test_points_say_what_they_differ_in(tmp_path: Path) -> None:
    found = curves(made(tmp_path))
    assert [mark.point.words for mark in found["eps"][0].marks] == [
        "segtrans + linf(eps=2/255): 2 grey levels, 35.0 % (33.0 to 38.0)",
        "segtrans: 8 grey levels, 30.0 % (28.0 to 33.0)",
    ]
    assert {mark.point.words.split(",")[0] for plot in found["iterations"] for mark in plot.marks} >= {
        "mi: 10 iterations",
        "mi(iterations=20): 20 iterations",
    }


def test_page_and_figures_hold_them(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", made(tmp_path))
    page, figures = write_report(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert 'id="curves"' in text
    assert text.count('class="plot small"') == 4
    names = {path.name.partition("-")[0] for path in figures.iterdir()}
    assert names == {"cost.svg", "eps", "iterations", "transfer"}
    assert "budget in grey levels, log scale" in next(figures.glob("eps-*")).read_text(encoding="utf-8")
    write_json(tmp_path / "result.json", made(tmp_path, ("mi", "di", "linf(eps=4/255) + segtrans")))
    assert 'id="curves"' not in write_report(tmp_path)[0].read_text(encoding="utf-8")

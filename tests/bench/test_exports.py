"""Tables for other programs hold what the document does."""

from pathlib import Path

import pytest

from segtrans import bench
from segtrans.bench.estimate import estimate
from segtrans.bench.tables import write_parquet
from segtrans.config import make_config

CELLS = [
    {"attack": "=x", "asr_miou": 0.5, "asr_miou_interval": [0.25, 0.75], "images": 3},
    {"attack": "y", "asr_miou": None, "asr_miou_interval": [None, None], "images": 0},
]


def test_parquet_comes_back(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    write_parquet(tmp_path / "cells.parquet", CELLS)
    assert parquet.read_table(tmp_path / "cells.parquet").to_pylist() == [
        {"attack": "=x", "asr_miou": 0.5, "asr_miou_interval_low": 0.25, "asr_miou_interval_high": 0.75, "images": 3},
        {"attack": "y", "asr_miou": None, "asr_miou_interval_low": None, "asr_miou_interval_high": None, "images": 0},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["cells.parquet"]


def test_an_estimate_counts_what_is_left_and_does_nothing(tmp_path: Path) -> None:
    model = "zoo:voc/pspnet-mobilenetv3s"
    values = {"surrogates": [model], "targets": [model], "attacks": ["noise", "mi(iterations=2)"], "pictures": 0}
    values |= {"data": "photos?side=48", "limit": 3, "slice": 2, "out": tmp_path / "run"}
    plan = bench.make_plan(make_config(values))
    before = estimate(plan)
    assert not (tmp_path / "run").exists()
    assert (before.units, before.done, before.images) == (4, 0, 3)
    assert (before.gradient_evaluations, before.forward_passes) == (3 * 2, 3 * (1 + 2))
    assert before.seconds > 0
    bench.execute(plan, quiet=True)
    made = sum(path.stat().st_size for path in (tmp_path / "run").rglob("*.png"))
    assert before.disk_bytes == pytest.approx(made, rel=0.3)
    after = estimate(plan)
    assert (after.done, after.gradient_evaluations, after.forward_passes, after.disk_bytes) == (4, 0, 0, 0)
    assert after.seconds == 0
    more = estimate(bench.make_plan(make_config({**values, "targets": [model, "zoo:voc/fcn-mobilenetv3s"]})))
    assert (more.done, more.gradient_evaluations, more.forward_passes) == (0, 0, 3 * (1 + 2))


def test_images_that_were_not_kept_are_counted_again_where_a_target_is_added(tmp_path: Path) -> None:
    model = "zoo:voc/pspnet-mobilenetv3s"
    values = {"surrogates": [model], "targets": [model], "attacks": ["mi(iterations=2)"], "pictures": 0}
    values |= {"data": "photos?side=48", "limit": 1, "save_images": False, "out": tmp_path / "run"}
    plan = bench.make_plan(make_config(values))
    bench.execute(plan, quiet=True)
    assert estimate(plan).gradient_evaluations == 0
    more = bench.make_plan(make_config({**values, "targets": [model, "zoo:voc/fcn-mobilenetv3s"]}))
    assert estimate(more).gradient_evaluations == 2

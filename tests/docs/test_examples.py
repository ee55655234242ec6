"""Every script of examples/ runs, on little."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAYS = {
    "cluster_run": "segtrans",
    "ensemble_surrogate": "2 gradients: asr_miou",
    "hf_segformer": "segtrans  CNN ↔ transformer: asr_miou",
    "own_module": "report.html",
    "photographs": "% of the pixels",
    "smp_model": "smp:runs/unet-resnet18 -> zoo:voc/pspnet-mobilenetv3s: asr_miou",
    "targeted_attack": "% of the people hidden",
}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    if script.stem == "hf_segformer" and find_spec("transformers") is None:
        pytest.skip("needs transformers: pip install 'segtrans[hf]'")
    small = {"LIMIT": "1", "SIDE": "96", "ITERATIONS": "2"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env={**os.environ, **small}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[script.stem] in done.stdout


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_is_short(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40


def test_a_real_folder_of_photographs_without_masks(tmp_path: Path) -> None:
    photos = ROOT.parent / "shared" / "data" / "voc2012" / "VOCdevkit" / "VOC2012" / "JPEGImages"
    if not photos.is_dir():
        pytest.skip(f"needs photographs in {photos}")
    small = {"LIMIT": "1", "ITERATIONS": "1"}
    script = ROOT / "examples" / "photographs.py"
    done = subprocess.run(
        [sys.executable, script, photos],
        cwd=tmp_path,
        env={**os.environ, **small},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / "runs" / "photographs").glob("*.png")]) == 1

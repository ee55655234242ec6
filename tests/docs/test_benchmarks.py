"""The sections of benchmarks/speed.py that take seconds still run; what they print is measured by hand."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECTIONS = ("kernels", "gradient", "loop", "memory", "scores")


def test_the_benchmarks_run(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    small = ["--size", "32", "--batch", "1", "--iterations", "1", "--repeats", "1", "--json", str(rows)]
    command = [sys.executable, "benchmarks/speed.py", *SECTIONS, *small]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(rows.read_text(encoding="utf-8"))["rows"]
    assert {row["section"] for row in found} == {*SECTIONS}
    assert all(row["value"] > 0 for row in found)

"""A small data set, and runs on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_run import CLASSES, toy

from segtrans import bench
from segtrans.bench import plan as planning


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names like ``a:0`` are networks of :mod:`toy_run`."""
    monkeypatch.setattr(planning, "load_model", toy)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images of two sizes with masks; void in the corner of each; the last one starts with a white pixel."""
    root = tmp_path / "data"
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        size = (24, 32) if i % 2 else (20, 28)
        mask = random.integers(0, CLASSES, size, dtype=np.uint8)
        mask[:3, :3] = 255
        image = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        if i == 5:
            image[0, 0] = 255
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


@pytest.fixture
def go(toys: None, data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def go(**values: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "surrogates": ["a:0"],
            "targets": ["a:0", "a:1", "b:2"],
            "attacks": ["noise", "mi", "segtrans"],
            "data": f"folder:{data}?classes={CLASSES}",
            "iterations": 3,
            "out": tmp_path / "run",
            "pictures": 1,
        }
        return bench.run(quiet=True, **{**defaults, **values})

    return go

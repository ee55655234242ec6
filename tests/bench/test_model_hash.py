"""What tells models apart beside their weights."""

import copy
import importlib
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segtrans.bench import identity
from segtrans.models import SegModel


class Kind(Enum):
    ONE = partial(max, 1)
    TWO = partial(max, 2)


@dataclass
class Setting:
    gain: int

    def twice(self) -> int:
        return 2 * self.gain

    def thrice(self) -> int:
        return 3 * self.gain


def times(k: int) -> Callable[[int], int]:
    return lambda x: x * k


def test_what_a_network_does_beside_its_weights_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\n\nclass Net(nn.Conv2d):\n    def forward(self, x):\n        return {} * x\n"
    monkeypatch.syspath_prepend(tmp_path)

    def hash_of(factor: int, **attributes: object) -> str:
        (tmp_path / "elsewhere.py").write_text(source.format(factor))
        monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
        importlib.invalidate_caches()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = importlib.import_module("elsewhere").Net(3, 2, 1)
        for name, value in attributes.items():
            setattr(network, name, value)
        return identity.model_hash(SegModel(network, 2))

    assert hash_of(10) == hash_of(10)
    assert hash_of(10) != hash_of(20)
    assert hash_of(10, scale=1.0) != hash_of(10, scale=2.0)
    assert hash_of(10, _gain=1.0) != hash_of(10, _gain=2.0)
    for kept in (3, torch.ones(2), object(), None):
        assert hash_of(10, _kept=kept) == hash_of(10), "what a forward pass leaves behind"
    assert hash_of(10, call=print) != hash_of(10, call=len)
    assert hash_of(10, call=object()) == hash_of(10, call=object()), "what prints its address tells nothing"
    assert hash_of(10, log=Path("a")) == hash_of(10, log=Path("b")), "nor does a place"
    for one, other in (
        ([1.0, 2.0], [1.0, 3.0]),
        (Namespace(gain=1), Namespace(gain=2)),
        (range(2), range(3)),
        (Setting(1), Setting(2)),
        ("a".upper, "a".lower),
        (Setting(1).twice, Setting(1).thrice),
        (Setting(1).twice, Setting(2).twice),
        (Kind.ONE, Kind.TWO),
        (slice(1), slice(2)),
        ({"a": 1}, {"a": 2}),
        (torch.ones(2), torch.zeros(2)),
        (lambda x: x + 1, lambda x: x + 2),
        (torch.nn.functional.relu, torch.nn.functional.gelu),
        (lambda x: torch.relu(x), lambda x: torch.tanh(x)),
        (times(1), times(2)),
        (lambda x, k=1: x, lambda x, k=2: x),
        (partial(max, 1), partial(max, 2)),
        (np.ones(2), np.zeros(2)),
        (np.float32(1), np.float32(2)),
        ({"a", "b"}, {"a", "c"}),
        (torch.float16, torch.bfloat16),
        ([object(), 1], [object(), 2]),
    ):
        assert hash_of(10, setting=one) == hash_of(10, setting=copy.deepcopy(one))
        assert hash_of(10, setting=one) != hash_of(10, setting=other)


def test_settings_that_cannot_be_read_are_left_out() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for setting in (endless, torch.eye(3).to_sparse(), torch.empty(2, device="meta")):
        network: Any = nn.Conv2d(3, 2, 1)
        network.setting = setting
        assert len(identity.model_hash(SegModel(network, 2))) == 64


SCRIPT = """
import multiprocessing, sys, torch
from segtrans.bench.identity import model_hash
from segtrans.models import wrap

def act(x):
    return x.relu()

class Norm(torch.nn.Module):
    pass

def hashed(_):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 2, 1)
    network.act, network.norm = act, Norm
    return model_hash(wrap(network, 2))

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(*pool.map(hashed, [0]), hashed(0))
"""


def test_workers_find_the_same_for_what_a_script_defines(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    theirs, ours = done.stdout.split()
    assert theirs == ours


def test_a_defence_around_a_model_is_another_model() -> None:
    class Defended(SegModel):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x * self.levels).round() / self.levels)

    def hash_of(kind: type[SegModel], levels: int, name: str = "m") -> str:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = kind(torch.nn.Conv2d(3, 2, 1), 2, name=name)
        model.levels = levels
        return identity.model_hash(model)

    assert hash_of(Defended, 8) == hash_of(Defended, 8, "other")
    assert len({hash_of(SegModel, 8), hash_of(Defended, 8), hash_of(Defended, 4)}) == 3

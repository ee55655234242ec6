"""Weights from files: what is unwrapped, what is refused, and that nothing in a file is ever run."""

import argparse
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segtrans.errors import DataError
from segtrans.models.checkpoint import load_weights, read_tensors

State = dict[str, Tensor]


class Small(nn.Module):
    def __init__(self, classes: int = 4, auxiliary: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
        self.classifier = nn.Conv2d(6, classes, 1)
        if auxiliary:
            self.aux_classifier = nn.Conv2d(6, classes, 1)


def trained(**options: Any) -> State:
    return {k: torch.rand_like(v) if v.is_floating_point() else v + 7 for k, v in Small(**options).state_dict().items()}


def assert_holds(network: nn.Module, state: State) -> None:
    own = network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in state.items() if k in own)


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + k: v for k, v in state.items()}


@pytest.mark.parametrize(
    "pack",
    [
        dict,
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda s: {"model": s, "args": {"name": "x"}},
        lambda s: {"model": {"state_dict": s}},
        prefixed("module."),
        prefixed("model."),
        prefixed("network."),
        prefixed("module.model."),
        prefixed("_orig_mod."),
        lambda s: {"state_dict": prefixed("model.")(s) | {"loss.weight": torch.ones(4)}},
        lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
        lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    ],
)
def test_wrappers_and_prefixes(tmp_path: Path, pack: Callable[[State], Any]) -> None:
    state = trained()
    torch.save(pack(state), tmp_path / "w.pth")
    network = Small()
    load_weights(network, tmp_path / "w.pth")
    assert_holds(network, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})


def test_safetensors_and_the_old_torch_format(tmp_path: Path) -> None:
    state = trained()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pt"):
        network = Small()
        load_weights(network, tmp_path / name)
        assert_holds(network, state)


@pytest.mark.parametrize(("saved", "built"), [(True, False), (False, True)])
def test_auxiliary_heads_may_be_absent_or_extra(tmp_path: Path, saved: bool, built: bool) -> None:
    state = trained(auxiliary=saved)
    torch.save(state, tmp_path / "w.pth")
    network = Small(auxiliary=built)
    load_weights(network, tmp_path / "w.pth")
    assert_holds(network, state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("body.0.bias"), r"1 weights are missing, 0 unexpected .*the first is 'body.0.bias'"),
        (lambda s: s.update(extra=torch.ones(1)), r"0 weights are missing, 1 unexpected .*the first is 'extra'"),
        (
            lambda s: s.update({"classifier.bias": torch.ones(9)}),
            r"1 of another shape; the first is 'classifier.bias', \(9,\) instead of \(4,\)",
        ),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, change: Callable[[State], Any], message: str) -> None:
    state = trained()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    network = Small()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(DataError, match=message) as error:
        load_weights(network, tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in str(error.value)
    assert "\n" not in str(error.value)
    assert_holds(network, before)


class Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.witness),))


def _torch_zip(path: Path, content: Any) -> None:
    """A torch checkpoint with a pickle that torch.save itself would not have written."""
    torch.save({"w": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, pickle.dumps(content, protocol=2) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".safetensors", ""])
@pytest.mark.parametrize("write", [_torch_zip, lambda path, content: path.write_bytes(pickle.dumps(content))])
def test_pickles_that_execute_code_are_refused(tmp_path: Path, suffix: str, write: Callable[[Path, Any], Any]) -> None:
    witness, path = tmp_path / "witness", tmp_path / f"evil{suffix}"
    write(path, {"state_dict": trained(), "extra": Hostile(witness)})
    with pytest.raises(DataError, match="evil"):
        read_tensors(path)
    assert not witness.exists()


def test_what_a_pickle_asked_for_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": trained(), "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"w\.pth: refused, its pickle asks for argparse\.Namespace"):
        read_tensors(tmp_path / "w.pth")


def _truncated() -> bytes:
    buffer = io.BytesIO()
    torch.save(trained(), buffer)
    return buffer.getvalue()[:-900]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02", b"PK\x03\x04nothing", _truncated()])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"w\{suffix}: "):
        read_tensors(path)


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], {"epoch": 3}, {"model": {}}, {}])
def test_checkpoints_without_named_tensors(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match="no named tensors"):
        read_tensors(tmp_path / "w.pth")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(DataError, match="no such file"):
            read_tensors(path)

"""Weights from files: what is unwrapped, what is refused, and that nothing in a file is ever run."""

import argparse
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
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


def _legacy(path: Path, content: Any) -> None:
    """The file format before zip: a magic number, a version, a system, what was saved, and storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = (0x1950A86A20F9469CFC6C, 1001, system, content, [])
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))


def _tar(path: Path, content: Any) -> None:
    """The file format before that."""
    with tarfile.open(path, "w") as archive:
        for name, part in (("storages", 0), ("tensors", 0), ("pickle", content)):
            raw = pickle.dumps(part, protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_torch_zip, r"refused, its pickle asks for \w+\.mkdir; only files of plain tensors are read"),
        (_legacy, r"refused, its pickle asks for \w+\.mkdir; only files of plain tensors are read"),
        (_tar, r"refused, it is a legacy \.tar; only files of plain tensors are read"),
    ],
)
def test_no_format_of_torch_executes_code(tmp_path: Path, write: Callable[[Path, Any], None], reason: str) -> None:
    content, path = {"state_dict": {"w": Hostile(tmp_path / "witness")}}, tmp_path / "evil.pth"
    write(path, content)
    with pytest.raises(DataError, match=rf"evil\.pth: {reason}$"):
        read_tensors(path)
    assert not (tmp_path / "witness").exists()
    if write is not _tar:  # which the library itself has given up
        torch.load(path, weights_only=False)
        assert (tmp_path / "witness").exists(), "it would have"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_programs_are_no_weights(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"program{suffix}"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(nn.Conv2d(3, 4, 1)).save(str(path))
    with pytest.raises(DataError, match=rf"program\{suffix}: ") as error:
        read_tensors(path)
    assert "weights_only" not in str(error.value), "no advice to run it"
    if suffix != ".safetensors":
        assert str(error.value).endswith(": refused, it is a TorchScript archive; only files of plain tensors are read")


def _safetensors(shape: list[int], *ends: int, kind: str = "F32", length: int | None = None) -> bytes:
    """A file of 8 bytes of content whose header says what it likes."""
    header = json.dumps({"w": {"dtype": kind, "shape": shape, "data_offsets": ends}}).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        _safetensors([2], 0, 8, length=2**62),
        _safetensors([2], 0, 8, length=90_000_000),
        _safetensors([2**40], 0, 2**42),
        _safetensors([2**62, 2**62], 0, 8),
        _safetensors([2], 2**63, 2**63 + 8),
        _safetensors([2], -8, 0),
        _safetensors([2], 8, 0),
        _safetensors([2], 0, 4),
        _safetensors([2], 0, 8, kind="PICKLE"),
        _safetensors([2], 0, 8)[:-1],
        _safetensors([2], 0, 8) + b"more",
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(_safetensors([2], 0, 8))
    assert read_tensors(path)["w"].tolist() == [0, 0]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"w\.safetensors: not a readable checkpoint \(") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


def test_checkpoints_that_unpack_to_more_than_they_are(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "sound.pth")
    assert len(read_tensors(tmp_path / "sound.pth")["w"]) == 100_000
    with zipfile.ZipFile(tmp_path / "sound.pth") as sound:
        parts = {name: sound.read(name) for name in sound.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name, data in parts.items():
            bomb.writestr(name, data)
    assert len(torch.load(tmp_path / "bomb.pth", weights_only=True)["w"]) == 100_000
    with pytest.raises(DataError, match=r"bomb\.pth: refused, it is compressed, which torch\.save never does"):
        read_tensors(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (torch.empty(2**40, device="meta"), "float32, strided, on meta"),
        (torch.eye(2).to_sparse(), "float32, sparse_coo, on cpu"),
        (torch.ones(2, dtype=torch.complex64), "complex64, strided, on cpu"),
    ],
)
def test_tensors_that_no_weight_can_be(tmp_path: Path, tensor: Tensor, what: str) -> None:
    torch.save({"fine": torch.ones(1), "odd": tensor}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=rf"w\.pth: refused, 'odd' is no plain tensor \({what}\)"):
        read_tensors(tmp_path / "w.pth")


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

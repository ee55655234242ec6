"""Exported programs and TorchScript as models, surrogates included; and what such files may not do."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from model_contract import assert_contract, images
from torch import Tensor, nn

from segtrans.bench.identity import model_hash
from segtrans.catalogue import attack
from segtrans.errors import DataError, ImageSizeError, ModelError, UsageError
from segtrans.models import load_model, wrap

FREE = torch.export.Dim.DYNAMIC


def network(stride: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Conv2d(3, 6, 3, stride, 1)
        return nn.Sequential(first, nn.BatchNorm2d(6), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()


def save(path: Path, size: tuple[int, int] = (16, 24), count: int = 2, free: tuple[int, ...] = (0, 2, 3)) -> nn.Module:
    """The network as an exported program, of any size along the ``free`` axes."""
    net = network()
    axes = (dict.fromkeys(free, FREE),)
    torch.export.save(torch.export.export(net, (torch.rand(count, 3, *size),), dynamic_shapes=axes), path)
    return net


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    save(path)
    return path


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "net.pt"
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(network()).save(path)
    return path


@pytest.mark.parametrize("kind", ["program", "script"])
def test_it_is_the_network_and_keeps_the_contract(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    spec = f"{kind}:{path}?classes=4&mean=0.4,0.5,0.6&std=0.2,0.2,0.2"
    model, own = load_model(spec), wrap(network(), 4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    assert model.name == "net"
    assert_contract(model, 4)
    x = images((18, 30), 3).float()
    torch.testing.assert_close(model(x), own(x), rtol=1e-5, atol=1e-5)
    mi = attack("mi(iterations=3)")
    torch.testing.assert_close(mi(model, x), mi(own, x), rtol=0, atol=1e-4)


def test_sizes_that_a_program_does_not_take_are_named(tmp_path: Path) -> None:
    tall = {2: torch.export.Dim("height", min=8, max=32)}
    program = torch.export.export(network(), (torch.rand(2, 3, 16, 24),), dynamic_shapes=(tall,))
    torch.export.save(program, tmp_path / "tall.pt2")
    model = load_model(f"program:{tmp_path / 'tall.pt2'}?classes=4")
    assert model(images((30, 24), 2).float()).shape == (2, 4, 30, 24)
    with pytest.raises(ImageSizeError, match=r"tall\.pt2 cannot be run on \(2, 3, 40, 24\) \(.+\)$"):
        model(images((40, 24), 2).float())


def test_classes_and_size_are_those_of_the_program(program: Path, script: Path, tmp_path: Path) -> None:
    model = load_model(f"program:{program}")
    assert (len(model.classes), model.preprocessing.fixed_size) == (4, None)
    net = save(tmp_path / "fixed.pt2", (16, 20), 2, ())
    fixed = load_model(f"program:{tmp_path}/fixed.pt2?mean=0,0,0&std=1,1,1")
    assert fixed.preprocessing.fixed_size == (16, 20)
    # Two images at a time, of which the last may be missing.
    x = images((16, 20), 5).float()
    expected = wrap(net, 4, mean=(0, 0, 0), std=(1, 1, 1))(x)
    torch.testing.assert_close(fixed(x), expected, rtol=1e-5, atol=1e-5)
    assert_contract(fixed, 4)
    with pytest.raises(UsageError, match=r"net.pt: does not say how many classes it knows; add classes=N"):
        load_model(f"script:{script}")


def test_the_hash_is_of_all_bytes(program: Path, script: Path, tmp_path: Path) -> None:
    """Weights of the same names do not make the same function."""
    assert model_hash(load_model(f"program:{program}")) == model_hash(load_model(f"program:{program}"))
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(network(1)).save(tmp_path / "net.pt")
    one, other = (load_model(f"script:{path}?classes=4") for path in (script, tmp_path / "net.pt"))
    assert one.state_dict().keys() == other.state_dict().keys()
    assert model_hash(one) != model_hash(other)


@pytest.mark.parametrize("kind", ["program", "script"])
def test_there_are_no_layers(kind: str, request: pytest.FixtureRequest) -> None:
    model = load_model(f"{kind}:{request.getfixturevalue(kind)}?classes=4")
    for name in "fia", "ghost-mi":
        with pytest.raises(ModelError):
            attack(name)(model, images((16, 24)).float())


class Evil:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def _sample(name: str, data: bytes, evil: Evil) -> bytes:
    return _saved(evil) if "sample_inputs" in name else data


def _weight(name: str, data: bytes, evil: Evil) -> bytes:
    if name.endswith("weights_config.json"):
        place = b'"path_name": "weight_1", "is_param": true, "use_pickle": '
        assert place + b"false" in data
        return data.replace(place + b"false", place + b"true")
    return _saved(evil) if name.endswith("weight_1") else data


def _constant(name: str, data: bytes, evil: Evil) -> bytes:
    meta = b'{"path_name": "opaque_obj_0", "is_param": false, "use_pickle": true, "tensor_meta": null}'
    return b'{"config": {"c": ' + meta + b"}}" if name.endswith("constants_config.json") else data


def _saved(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    torch.save((evil,), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("change", [_sample, _weight, _constant])
def test_pickles_in_a_program_are_refused(
    program: Path, tmp_path: Path, change: Callable[[str, bytes, Evil], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil, path = Evil(tmp_path / "witness"), tmp_path / "evil.pt2"
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name), evil))
        if change is _constant:
            new.writestr(f"{old.namelist()[0].split('/')[0]}/data/constants/opaque_obj_0", pickle.dumps(evil))
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    with pytest.raises(DataError, match=r"evil.pt2: refused, it holds more than a graph and tensors"):
        load_model(f"program:{path}")
    assert not evil.witness.exists()
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "0"
    # That the attack is one: torch itself falls for it.
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        patch.setattr("logging.raiseExceptions", False)
        with suppress(Exception):  # what it makes of the file afterwards does not matter
            torch.export.load(path)
    assert evil.witness.exists()


def test_files_that_are_none(program: Path, script: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.pt2").write_bytes(program.read_bytes()[:3000])
    (tmp_path / "bad.pt").write_bytes(script.read_bytes()[:3000])
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(tmp_path / "less.pt2", "w") as new:
        for name in old.namelist():
            if not name.endswith("weight_1"):
                new.writestr(name, old.read(name))
    for spec, message in (
        (f"program:{tmp_path}/bad.pt2", "bad.pt2: not an exported program that can be loaded"),
        (f"program:{tmp_path}/less.pt2", "less.pt2: not an exported program that can be loaded"),
        (f"script:{tmp_path}/bad.pt", "bad.pt: not a TorchScript file that can be loaded"),
        (f"program:{script}", r"it is another archive, or one of torch before 2\.8"),
        (f"script:{program}", "net.pt2: not a TorchScript file"),
        (f"program:{tmp_path}/none.pt2", "none.pt2: no such file"),
        (f"script:{tmp_path}/none.pt", "none.pt: no such file"),
    ):
        with pytest.raises(DataError, match=message) as error:
            load_model(spec)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    x = torch.rand(2, 3, 8, 8)
    torch.export.save(torch.export.export(Two(), (x, x)), tmp_path / "two.pt2")
    with pytest.raises(UsageError, match=r"takes inputs of shape \(\); expected images \(N, 3, height, width\)"):
        load_model(f"program:{tmp_path}/two.pt2")

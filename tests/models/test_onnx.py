"""Models as ONNX files, and ONNX files as targets."""

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_contract import images
from torch import Tensor, nn

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx
from onnx import TensorProto, helper, numpy_helper

from segtrans import bench
from segtrans.bench.identity import model_hash
from segtrans.bench.plan import make_plan
from segtrans.cli import main
from segtrans.config import make_config
from segtrans.doctor import examine
from segtrans.errors import DataError, MissingError, ModelError, UsageError
from segtrans.models import Ensemble, SegModel, load_model, wrap
from segtrans.models.onnx import export_onnx


class Coarse(nn.Module):
    """Logits at half the size, so that they are interpolated; with ``grid`` of that size only."""

    def __init__(self, grid: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(3, 5, 3, 2, 1), nn.Conv2d(5, 4, 1)
            self.norm = nn.BatchNorm2d(5)
        self.place = None if grid is None else nn.Parameter(torch.linspace(-1, 1, grid).expand(1, 5, grid, grid))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.norm(self.first(x)).relu()
        if self.place is not None:
            z = z + self.place
        return {"out": self.last(z)}


def toy(grid: int | None = None, **settings: Any) -> SegModel:
    classes = ("sky", "tree", "road", "car")
    return wrap(Coarse(grid), classes, name="toy", backbone="conv", bgr=True, multiple=8, **settings)


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that shrinks large images, written for all sizes."""
    path = tmp_path_factory.mktemp("onnx") / "free.onnx"
    assert export_onnx(toy(max_side=50, label_map=(1, 0, None, 1)), path) is None
    return path


def by_hand(path: Path, shape: tuple[Any, ...], kind: int = TensorProto.FLOAT, **options: Any) -> Tensor:
    """What somebody else's exporter may have written: a convolution of single pixels, whose weights are returned."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1) / 10 - 0.2
    nodes = [helper.make_node("Conv", ["cast" if kind != TensorProto.FLOAT else "x", "w"], ["y"])]
    if kind != TensorProto.FLOAT:
        nodes.insert(0, helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT))
    out = (shape[0], 2, *shape[2:])
    ends = [helper.make_tensor_value_info("x", kind, shape)], [helper.make_tensor_value_info("y", 1, out)]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, **options)
    return torch.from_numpy(weight)


def test_a_file_is_the_model_whatever_the_size(free: Path) -> None:
    model, written = toy(max_side=50, label_map=(1, 0, None, 1)), load_model(f"onnx:{free}")
    assert (written.name, written.backbone, written.classes) == ("toy", "conv", ("class 0", "class 1"))
    for size in (40, 48), (17, 29), (65, 97), (31, 120):
        for count in 1, 3:
            x = images(size, count).float()
            with torch.inference_mode():
                torch.testing.assert_close(written(x), model(x), rtol=1e-4, atol=1e-4)
    session = written.network.function._session()
    assert [(i.name, i.shape[1]) for i in session.get_inputs()] == [("images", 3)]
    assert json.loads(session.get_modelmeta().custom_metadata_map["segtrans"])["backbone"] == "conv"


def test_our_own_files_know_their_classes(free: Path) -> None:
    assert len(load_model(f"onnx:{free}?classes=2").classes) == 2
    with pytest.raises(UsageError, match=r"free\.onnx: knows 2 classes; leave classes=4 out"):
        load_model(f"onnx:{free}?classes=4")


def test_a_network_that_depends_on_the_size_gets_a_fixed_one(tmp_path: Path) -> None:
    model = toy(20, max_side=40)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert export_onnx(model, tmp_path / "a.onnx") == (40, 40)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    written = load_model(f"onnx:{tmp_path / 'a.onnx'}")
    assert written.preprocessing.fixed_size == (40, 40)
    assert written.classes == ("sky", "tree", "road", "car")
    x = images((40, 40), 2).float()
    torch.testing.assert_close(written(x), model(x), rtol=1e-4, atol=1e-4)
    assert written(images((24, 60), 2).float()).shape == (2, 4, 24, 60)


def test_the_command_line_writes_an_ensemble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = Ensemble([toy(), toy(mean=(0, 0, 0))])
    monkeypatch.setattr("segtrans.models.load_model", lambda name: two)
    monkeypatch.setattr(sys, "argv", ["segtrans", "export", "two", str(tmp_path / "b.onnx"), "--size", "24", "32"])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    assert "images of 24 × 32 (height × width) only" in capsys.readouterr().out
    x = images((24, 32)).float()
    torch.testing.assert_close(load_model(f"onnx:{tmp_path}/b.onnx")(x), two(x), rtol=1e-4, atol=1e-4)


def test_what_has_no_form_leaves_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2] if float(x.mean()) > 0 else x[:, 1:]

    (tmp_path / "c.onnx").write_text("kept")
    with pytest.raises(ModelError, match="model 'Odd' cannot be written as ONNX"):
        export_onnx(wrap(Odd(), 2), tmp_path / "c.onnx")

    # What is written but says something else is not put into place either.
    def other(model: SegModel, file: Path, size: Any) -> str:
        by_hand(file, (1, 3, 8, 8))
        return ""

    monkeypatch.setattr("segtrans.models.onnx._write", other)
    with pytest.raises(ModelError, match=r"its logits of 8 × 8 images differ by .* of their standard deviation"):
        export_onnx(wrap(nn.Conv2d(3, 2, 1), 2), tmp_path / "c.onnx", (8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["c.onnx"]
    assert (tmp_path / "c.onnx").read_text() == "kept"


@pytest.mark.parametrize(
    ("shape", "kind", "options", "scale", "shift"),
    [
        ((1, 3, 6, 8), TensorProto.FLOAT, "?mean=0,0,0&std=1,1,1", 1, 0),
        ((2, 3, 6, 8), TensorProto.FLOAT, "?mean=0.5,0.5,0.5&std=0.5,0.5,0.5", 2, -1),
        (("n", 3, "h", "w"), TensorProto.FLOAT, "?mean=0,0,0&std=1,1,1&multiple=4", 1, 0),
        (("n", 3, 6, 8), TensorProto.UINT8, "", 255, 0),
        ((1, 3, 6, 8), TensorProto.DOUBLE, "?mean=0,0,0&std=1,1,1", 1, 0),
    ],
)
def test_files_from_elsewhere(
    tmp_path: Path, shape: tuple[Any, ...], kind: int, options: str, scale: float, shift: float
) -> None:
    weight = by_hand(tmp_path / "x.onnx", shape, kind)
    model = load_model(f"onnx:{tmp_path}/x.onnx{options}")
    assert len(model.classes) == 2
    assert model.preprocessing.fixed_size == ((6, 8) if 6 in shape else None)
    x = (images((6, 8), 3).float() * 255).round() / 255
    expected = nn.functional.conv2d(scale * x + shift, weight)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert model(images((9, 5), 3)).dtype == torch.float64


def test_without_a_word_images_are_normalised_as_for_imagenet(tmp_path: Path) -> None:
    weight = by_hand(tmp_path / "x.onnx", (1, 3, 6, 8))
    x = images((6, 8), 1).float()
    expected = wrap(nn.Conv2d(3, 2, 1, bias=False), 2)
    expected.network.weight.copy_(weight)
    torch.testing.assert_close(load_model(f"onnx:{tmp_path}/x.onnx")(x), expected(x), rtol=1e-4, atol=1e-4)


def test_the_hash_is_of_all_bytes(tmp_path: Path) -> None:
    file, weights = tmp_path / "x.onnx", tmp_path / "w.bin"
    by_hand(file, (1, 3, 6, 8), save_as_external_data=True, location="w.bin", size_threshold=0)
    first = model_hash(load_model(f"onnx:{file}"))
    assert model_hash(load_model(f"onnx:{file}")) == first
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert model_hash(load_model(f"onnx:{file}")) != first
    by_hand(file, (1, 3, 6, 8))
    inside = model_hash(load_model(f"onnx:{file}"))
    by_hand(file, (1, 3, 6, 9))
    assert model_hash(load_model(f"onnx:{file}")) != inside


def test_threads_follow_torch_and_results_stay(free: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(f"onnx:{free}")
    x = images((65, 97), 4).float()
    first = model(x)
    for number in 1, 2, 3:
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        for same in model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
            assert torch.equal(same(x), first)
            assert same.network.function._session().get_session_options().intra_op_num_threads == number
    assert torch.equal(torch.cat([model(one) for one in x.split(1)]), first)


def test_a_file_is_a_target_and_no_surrogate(free: Path, tmp_path: Path) -> None:
    spec = f"onnx:{free}"
    values: dict[str, Any] = {"data": "photos?side=32", "limit": 2, "pictures": 0, "out": tmp_path / "run"}
    values |= {"targets": [spec], "iterations": 2}
    mine = {"mine": toy(max_side=50, label_map=(1, 0, None, 1))}
    result = bench.run(surrogates=["mine"], models=mine, attacks=["mi"], quiet=True, workers=2, **values)
    assert [cell["images"] for cell in result["cells"]] == [2]
    bench.run(surrogates=[spec], attacks=["noise"], quiet=True, **values)
    for name, member in (spec, ""), (f"mean:{spec}?std=1,1,1,{spec}", ": its member 'toy'"):
        message = rf"surrogate '.*'{member} has no gradient, which attack 'mi' needs; use it as a target"
        with pytest.raises(ModelError, match=message) as error:
            make_plan(make_config({"surrogates": [name], "attacks": ["noise", "mi"], **values}))
        assert "\n" not in str(error.value)
    assert [finding.fault for finding in examine(load_model(spec))] == ["not differentiable"]


def test_in_python_a_surrogate_without_a_gradient_is_one_sentence_too(free: Path) -> None:
    from segtrans.catalogue import attack

    for name in "mi", "fia", "sgm":
        with pytest.raises(ModelError):
            attack(name)(load_model(f"onnx:{free}"), images((24, 32)).float())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (1, 6, 8, 3)}, r"takes inputs of shape \(1, 6, 8, 3\); expected images"),
        ({"shape": (1, 3, 6, 8), "kind": TensorProto.INT32}, r"takes tensor\(int32\) and returns tensor\(float\)"),
    ],
)
def test_other_graphs_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    by_hand(tmp_path / "x.onnx", **change)
    with pytest.raises(UsageError, match=message):
        load_model(f"onnx:{tmp_path}/x.onnx")


def test_files_that_are_none(tmp_path: Path, free: Path) -> None:
    with pytest.raises(DataError, match=r"none.onnx: no such file"):
        load_model(f"onnx:{tmp_path}/none.onnx")
    (tmp_path / "bad.onnx").write_bytes(free.read_bytes()[:500])
    with pytest.raises(DataError, match=r"bad.onnx: not an ONNX file that can be loaded") as error:
        load_model(f"onnx:{tmp_path}/bad.onnx")
    assert "\n" not in str(error.value)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r"pip install 'segtrans\[onnx\]'"):
        load_model(f"onnx:{free}")
    with pytest.raises(MissingError, match=r"pip install 'segtrans\[onnx\]'"):
        export_onnx(toy(), tmp_path / "x.onnx")

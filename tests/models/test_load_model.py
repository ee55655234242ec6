"""load_model: the spelling of models, its options and its errors."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import segmentation_models_pytorch as smp
import torch
from model_contract import assert_contract, images
from safetensors.torch import save_file
from torch import nn

from segtrans.errors import DataError, MissingError, SegtransError, UsageError
from segtrans.models import load_model, wrap

UNET = "smp:unet/resnet18?weights=random&classes=3"
LRASPP = "torchvision:lraspp_mobilenet_v3_large"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvison:fcn_resnet50", "unknown model source 'torchvison'; did you mean torchvision?"),
        ("fcn_resnet50", "unknown model source 'fcn_resnet50'; known: fcn, file, hf, loss, mean, onnx, probabilities"),
        ("", "unknown model source ''"),
        ("smp:", "model 'smp:' has no name; expected smp:NAME"),
        ("torchvision:fcn_resnet5", "unknown torchvision model 'fcn_resnet5'; did you mean fcn_resnet50"),
        ("torchvision:fcn_resnet50?weight=x", "of model torchvision:fcn_resnet50 'weight'; did you mean weights?"),
        (f"{LRASPP}?weights", "option 'weights' of model torchvision:lraspp_mobilenet_v3_large has no value"),
        (f"{LRASPP}?classes=2&classes=3", "option 'classes' of model .* is given twice"),
        (f"{LRASPP}?weights=random&classes=many", "option 'classes' of model .* is 'many'; expected a whole number"),
        (f"{LRASPP}?weights=random&classes=0", "classes is 0; allowed are whole numbers from 1"),
        (f"{LRASPP}?classes=19", "know 21 classes, not 19; give your own as weights=FILE"),
        ("smp:unet/resnet18", r"smp ships no trained .*smp:unet/resnet18\?weights=FILE&classes=N"),
        ("smp:unet/resnet18?weights=random", "smp ships no trained"),
        ("smp:unet", "neither ARCHITECTURE/ENCODER nor a folder"),
        ("smp:uned/resnet18?weights=random&classes=2", "unknown smp architecture 'uned'; did you mean unet"),
        ("smp:unet/resnet17?weights=random&classes=2", "unknown smp encoder 'resnet17'; did you mean"),
        ("smp:unet/tu-convnext_tinny?weights=random&classes=2", "did you mean tu-convnext_tiny"),
        ("smp:unet/0?weights=random&classes=2", "unknown smp encoder '0'; known: resnet50, tu-convnext_tiny, …"),
        ("smp:deeplabv3/densenet121?weights=random&classes=2", "smp cannot put deeplabv3 on encoder densenet121"),
        ("smp:unet/resnet18?weights=random&classes=99999999999", "classes is 99999999999; allowed are 1 to 65536"),
        ("smp:unet/tu-nest_tiny?weights=random&classes=3", "smp cannot put unet on encoder tu-nest_tiny"),
        ("fcn:tu-ghostnet_050?weights=random&classes=2", "'tu-ghostnet_050' cannot be given output stride 16"),
        (f"{UNET}&data_classes=9", "data_classes is 9, and the network has 3 classes; give a label map, too"),
        (f"{UNET}&label_map=0,1,2&data_classes=x", "option 'data_classes' of model .* is 'x'; expected a whole number"),
        ("file:w.pth", r"file:w.pth needs its architecture, such as \?arch="),
        ("file:w.pth?arch=mean:zoo:a,zoo:b", "unknown option of model mean:zoo:a,zoo:b 'weights'"),
        ("mean:" + UNET, "two or more"),
        (f"{UNET}&label_map=0,x,1", "label_map is '0,x,1'"),
        (f"{UNET}&label_map=0,1", "label map has 2 entries"),
        (f"{UNET}&mean=0.5,0.5", "mean .* need one finite number each"),
        (f"{UNET}&mean=nan,0.5,0.5", "mean .* need one finite number each"),
        (f"{UNET}&std=nan,0.5,0.5", "std .* need one finite number each"),
        (f"{UNET}&std=a,b,c", "std is 'a,b,c'; expected three numbers"),
    ],
)
def test_usage_errors_say_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        load_model(spec)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_other_colours_leave_the_classes_of_the_data_alone() -> None:
    model = load_model(f"{UNET}&label_map=0,1,0&data_classes=4")
    assert len(model.classes) == 4
    model.prepare(replace(model.preprocessing, mean=(0.5, 0.5, 0.5)))
    assert len(model.classes) == 4
    assert model.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    model.relabel([0, 1, 1])
    assert len(model.classes) == 2


@pytest.mark.parametrize(
    "spec",
    [
        f"{LRASPP}?weights=none.pth",
        "smp:unet/resnet18?weights=none.pth&classes=2",
        f"file:none.pth?arch={LRASPP}",
        f"{UNET}&label_map=none.json",
        "smp:/none/such",
        "hf:/none/such",
        "hf:./none",
    ],
)
def test_missing_files_are_named(spec: str) -> None:
    with pytest.raises(DataError, match="none"):
        load_model(spec)


def test_download_that_is_impossible_names_the_offline_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingError, match=r"lraspp.*no route.*\?weights=FILE .*\?weights=random"):
        load_model(LRASPP)
    assert capsys.readouterr().out == ""


def test_trained_torchvision_model_has_voc_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The download itself is replaced by what it would bring: weights with an auxiliary head."""
    from torchvision.models.segmentation import fcn_resnet50

    with torch.random.fork_rng(devices=[]):
        state = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).state_dict()
    asked: dict[str, Any] = {}

    def get(url: str, **options: Any) -> Any:
        asked.update(options, url=url)
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", get)
    model = load_model("torchvision:fcn_resnet50")
    assert asked["check_hash"]
    assert asked["weights_only"]
    assert "fcn_resnet50" in asked["url"]
    assert (len(model.classes), model.classes[15]) == (21, "person")
    assert model.name == "fcn_resnet50"
    assert torch.equal(model.network.state_dict()["classifier.4.bias"], state["classifier.4.bias"])


def test_random_weights_are_reproducible_and_leave_the_random_state() -> None:
    state = torch.get_rng_state()
    first = load_model(UNET)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    x = images((32, 32)).float()
    assert torch.equal(first(x), load_model(UNET)(x))


def test_names_tell_weights_apart(tmp_path: Path) -> None:
    model = load_model(UNET)
    assert (model.name, model.backbone) == ("unet/resnet18[random]", "resnet18")
    state = {name: value.contiguous() for name, value in model.network.state_dict().items()}
    save_file(state, tmp_path / "robust.safetensors")
    for spec in (
        f"smp:unet/resnet18?weights={tmp_path}/robust.safetensors&classes=3",
        f"file:{tmp_path}/robust.safetensors?arch=smp:unet/resnet18&classes=3",
        f"file:{tmp_path}/robust.safetensors?arch=smp:unet/resnet18?classes=3",
    ):
        loaded = load_model(spec)
        assert loaded.name == "unet/resnet18[robust]"
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_checkpoint_of_a_segmodel(tmp_path: Path) -> None:
    model = load_model(UNET)
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    loaded = load_model(f"file:{tmp_path}/w.pth?arch=smp:unet/resnet18&classes=3")
    assert torch.equal(loaded(images((32, 32)).float()), model(images((32, 32)).float()))


def test_checkpoint_with_other_classes_is_named(tmp_path: Path) -> None:
    torch.save(load_model(UNET).network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"w.pth: .* 2 of another shape; the first is 'segmentation_head.0.weight'"):
        load_model(f"file:{tmp_path}/w.pth?arch=smp:unet/resnet18&classes=5")


def test_options_of_every_source(tmp_path: Path) -> None:
    model = load_model(f"{UNET}&mean=0.5,0.4,0.3&std=1,1,0.5&label_map=1,-,0")
    assert model.preprocessing.mean == (0.5, 0.4, 0.3)
    assert model.preprocessing.std == (1, 1, 0.5)
    assert model.preprocessing.multiple == 32
    assert (model.name, model.backbone) == ("unet/resnet18[random]", "resnet18")
    assert model.label_map == (1, None, 0)
    assert_contract(model, 2)


@pytest.mark.parametrize(
    ("document", "expected"),
    [([1, None, 0], (1, None, 0)), ({"class 0": 1, "class 2": 0}, (1, None, 0)), ({"class 1": 4}, (None, 4, None))],
)
def test_label_maps_from_json(tmp_path: Path, document: Any, expected: tuple[int | None, ...]) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(document))
    assert load_model(f"{UNET}&label_map={path}").label_map == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0, 1", "not a readable label map"),
        ('"0,1,2"', "expected a list"),
        ("[0, 1.5, 2]", "expected a list"),
        ("[0, true, 2]", "expected a list"),
        ('{"class 0": "sky"}', "expected a list"),
        ('{"clas 0": 0}', "did you mean class 0"),
    ],
)
def test_label_maps_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(SegtransError, match=message):
        load_model(f"{UNET}&label_map={path}")


def test_binary_smp_model_has_two_classes() -> None:
    model = load_model("smp:unet/resnet18?weights=random&classes=1")
    assert_contract(model, 2)


def test_smp_normalisation_needs_no_network() -> None:
    half = (0.5, 0.5, 0.5)
    for encoder, mean in [
        ("resnet18", (0.485, 0.456, 0.406)),
        ("tu-tf_efficientnet_lite0", half),
        ("timm-tf_efficientnet_lite0", half),
        ("xception", half),
    ]:
        assert load_model(f"smp:fpn/{encoder}?weights=random&classes=2").preprocessing.mean == mean


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What smp's save_pretrained writes, with settings that differ from the defaults."""
    network = smp.Unet(
        "resnet18",
        encoder_depth=4,
        encoder_weights=None,
        decoder_channels=(32, 16, 8, 8),
        classes=3,
        activation="softmax",
    )
    network.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_smp_folder(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    # As after training from ImageNet weights: they are not to be downloaded again.
    (folder / "config.json").write_text(json.dumps({**config, "encoder_weights": "imagenet"}))
    model = load_model(f"smp:{folder}")
    assert (model.name, model.backbone, len(model.classes)) == ("saved", "resnet18", 3)
    assert_contract(model, 3)
    # Logits, not the probabilities of the activation.
    assert model(images((32, 32)).float()).min() < 0
    with pytest.raises(UsageError, match="leave classes=4 out"):
        load_model(f"smp:{folder}?classes=4")
    (folder / "config.json").write_text(json.dumps({**config, "in_channels": 4}))
    with pytest.raises(UsageError, match="saved: the model takes images of 4 channels; allowed are 3"):
        load_model(f"smp:{folder}")
    (folder / "config.json").write_text("{}")
    with pytest.raises(DataError, match="no configuration of an smp model"):
        load_model(f"smp:{folder}")


@pytest.mark.parametrize(("weights", "mean"), [("advprop", (0.5,) * 3), ("imagenet", (0.485, 0.456, 0.406))])
def test_smp_folder_normalises_as_the_encoders_weights_were_trained(
    weights: str, mean: tuple[float, ...], tmp_path: Path
) -> None:
    config = {"_model_class": "Unet", "encoder_name": "timm-efficientnet-b0", "encoder_weights": weights, "classes": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(f"smp:{tmp_path}?weights=random").preprocessing.mean == mean


def test_mean_of_models() -> None:
    other = "smp:fpn/resnet18?weights=random&classes=3&label_map=2,0,1"
    model = load_model(f"mean:{UNET},{other}")
    x = images((33, 47)).float()
    torch.testing.assert_close(model(x), (load_model(UNET)(x) + load_model(other)(x)) / 2)
    assert (len(model.classes), model.backbone) == (3, "resnet18")


def test_zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The zoo is asked by name, and its networks take other weights."""
    asked: list[str] = []

    def load_zoo(name: str) -> Any:
        asked.append(name)
        return wrap(nn.Conv2d(3, 2, 1), 2, name=name, backbone="none")

    monkeypatch.setattr("segtrans.zoo.load_zoo", load_zoo, raising=False)
    assert load_model("zoo:tiny").name == "tiny"
    torch.save({"weight": torch.zeros(2, 3, 1, 1), "bias": torch.tensor([1.0, 2.0])}, tmp_path / "robust.pth")
    model = load_model(f"file:{tmp_path}/robust.pth?arch=zoo:tiny")
    assert asked == ["tiny", "tiny"]
    assert model.name == "tiny[robust]"
    assert model(images((4, 4)).float())[0, :, 0, 0].tolist() == [1.0, 2.0]


def test_transformers_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingError, match=r"pip install 'segtrans\[hf\]'"):
        load_model("hf:nvidia/segformer-b0-finetuned-ade-512-512")


def test_device() -> None:
    assert next(load_model(UNET, torch.device("meta")).parameters()).device.type == "meta"
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        load_model(UNET, "gpu")


def test_fcn_on_an_encoder_of_smp() -> None:
    model = load_model("fcn:mobilenet_v2?weights=random&classes=3")
    x = torch.linspace(0, 1, 3 * 50 * 70).view(1, 3, 50, 70)
    with torch.no_grad():
        assert model(x).shape == (1, 3, 50, 70)
    assert model.backbone == "mobilenet_v2"
    with pytest.raises(UsageError, match=r"fcn:resnet18\?weights=FILE&classes=N"):
        load_model("fcn:resnet18?classes=3")
    with pytest.raises(UsageError, match="unknown smp encoder 'resnet17'; did you mean"):
        load_model("fcn:resnet17?weights=random&classes=3")
    with pytest.raises(UsageError, match="encoder 'densenet121' cannot be given output stride 16"):
        load_model("fcn:densenet121?weights=random&classes=3")
    with pytest.raises(UsageError, match="takes 224 × 224 only"):
        load_model("fcn:tu-swin_tiny_patch4_window7_224?weights=random&classes=3")

"""The hf source: normalisation, sizes, names, and folders that are not to be trusted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import tiny_hf
from model_contract import images
from transformers import AutoImageProcessor

from segtrans.errors import DataError, MissingError, UsageError
from segtrans.models import load_model


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **entries}))


@pytest.fixture
def segformer(tmp_path: Path) -> Path:
    return tiny_hf.save("segformer", tmp_path / "segformer")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    ],
)
@pytest.mark.parametrize("kind", ["segformer", "beit", "mobilevit"])
def test_normalisation_is_the_processors(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    folder = tiny_hf.save(kind, tmp_path / kind)
    processors = {"segformer": "SegformerImageProcessor", "beit": "BeitImageProcessor"}
    name = processors.get(kind, "MobileViTImageProcessor")
    change(folder / "preprocessor_config.json", image_processor_type=name, **settings)
    model = load_model(f"hf:{folder}")
    image = (images((32, 32), 1) * 255).round()
    expected = AutoImageProcessor.from_pretrained(folder)(
        image[0].to(torch.uint8), return_tensors="pt", do_resize=False, do_center_crop=False
    )["pixel_values"]
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model((image / 255).float())
    torch.testing.assert_close(seen[0], expected.float(), rtol=1e-4, atol=1e-4)


def test_one_number_is_for_every_channel(segformer: Path) -> None:
    processor, values = segformer / "preprocessor_config.json", {"image_processor_type": "SegformerImageProcessor"}
    change(processor, **values, image_mean=0.5, image_std=0.25)
    preprocessing = load_model(f"hf:{segformer}").preprocessing
    assert preprocessing.mean == pytest.approx((0.5,) * 3)
    assert preprocessing.std == pytest.approx((0.25,) * 3)
    change(processor, image_mean=[0.1], image_std=[0.2])
    with pytest.raises(UsageError, match="need one finite number each for red, green and blue"):
        load_model(f"hf:{segformer}")


def test_images_of_other_channels_are_refused(segformer: Path) -> None:
    change(segformer / "config.json", num_channels=4)
    with pytest.raises(UsageError, match="segformer: the model takes images of 4 channels; allowed are 3"):
        load_model(f"hf:{segformer}")


def test_types_have_their_own_defaults_without_a_processor(tmp_path: Path) -> None:
    assert load_model(f"hf:{tiny_hf.save('beit', tmp_path / 'beit')}").preprocessing.mean == (0.5, 0.5, 0.5)
    assert load_model(f"hf:{tiny_hf.save('mobilevit', tmp_path / 'vit')}").preprocessing.bgr


def test_classes_and_backbone(segformer: Path) -> None:
    change(segformer / "config.json", id2label={"0": "sky", "1": "tree", "2": "road", "3": "car", "4": "cat"})
    model = load_model(f"hf:{segformer}")
    assert model.classes == ("sky", "tree", "road", "car", "cat")
    assert (model.name, model.backbone) == ("segformer", "segformer-8x4")


def test_usual_backbone_names() -> None:
    from transformers import (
        ConvNextConfig,
        Mask2FormerConfig,
        MobileNetV2Config,
        ResNetConfig,
        SegformerConfig,
        SwinConfig,
        UperNetConfig,
    )

    from segtrans.models.huggingface import _backbone

    assert _backbone(SegformerConfig()) == "mit_b0"
    assert _backbone(SegformerConfig(hidden_sizes=[64, 128, 320, 512], depths=[3, 6, 40, 3])) == "mit_b5"
    assert _backbone(Mask2FormerConfig(backbone_config=ResNetConfig())) == "resnet50"
    assert _backbone(Mask2FormerConfig(backbone_config=ResNetConfig(depths=[3, 4, 23, 3]))) == "resnet101"
    assert _backbone(Mask2FormerConfig(backbone_config=SwinConfig(depths=[2, 2, 6, 2]))) == "swin_tiny"
    assert _backbone(Mask2FormerConfig(backbone_config=SwinConfig(embed_dim=80, depths=[2, 2, 6, 2]))) == "swin-80x12"
    large = ConvNextConfig(hidden_sizes=[192, 384, 768, 1536], depths=[3, 3, 27, 3])
    assert _backbone(UperNetConfig(backbone_config=large)) == "convnext_large"
    assert _backbone(MobileNetV2Config()) == "mobilenet_v2_100"
    assert _backbone(MobileNetV2Config(depth_multiplier=1.4)) == "mobilenet_v2_140"


def test_weights_of_a_file_or_random(segformer: Path, tmp_path: Path) -> None:
    model = load_model(f"hf:{segformer}")
    torch.save(model.network.state_dict(), tmp_path / "w.pth")
    x = images((32, 32)).float()
    loaded = load_model(f"hf:{segformer}?weights={tmp_path}/w.pth")
    assert loaded.name == "segformer[w]"
    assert torch.equal(loaded(x), model(x))
    assert not torch.equal(load_model(f"hf:{segformer}?weights=random")(x), model(x))


def test_half_precision_checkpoints_run_in_single_precision(segformer: Path) -> None:
    load_model(f"hf:{segformer}").network.half().save_pretrained(segformer)
    assert load_model(f"hf:{segformer}")(images((32, 32)).float()).dtype == torch.float32


def test_weights_that_are_missing_are_not_made_up(segformer: Path) -> None:
    """transformers itself would draw them at random and only warn."""
    from safetensors.torch import load_file, save_file

    file = segformer / "model.safetensors"
    state = load_file(file)
    state.pop("decode_head.classifier.weight")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 weights .* 'decode_head.classifier.weight'"):
        load_model(f"hf:{segformer}")


def test_pickled_weights_are_refused(segformer: Path) -> None:
    (segformer / "model.safetensors").unlink()
    torch.save({}, segformer / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"segformer: not a model that can be loaded .*safetensors"):
        load_model(f"hf:{segformer}")


def test_code_that_comes_with_a_model_is_not_run(segformer: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    for name in ("configuration_evil", "modeling_evil", "processing_evil"):
        (segformer / f"{name}.py").write_text(f"import os\nos.mkdir({str(witness)!r})\n")
    remote = {"AutoConfig": "configuration_evil.C", "AutoModelForSemanticSegmentation": "modeling_evil.M"}
    change(segformer / "config.json", auto_map=remote)
    change(segformer / "preprocessor_config.json", auto_map={"AutoImageProcessor": "processing_evil.P"})
    load_model(f"hf:{segformer}")
    change(segformer / "config.json", model_type="evil")
    with pytest.raises(DataError, match="not a model that can be loaded"):
        load_model(f"hf:{segformer}")
    assert not witness.exists()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_files_are_named(segformer: Path, file: str, content: str) -> None:
    (segformer / file).write_text(content)
    with pytest.raises(DataError, match=r"segformer: not a model that can be loaded") as error:
        load_model(f"hf:{segformer}")
    assert "\n" not in str(error.value)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a model that can be loaded"):
        load_model(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bert", "unknown type of semantic segmentation model 'bert'"),
        ("vit", "unknown type of semantic segmentation model 'vit'"),
        ("oneformer", "OneFormer needs a text beside the image"),
    ],
)
def test_models_of_other_kinds(tmp_path: Path, kind: str, message: str) -> None:
    change(tmp_path / "config.json", model_type=kind)
    with pytest.raises(UsageError, match=message):
        load_model(f"hf:{tmp_path}")


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingError, match=r"'nobody/nothing' is no folder here and could not be had"):
        load_model("hf:nobody/nothing")


def test_progress_bars_come_back(segformer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    capsys.readouterr()
    load_model(f"hf:{segformer}")
    assert logging.is_progress_bar_enabled() == shown
    assert capsys.readouterr().out == ""

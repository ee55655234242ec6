"""Every source's models keep the contract of SegModel."""

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
from model_contract import assert_contract
from torchvision.models import list_models, segmentation

from segtrans.models import load_model

TIMM = "tu-mobilenetv3_small_050"
VIT = "tu-vit_tiny_patch16_224"
ENCODERS = {"dpt": [VIT]}
HF = (
    "segformer", "upernet", "mobilevit", "mobilevitv2", "dpt", "beit", "data2vec", "mobilenet_v2", "mask2former",
    "maskformer", "eomt", "sapiens2", "tipsv2",
)  # fmt: skip


@pytest.mark.parametrize("name", list_models(module=segmentation))
def test_torchvision(name: str) -> None:
    model = load_model(f"torchvision:{name}?weights=random&classes=4")
    assert_contract(model, 4)
    assert model.backbone in name


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [(a, e) for a in smp.MODEL_ARCHITECTURES_MAPPING for e in ENCODERS.get(a, ["resnet18", TIMM])],
)
def test_smp(architecture: str, encoder: str) -> None:
    model = load_model(f"smp:{architecture}/{encoder}?weights=random&classes=3")
    assert_contract(model, 3)
    assert model.backbone == encoder.removeprefix("tu-")


@pytest.mark.parametrize("encoder", ["tu-coat_lite_tiny", "mit_b0", "timm-efficientnet-b0"])
def test_smp_special_encoders(encoder: str) -> None:
    assert_contract(load_model(f"smp:fpn/{encoder}?weights=random&classes=3"), 3)


@pytest.mark.parametrize("kind", HF)
def test_huggingface(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import tiny_hf

    model = load_model(f"hf:{tiny_hf.save(kind, tmp_path / kind)}")
    assert_contract(model, tiny_hf.CLASSES)
    assert model.name == kind
    assert model.backbone

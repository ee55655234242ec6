"""The smallest possible models of each transformers type, with random weights, saved as ``hf:`` finds them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import nn

CLASSES = 5


def _vit(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 32,
        "patch_size": 8,
        "num_labels": CLASSES,
        **more,
    }


def _segformer() -> Any:
    return hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=16,
            num_labels=CLASSES,
        )
    )


def _upernet() -> Any:
    backbone = hf.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_scale_init_value=1.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return hf.UperNetForSemanticSegmentation(
        hf.UperNetConfig(
            backbone_config=backbone,
            hidden_size=16,
            auxiliary_in_channels=16,
            auxiliary_channels=8,
            num_labels=CLASSES,
        )
    )


def _mobilevit() -> Any:
    return hf.MobileViTForSemanticSegmentation(
        hf.MobileViTConfig(
            hidden_sizes=[8, 8, 8],
            neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
            num_attention_heads=2,
            aspp_out_channels=8,
            num_labels=CLASSES,
        )
    )


def _mobilevitv2() -> Any:
    return hf.MobileViTV2ForSemanticSegmentation(
        hf.MobileViTV2Config(width_multiplier=0.25, n_attn_blocks=[1, 1, 1], aspp_out_channels=8, num_labels=CLASSES)
    )


def _dpt() -> Any:
    return hf.DPTForSemanticSegmentation(
        hf.DPTConfig(
            **_vit(),
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            use_auxiliary_head=False,
        )
    )


def _beit() -> Any:
    return hf.BeitForSemanticSegmentation(
        hf.BeitConfig(
            **_vit(),
            out_indices=[1, 2, 3, 4],
            use_relative_position_bias=True,
            layer_scale_init_value=1.0,
            auxiliary_channels=8,
        )
    )


def _data2vec() -> Any:
    return hf.Data2VecVisionForSemanticSegmentation(
        hf.Data2VecVisionConfig(
            **_vit(),
            out_indices=[0, 1, 2, 3],
            use_relative_position_bias=True,
            layer_scale_init_value=1.0,
            auxiliary_channels=8,
        )
    )


def _mobilenet_v2() -> Any:
    return hf.MobileNetV2ForSemanticSegmentation(
        hf.MobileNetV2Config(depth_multiplier=0.25, output_stride=16, num_labels=CLASSES)
    )


def _swin() -> Any:
    return hf.SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def _mask2former() -> Any:
    return hf.Mask2FormerForUniversalSegmentation(
        hf.Mask2FormerConfig(
            backbone_config=_swin(),
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=16,
            num_queries=6,
            num_labels=CLASSES,
        )
    )


def _maskformer() -> Any:
    decoder = hf.DetrConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=6,
    )
    return hf.MaskFormerForInstanceSegmentation(
        hf.MaskFormerConfig(
            backbone_config=_swin(),
            decoder_config=decoder,
            fpn_feature_size=32,
            mask_feature_size=32,
            num_labels=CLASSES,
        )
    )


def _eomt() -> Any:
    return hf.EomtForUniversalSegmentation(
        hf.EomtConfig(**_vit(), num_blocks=1, num_queries=6, num_upscale_blocks=1, num_register_tokens=0)
    )


def _sapiens2() -> Any:
    head = {"upsample_out_channels": [8], "conv_out_channels": [8]}
    return hf.Sapiens2ForSemanticSegmentation(hf.Sapiens2Config(**_vit(), head_config=head))


def _tipsv2() -> Any:
    backbone = {
        "model_type": "tipsv2_vision_model",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 28,
        "patch_size": 14,
        "out_indices": [1, 2, 3, 4],
        "apply_layernorm": True,
        "reshape_hidden_states": False,
    }
    return hf.Tipsv2DptForSemanticSegmentation(
        hf.Tipsv2DptConfig(
            backbone_config=backbone, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, num_labels=CLASSES
        )
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "segformer": _segformer,
    "upernet": _upernet,
    "mobilevit": _mobilevit,
    "mobilevitv2": _mobilevitv2,
    "dpt": _dpt,
    "beit": _beit,
    "data2vec": _data2vec,
    "mobilenet_v2": _mobilenet_v2,
    "mask2former": _mask2former,
    "maskformer": _maskformer,
    "eomt": _eomt,
    "sapiens2": _sapiens2,
    "tipsv2": _tipsv2,
}


def save(kind: str, folder: Path) -> Path:
    """A folder with a tiny model of that kind, drawn so that signals neither die out nor explode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BUILDERS[kind]()
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
    network.save_pretrained(folder)
    return folder

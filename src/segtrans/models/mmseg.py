"""Segmentors of mmsegmentation, which need not be installed: what has their methods is one of theirs."""

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from segtrans.errors import UsageError
from segtrans.models.base import Preprocessing, SegModel


class _Decoded(nn.Module):
    """A segmentor as a plain network: logits instead of losses or predictions."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor
        head = _last_head(segmentor)
        # A head of one logit says from which probability on a pixel is foreground, for which others take a half.
        single = getattr(head, "out_channels", None) == 1
        least = getattr(head, "threshold", None) if single else None
        self.shift = 0.0 if least is None else math.log(least / (1 - least))

    def forward(self, x: Tensor) -> Tensor:
        # Decoders that classify masks want to know what size logits are to have; each image has a record of its own.
        metas = [dict.fromkeys(("ori_shape", "img_shape", "pad_shape"), tuple(x.shape[-2:])) for _ in x]
        logits = cast(Any, self.segmentor).encode_decode(x, metas)
        return logits - self.shift if self.shift else logits


def from_mmseg(
    segmentor: nn.Module,
    *,
    name: str = "",
    backbone: str = "",
    label_map: Sequence[int | None] | None = None,
    data_classes: int | None = None,
) -> SegModel:
    """A segmentor of mmsegmentation (``EncoderDecoder`` and relatives), as ``init_model`` makes it, as a model.

    Its ``data_preprocessor`` says how images are normalised (mmsegmentation reads them as blue, green, red in
    0 … 255), ``dataset_meta`` what its classes are called. Images go through it whole, whatever its ``test_cfg`` says,
    padded to a multiple of 32. The ``backbone`` is the name of its backbone's class, and its depth, unless another is
    given, such as ``mit_b0`` where models of other libraries share it.

    Raises:
        UsageError: something with other methods, or without a data preprocessor.
    """
    parts = ("encode_decode", "data_preprocessor")
    if missing := [part for part in parts if not hasattr(segmentor, part)]:
        kind = type(segmentor).__name__
        raise UsageError(
            f"{kind} has no {missing[0]}, so it is no segmentor of mmsegmentation; use segtrans.models.wrap"
        )
    of: Any = segmentor
    before, meta = of.data_preprocessor, getattr(of, "dataset_meta", None) or {}
    classes = meta.get("classes") or getattr(of, "CLASSES", None) or _last_head(of).num_classes
    swapped = bool(before.channel_conversion)
    # Mean and std are for channels in the order in which the network gets them, which is BGR unless they are swapped.
    plain = not hasattr(before, "mean")
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (_rgb(before.mean, swapped), _rgb(before.std, swapped))
    kind = f"{type(of.backbone).__name__}{getattr(of.backbone, 'depth', '')}"
    return SegModel(
        _Decoded(segmentor),
        classes,
        preprocessing=Preprocessing(
            mean=(mean[0] / 255, mean[1] / 255, mean[2] / 255),
            std=(std[0] / 255, std[1] / 255, std[2] / 255),
            bgr=not swapped,
            multiple=32,
            align_corners=bool(getattr(of, "align_corners", False)),
        ),
        name=name or f"{type(of.decode_head).__name__}-{kind}",
        backbone=backbone or kind.lower(),
        label_map=label_map,
        data_classes=data_classes,
    )


def _rgb(values: Tensor, swapped: bool) -> tuple[float, ...]:
    channels = values.flatten().tolist()
    return tuple(channels if swapped else reversed(channels))


def _last_head(segmentor: Any) -> Any:
    """The head whose logits are used, of a cascade's heads the last one."""
    heads: Any = getattr(segmentor, "decode_head", None)
    return heads[-1] if isinstance(heads, list | tuple | nn.ModuleList) else heads

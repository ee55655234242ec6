"""What a segmentation model is here: images in [0, 1] of any size in, logits at that size out."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import index
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtrans.errors import ModelError, UsageError, check_whole
from segtrans.interpolation import interpolate, is_written_down
from segtrans.logits import MANY

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_CLASSES = 2**16
"""A larger number is a mistake, which would take all memory."""

TRANSFORMERS = re.compile(
    r"mit\.?b|transformer|segformer|swin|vit|beit|deit|dpt|data2vec|eomt|mask2former|maskformer|oneformer"
    r"|pvt|twins|svt|cait|xcit|dinov|hiera|\b(aimv2|coat|eva|eva02|mae|nest|pit|tnt|volo)\b"
    r"|caformer|coatne|edgenext|efficientformer|lowformer|swiftformer|visformer|mobilenetv4\.hybrid|sapiens|tips"
)
"""Parts of the names of backbones, with points between their words, that attend instead of convolving."""


def is_transformer(backbone: str) -> bool:
    """Whether a backbone of this name is a transformer; all others count as CNNs."""
    name = backbone.lower().replace("_", ".").replace("-", ".")
    # A ConvNeXt may have been trained as DINO was; RepViT and the small FastViT are called after what they do without.
    without = re.search(r"convnext|repvit|fastvit\.(t8|t12|s12)\b", name)
    return without is None and TRANSFORMERS.search(name) is not None


def plain_backbone(backbone: str) -> str:
    """What a backbone is called apart from how libraries spell it: ``efficientnetb0`` for ``efficientnet-b0``,
    ``timm-efficientnet-b0`` and ``tu-efficientnet_b0``, ``resnet50`` for ``resnet50.a1_in1k``.
    """
    # What timm says of the weights comes after a point, as numbers do in other names; of Swin the sizes are the usual.
    name = re.sub(r"\.\w*[a-z].*|_patch\d+_window\d+_\d+", "", backbone.lower())
    name = re.sub(r"^((tu|timm|tf|legacy)[-_])+", "", name)
    # timm says the width of a whole network, torchvision does not.
    return re.sub(r"(?<=[a-z\d])[-_]100$", "", name).replace("-", "").replace("_", "")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to an image in [0, 1] before the network sees it, and how its output comes back to size.

    Attributes:
        mean, std: per RGB channel, on the [0, 1] scale.
        bgr: the network wants its channels as blue, green, red.
        max_side: images with a longer side are first shrunk (antialiased) to this; None keeps native resolution.
        fixed_size: (height, width) every image is resized to, for networks that accept no other size.
        multiple, remainder: the network's input is padded at the bottom and right, with the mean colour, until each
            side is a multiple of ``multiple``, plus ``remainder``.
        align_corners: how coarse logits are interpolated back to the input.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    bgr: bool = False
    max_side: int | None = None
    fixed_size: tuple[int, int] | None = None
    multiple: int = 1
    remainder: int = 0
    align_corners: bool = False

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or min(self.std) <= 0:
            raise UsageError(
                f"mean {self.mean} and std {self.std} need one finite number each for red, green and blue, std above 0"
            )
        if max(self.mean) > 1:
            raise UsageError(f"mean is {self.mean}; images are in [0, 1], so divide mean and std of grey levels by 255")
        check_whole("multiple", self.multiple, 1)
        check_whole("remainder", self.remainder, 0)
        if self.remainder >= self.multiple:
            raise UsageError(
                f"multiple {self.multiple} and remainder {self.remainder}: allowed are 0 <= remainder < multiple"
            )
        if self.max_side is not None:
            check_whole("max_side", self.max_side, 1)
        if self.fixed_size is not None and (len(self.fixed_size) != 2 or min(self.fixed_size) < 1):
            raise UsageError(f"fixed_size is {self.fixed_size}; allowed are (height, width) from 1")


class SegModel(nn.Module):
    """Any network as a segmentation model with one contract.

    ``model(x)`` takes images (N, 3, H, W) in [0, 1] and returns logits (N, classes, H, W): resizing, normalisation,
    padding, the choice among a network's outputs and interpolation back to (H, W) are all inside, and differentiable.
    The network is put into evaluation mode and frozen. A network of one (sigmoid) logit is a model of two classes.

    Args:
        network: any ``nn.Module`` returning logits as a tensor, a dict (``"out"`` or ``"logits"``), a tuple (first
            entry), or an object with ``.logits`` or with mask-classification outputs (Mask2Former and relatives).
        classes: class names in the order of the logits, or their number.
        preprocessing: see :class:`Preprocessing`.
        name: what tables call it.
        backbone: the encoder's name, used to tell same-backbone transfer from the rest.
        label_map: for each class of the network the class of the data set it stands for, or None to drop it; needed
            only when the two differ.
        data_classes: how many classes the data set has, where its last ones are none that ``label_map`` names.

    Attributes:
        classes: class names in the order of the logits this model returns.
        network_classes: those of the network, before the label map.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str] | int,
        *,
        preprocessing: Preprocessing | None = None,
        name: str = "model",
        backbone: str = "",
        label_map: Sequence[int | None] | None = None,
        data_classes: int | None = None,
    ) -> None:
        super().__init__()
        parts = getattr(network, "members", None)
        if any(isinstance(part, SegModel) for part in (parts if isinstance(parts, nn.ModuleList) else [network])):
            raise UsageError("network is a model already, which normalises images itself; wrap its .network")
        self.network = network.eval().requires_grad_(False)
        names = _names(classes)
        if len(names) == 1:
            names = ("background", *names) if isinstance(classes, Iterable) else _names(2)
        self.network_classes = names
        self.name = name
        self.backbone = backbone
        self.prepare(preprocessing or Preprocessing())
        self.relabel(label_map, data_classes)
        self.eval()

    def prepare(self, preprocessing: Preprocessing) -> None:
        """Prepare images so from now on."""
        self.preprocessing = preprocessing
        mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
        std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def relabel(self, label_map: Sequence[int | None] | None, data_classes: int | None = None) -> None:
        """Return logits of these classes from now on; arguments as of :class:`SegModel`."""
        self.label_map = None if label_map is None else tuple(label_map)
        self.classes = self._mapped_classes(data_classes)

    def _mapped_classes(self, data_classes: int | None) -> tuple[str, ...]:
        """What the classes are called after the label map: a data set's are numbered."""
        if self.label_map is None:
            if data_classes not in (None, len(self.network_classes)):
                raise UsageError(
                    f"data_classes is {data_classes}, and the network has {len(self.network_classes)} classes; "
                    "give a label map, too"
                )
            return self.network_classes
        if len(self.label_map) != len(self.network_classes):
            raise UsageError(
                f"label map has {len(self.label_map)} entries; it needs one for each of the "
                f"{len(self.network_classes)} classes of the network"
            )
        kept = [target for target in self.label_map if target is not None]
        if not kept or min(kept) < 0:
            raise UsageError("label map must keep at least one class and may name none below 0")
        named = max(kept) + 1
        if data_classes is not None and data_classes < named:
            raise UsageError(f"data_classes is {data_classes}; the label map names {named}, so that is the least")
        return _names(data_classes or named)

    @property
    def differentiable(self) -> bool:
        """Whether a gradient reaches the images; a model without one can only be a target."""
        return getattr(self.network, "differentiable", True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, H, W) for images ``x`` (N, 3, H, W) in [0, 1].

        Raises:
            UsageError: ``x`` is no batch of RGB images, or not of floating point.
            ModelError: the network's output is no segmentation output or has another number of classes than stated.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise UsageError(f"images have shape {tuple(x.shape)}; expected (N, 3, height, width)")
        if not x.is_floating_point():
            raise UsageError(f"images are of type {x.dtype}; expected floating point in [0, 1]")
        p, size = self.preprocessing, _size(x)
        z = self._resize(x)
        inner = _size(z)
        z = (z - cast(Tensor, self.mean).to(z)) / cast(Tensor, self.std).to(z)
        z = _pad(z.flip(1) if p.bgr else z, p.multiple, p.remainder)
        logits = extract_logits(self.network(z))
        if torch.is_autocast_enabled(x.device.type):
            # The network has multiplied in another type; what follows is cheap, and loses nothing in ours.
            logits = logits.to(x.dtype)
        expected = len(self.network_classes)
        if logits.ndim == 4 and logits.shape[1] == 1 and expected == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        if logits.ndim != 4 or logits.shape[1] != expected:
            raise ModelError(
                f"model {self.name!r} returned an output of shape {tuple(logits.shape)}; "
                f"expected (N, {expected}, h, w) for its {expected} classes"
            )
        if not is_written_down() and torch.is_inference_mode_enabled() and x.device.type == "cpu" and expected <= MANY:
            # Nobody wants a gradient, and of planes each pixel's class is found faster.
            logits = logits.contiguous()
        logits = _interpolate(logits, _size(z), p.align_corners)[..., : inner[0], : inner[1]]
        return self._map_labels(_interpolate(logits, size, False))

    def _resize(self, x: Tensor) -> Tensor:
        p, (height, width) = self.preprocessing, _size(x)
        if p.fixed_size is not None:
            target = p.fixed_size
        elif p.max_side is not None:
            # Exporters to ONNX know whole numbers and sym_max, but neither round nor max.
            side = cast(int, torch.sym_max(torch.sym_max(height, width), p.max_side))
            shrunk = (torch.sym_max(1, (2 * n * p.max_side + side) // (2 * side)) for n in (height, width))
            target = cast(tuple[int, int], tuple(shrunk))
        else:
            return x
        if _same(target, (height, width)):
            return x
        return interpolate(x, target, antialias=True)

    def _map_labels(self, logits: Tensor) -> Tensor:
        """The network's logits as the data set's: the largest of all classes that mean the same, which keeps the
        network's decision; data-set classes that the network does not know lie below all others."""
        if self.label_map is None:
            return logits
        floor = logits.detach().amin((1, 2, 3)).view(-1, 1, 1).expand_as(logits[:, 0]) - 1
        columns: list[Tensor] = []
        for target in range(len(self.classes)):
            same = [logits[:, i] for i, mapped in enumerate(self.label_map) if mapped == target]
            columns.append(reduce(torch.maximum, same) if same else floor)
        return torch.stack(columns, 1)


def wrap(
    network: nn.Module,
    classes: Sequence[str] | int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    bgr: bool = False,
    max_side: int | None = None,
    fixed_size: tuple[int, int] | None = None,
    multiple: int = 1,
    remainder: int = 0,
    align_corners: bool = False,
    name: str = "",
    backbone: str = "",
    label_map: Sequence[int | None] | None = None,
    data_classes: int | None = None,
) -> SegModel:
    """Your own network as a :class:`SegModel`: say how many classes it has and how it wants its images normalised.

    ``mean`` and ``std`` are on the [0, 1] scale; a network trained on 0 … 255 images with mean (123.7, 116.3, 103.5)
    has the mean (123.7 / 255, …). The other arguments are those of :class:`Preprocessing` and :class:`SegModel`; the
    name is the network's class name unless another is given.
    """
    preprocessing = Preprocessing(
        mean=cast(tuple[float, float, float], tuple(mean)),
        std=cast(tuple[float, float, float], tuple(std)),
        bgr=bgr,
        max_side=max_side,
        fixed_size=fixed_size,
        multiple=multiple,
        remainder=remainder,
        align_corners=align_corners,
    )
    return SegModel(
        network,
        classes,
        preprocessing=preprocessing,
        name=name or type(network).__name__,
        backbone=backbone,
        label_map=label_map,
        data_classes=data_classes,
    )


def _names(classes: Sequence[str] | int) -> tuple[str, ...]:
    """The classes, which are numbered where only their number is given; UsageError where these are none or too many."""
    if isinstance(classes, Iterable) and not isinstance(classes, str):
        names = tuple(classes)
        check_class_count(len(names))
        return names
    try:
        count = index(cast(Any, classes))
    except TypeError:
        raise UsageError(f"classes is {classes!r}; allowed are names, or how many there are") from None
    check_class_count(count)
    return tuple(f"class {i}" for i in range(count))


def check_class_count(count: int) -> None:
    """UsageError unless a model can have so many classes."""
    if not 1 <= count <= MOST_CLASSES:
        raise UsageError(f"classes is {count}; allowed are 1 to {MOST_CLASSES}")


def out_of_order(ours: Sequence[str], theirs: Sequence[str]) -> str | None:
    """Where class names that are the same are in another order, the first difference, in words."""
    pairs = enumerate(zip(ours, theirs, strict=False)) if {*ours} == {*theirs} else ()
    return next((f"class {i} is {our!r} instead of {their!r}" for i, (our, their) in pairs if our != their), None)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _same(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether there is nothing to resize. Where sizes are symbols, in a graph for all sizes, nobody knows."""
    return all(isinstance(cast(Any, n), int) for n in (*one, *other)) and one == other


def _interpolate(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if _same(_size(x), size):
        return x
    return interpolate(x, size, align_corners=align_corners)


def _pad(z: Tensor, multiple: int, remainder: int) -> Tensor:
    """Zero-pad at the bottom and right; after normalisation zero is the mean colour."""
    height, width = _size(z)
    bottom, right = (-(height - remainder)) % multiple, (-(width - remainder)) % multiple
    return z if _same((bottom, right), (0, 0)) else F.pad(z, (0, right, 0, bottom))


def extract_logits(output: Any) -> Tensor:
    """The logits (N, C, h, w) among whatever a network returned; auxiliary heads are left out.

    Raises:
        ModelError: there is no tensor where segmentation networks put their logits.
    """
    if isinstance(output, Tensor):
        return output
    queries = getattr(output, "class_queries_logits", None), getattr(output, "masks_queries_logits", None)
    if isinstance(queries[0], Tensor) and isinstance(queries[1], Tensor):
        return _logits_of_queries(queries[0], queries[1])
    if isinstance(output, Mapping):
        for key in ("logits", "out"):
            if isinstance(output.get(key), Tensor):
                return output[key]
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, list | tuple) and output:
        return extract_logits(output[0])
    kind = type(output).__name__
    keys = f" with {', '.join(map(repr, cast(Mapping[Any, Any], output)))}" if isinstance(output, Mapping) else ""
    raise ModelError(
        f"the network returned {kind}{keys}; expected a tensor, a dict with 'out' or 'logits', a tuple, or .logits"
    )


def _logits_of_queries(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """Per-pixel log scores of a mask-classification model (Cheng et al., NeurIPS 2021): sum of class × mask."""
    # Half of float32's digits are too few for a sum over hundreds of queries.
    wide = torch.promote_types(mask_logits.dtype, torch.float32)
    with torch.autocast(mask_logits.device.type, enabled=False):
        classes = class_logits.to(wide).softmax(-1)[..., :-1]
        scores = torch.einsum("nqc,nqhw->nchw", classes, mask_logits.to(wide).sigmoid())
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()

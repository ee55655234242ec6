"""Weights from files: only tensors are ever read, wrappers are taken off, and everything has to fit."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segtrans.errors import DataError, first_line

RANDOM = "random"
"""What stands for untrained weights where a file could."""

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "params", "weights")
PREFIXES = ("module.", "model.", "network.", "net.", "_orig_mod.")
OPTIONAL = ("aux_classifier.", "auxiliary_head.")
"""Heads that only training uses: a file may have or lack them."""

_UNREADABLE = (SafetensorError, zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError)
_PLAIN = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill ``network`` with the weights in the file at ``path``.

    Raises:
        DataError: the file is missing, holds more than tensors, or its tensors are not those of the network.
    """
    fill(network, read_tensors(path), str(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors in a ``.safetensors`` file or a torch checkpoint; nothing in the file is ever executed.

    Raises:
        DataError: the file is missing or unreadable, asks for code to be run, or holds no named tensors.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        if zipfile.is_zipfile(path) and _unpacked(path) > path.stat().st_size:
            raise DataError(f"{path}: refused, it is compressed, which torch.save never does, and may be a bomb")
        with warnings.catch_warnings():
            # About files by other writers than torch.save; what the safe reader does not know of them it refuses.
            warnings.simplefilter("ignore", UserWarning)
            safe = path.suffix == ".safetensors"
            content = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"its pickle asks for {wanted[1]}" if wanted else "it is no checkpoint of tensors"
        raise DataError(f"{path}: refused, {reason}; only files of plain tensors are read") from None
    except _UNREADABLE as error:
        # What torch advises is to let the file run what it likes.
        if kind := re.search(r"TorchScript archive|legacy \.tar", str(error)):
            raise DataError(f"{path}: refused, it is a {kind[0]}; only files of plain tensors are read") from None
        raise DataError(f"{path}: not a readable checkpoint ({first_line(error)})") from None
    tensors = _unwrap(content)
    if not tensors:
        raise DataError(f"{path}: no named tensors in this checkpoint")
    for name, tensor in tensors.items():
        if tensor.dtype not in _PLAIN or tensor.layout != torch.strided or tensor.device.type != "cpu":
            what = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
            raise DataError(f"{path}: refused, {name!r} is no plain tensor ({what.replace('torch.', '')})")
    return tensors


def _unpacked(path: Path) -> int:
    """Bytes of everything in a zip file."""
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def fill(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy ``tensors`` into ``network``; DataError names their ``origin`` if they are not the network's own."""
    own = network.state_dict()
    found = {k: v for k, v in _strip(tensors, own).items() if k in own or not k.startswith(OPTIONAL)}
    missing = [k for k in own if k not in found and not may_lack(k)]
    unexpected = [k for k in found if k not in own]
    reshaped = [k for k in found if k in own and found[k].shape != own[k].shape]
    if missing or unexpected or reshaped:
        first = (missing + unexpected + reshaped)[0]
        shapes = f", {tuple(found[first].shape)} instead of {tuple(own[first].shape)}" if first in reshaped else ""
        raise DataError(
            f"{origin}: does not fit the architecture, {len(missing)} weights are missing, {len(unexpected)} "
            f"unexpected and {len(reshaped)} of another shape; the first is {first!r}{shapes}"
        )
    network.load_state_dict({**own, **found})


def may_lack(key: str) -> bool:
    """Whether a network works as well without the weight of that name."""
    # The batch counter of a batch norm changes nothing in evaluation mode, and slim checkpoints leave it out.
    return key.startswith(OPTIONAL) or key.endswith("num_batches_tracked")


def _unwrap(content: Any) -> dict[str, Tensor]:
    """The innermost mapping of names to tensors in a checkpoint with optimiser, epoch and the like around it."""
    while isinstance(content, Mapping):
        mapping = cast(Mapping[Any, Any], content)
        inner = next((mapping[k] for k in WRAPPERS if isinstance(mapping.get(k), Mapping)), None)
        if inner is None:
            return {str(k): v for k, v in mapping.items() if isinstance(v, Tensor)}
        content = inner
    return {}


def _strip(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``tensors`` without the prefixes that DataParallel, Lightning, torch.compile and SegModel put before names."""
    while not own.keys() & tensors.keys():
        prefix = next((p for p in PREFIXES if any(k.startswith(p) for k in tensors)), None)
        if prefix is None:
            break
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return tensors

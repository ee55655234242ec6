"""What decides numbers, as fingerprints: the code, the libraries, each model, each image."""

import hashlib
import inspect
import secrets
import sys
from argparse import Namespace
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from operator import itemgetter
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import segtrans
from segtrans.bank import chosen, forget
from segtrans.bench.store import fingerprint
from segtrans.data import Dataset
from segtrans.io import file_hash
from segtrans.models import SegModel
from segtrans.models.ensemble import members_of
from segtrans.worst import AnyAttack

LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "scikit-image",
    "segmentation-models-pytorch",
    "timm",
    "transformers",
    "onnxruntime",
    "mmcv",
    "mmsegmentation",
)
NOT_DECIDING = frozenset(
    {
        *("cli", "report", "testing"),
        *(f"bench/{name}.py" for name in ("__init__", "checks", "engines", "estimate")),
        *(f"bench/{name}.py" for name in ("results", "stopping", "summary", "tables")),
        *(f"interop/{name}.py" for name in ("conventions", "hub")),
        *(f"zoo/{name}.py" for name in ("augment", "recipe", "train")),
        *(f"{name}.py" for name in ("__main__", "completion", "demo", "doctor", "fetch", "listing", "memory")),
        *(f"{name}.py" for name in ("config", "queries", "track", "unpack")),
    }
)
"""Parts of this package that decide no results."""

KNOWN = frozenset(
    {
        *("builtins", "abc", "typing", "collections", "enum", "numpy", "torch", "torchvision", "timm", "transformers"),
        *("segmentation_models_pytorch", "onnxruntime", "torchattacks", "foolbox", "art", "adv_lib", "segtrans"),
    }
)
"""Packages whose code is known by their version."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
_EVERY_MODULE = frozenset(vars(nn.Module()))
NAMES = ("name", "backbone", "classes", "network_classes")
"""What a model of ours is called, which changes nothing that it computes."""

ONCE = secrets.token_hex()
"""What stands for code that nobody can read: it is another one in every process."""


def surroundings(kind: str) -> str:
    """What decides numbers beside models, data and settings: this package's source, libraries, the kind of device."""
    root = Path(segtrans.__file__).parent
    sources = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    code = [
        [path.as_posix(), file_hash(root / path)]
        for path in sources
        if not {path.parts[0], path.as_posix()} & NOT_DECIDING
    ]
    return fingerprint([code, versions(), kind])


def versions() -> dict[str, str]:
    """Versions of the libraries that numbers may depend on."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # transformers is an extra
            found[name] = version(name)
    return found


def model_hash(model: SegModel) -> str:
    """What a model computes: its structure, its weights, its preprocessing and its label map."""
    return model_hashes(model)[0]


def model_hashes(model: SegModel) -> tuple[str, frozenset[str]]:
    """What a model computes and what each of its members does, which is the same unless it is an ensemble; together,
    since it takes reading all weights.
    """
    if (members := members_of(model)) != (model,):
        hashes = [model_hash(member) for member in members]
        return fingerprint([getattr(model, "fuse", ""), *hashes]), frozenset(hashes)
    own = _hash_alone(model)
    return own, frozenset({own})


def _hash_alone(model: SegModel) -> str:
    network = model.network
    # What modules print does not hold everything; Hugging Face models have the rest in their configuration.
    described = (
        *(repr(network), repr(getattr(network, "config", None)), model.preprocessing, model.label_map),
        len(model.classes),
        *(_settings(network), _code({type(module) for module in network.modules()})),
    )
    if type(model) is not SegModel:
        described = (*described, type(model).__qualname__, _code({type(model)}), _shown(model, NAMES))
    digest = hashlib.sha256(repr(described).encode())
    # A buffer decides as much where checkpoints leave it out.
    for name, value in sorted({**model.state_dict(), **dict(model.named_buffers())}.items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def attack_identity(attack: AnyAttack) -> str:
    """An attack's parts, their code where it is not ours, and the photographs that they mix in."""
    # What identifies photographs now must be what is mixed in later.
    forget()
    banks = sorted({getattr(part, "bank", "") for one in attack.attacks for part in one.transforms} - {""})
    mixed = [file_hash(path) for bank in banks for path in chosen(bank)]
    # What is printed need not hold every value of a part that is not ours.
    return fingerprint([repr(attack), _tellable(attack), _foreign_code(attack), mixed])


def _foreign_code(attack: AnyAttack) -> list[str]:
    """The code of an attack's parts, of those that are not this package's own."""
    kept = [getattr(one, field.name) for one in attack.attacks for field in fields(one)]
    return _code({type(part) for value in kept for part in (value if isinstance(value, tuple) else (value,))})


def _code(kinds: Iterable[type]) -> list[str]:
    """Hashes of what defines classes and what they inherit from."""
    return sorted({_source(ancestor) for heir in kinds for ancestor in heir.__mro__} - {""})


def _source(defined: type | FunctionType) -> str:
    """A hash of what defines a class or function: nothing for a known library's or ours, else the file, or what was
    typed, or where even that is unknown something that is never the same again.
    """
    if defined.__module__.partition(".")[0] in KNOWN:
        return ""
    file = Path(getattr(sys.modules.get(defined.__module__), "__file__", None) or "")
    if file.is_file():
        return file_hash(file)
    try:
        return fingerprint(inspect.getsource(defined))
    except (OSError, TypeError):
        return ONCE


def _settings(network: nn.Module) -> list[Any]:
    """Attributes of all modules, which what they print need not tell."""
    return [[name, _shown(module)] for name, module in network.named_modules()]


def _shown(module: nn.Module, but: Collection[str] = ()) -> list[tuple[str, str]]:
    """A module's attributes, as far as values tell what they are. One that a pass leaves something in is another module
    afterwards, whose scores are found anew.
    """
    shown: list[tuple[str, str]] = []
    for key, value in vars(module).items():
        if key in but or (key[0] == "_" and not _own(module, key, value)):
            continue
        if (text := _tellable(value)) is not None:
            shown.append((key, text))
    return sorted(shown)


def _tellable(value: Any) -> str | None:
    """As :func:`_told`, and nothing of what cannot be looked into."""
    # Sparse tensors have no bytes, lists may hold themselves, functions what is not there yet.
    try:
        return _told(value)
    except (RuntimeError, ValueError, TypeError):
        return None


def _own(module: nn.Module, key: str, value: Any) -> bool:
    """Whether a private attribute is a setting of a class that is no known library's; whole numbers and tensors are
    rather what a forward pass counts and keeps.
    """
    if key in _EVERY_MODULE or type(module).__module__.partition(".")[0] in KNOWN:
        return False
    return isinstance(value, bool | float | complex | str | bytes | torch.dtype)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()


def _told(value: Any) -> str | None:
    """What a value is, the same in every process, or nothing of objects that could print their address."""
    if isinstance(value, (*PLAIN, range, bytearray)):
        return repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name} {_told(value.value)}"
    if isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    if is_dataclass(value) and not isinstance(value, type):
        kept = {field.name: getattr(value, field.name) for field in fields(value)}
        return f"{type(value).__qualname__} {_told(kept)}"
    if isinstance(value, SimpleNamespace | Namespace):
        return f"{type(value).__qualname__} {_told(vars(value))}"
    if isinstance(value, MethodType):
        of = value.__self__
        value = (value.__func__, None if isinstance(of, nn.Module) else of)
    if isinstance(value, np.generic | np.ndarray):
        value = torch.from_numpy(np.asarray(value))
    if isinstance(value, Tensor):
        return f"{value.dtype}{tuple(value.shape)}{hashlib.sha256(_bytes(value)).hexdigest()}"
    if isinstance(value, partial):
        value = (value.func, value.args, value.keywords)
    if isinstance(value, dict):
        value = sorted(([repr(_told(key)), of] for key, of in cast(dict[Any, Any], value).items()), key=itemgetter(0))
    if isinstance(value, set | frozenset):
        value = sorted(repr(_told(part)) for part in cast(Collection[Any], value))
    if isinstance(value, tuple | list):
        return f"({', '.join(_told(part) or '?' for part in cast(Sequence[Any], value))})"
    if isinstance(value, FunctionType):
        code, closed = value.__code__, [cell.cell_contents for cell in value.__closure__ or ()]
        # Functions of one file may have one name.
        which = [code.co_firstlineno, code.co_code.hex(), code.co_names, code.co_consts]
        kept = [value.__defaults__, value.__kwdefaults__, closed]
        return f"{value.__qualname__} {_source(value)} {_told([*which, *kept])}"
    if isinstance(value, type):
        return f"{value.__qualname__} {_code([value])}"
    return value.__qualname__ if isinstance(value, BuiltinFunctionType) else None


def image_hashes(data: Dataset) -> tuple[str, ...]:
    """Per image its name, its bytes and its mask's, and how they are read; what cannot be read counts as missing."""

    def of(path: Path | None) -> str:
        try:
            return file_hash(path) if path is not None and path.is_file() else ""
        except OSError:
            return ""

    how = [data.max_side, data.classes, data.values]
    return tuple(fingerprint([*how, item.name, of(item.image), of(item.mask)]) for item in data.items)

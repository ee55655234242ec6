"""From a configuration to the list of units: every name resolved and checked before anything runs."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import segtrans
from segtrans.attack import Attack
from segtrans.bench.store import Store, fingerprint, slug
from segtrans.catalogue import attack as read_attack
from segtrans.data import Dataset, load_data
from segtrans.errors import MissingError, ModelError, UsageError
from segtrans.io import file_hash
from segtrans.models import SegModel, load_model
from segtrans.spec import RunConfig


@dataclass(frozen=True)
class Unit:
    """What is done or not done as a whole: one attack on one surrogate with one seed, scored on every target."""

    surrogate: str
    attack: str
    seed: int

    @property
    def name(self) -> str:
        return f"{slug(self.surrogate)}--{slug(self.attack)}--seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A run with all its values at hand.

    ``models`` and ``attacks`` are keyed by the names the user gave; ``hashes`` identifies what each model computes.
    """

    config: RunConfig
    data: Dataset
    models: dict[str, SegModel]
    hashes: dict[str, str]
    attacks: dict[str, Attack]
    device: torch.device
    store: Store

    @property
    def surrogates(self) -> tuple[str, ...]:
        return self.config.surrogates

    @property
    def targets(self) -> tuple[str, ...]:
        return self.config.targets or self.config.surrogates

    @property
    def units(self) -> list[Unit]:
        c = self.config
        return [Unit(s, a, seed) for seed in c.seeds for s in c.surrogates for a in c.attacks]

    @property
    def labelled(self) -> bool:
        """Whether the images have masks; without them each target's own clean prediction is the reference."""
        return bool(self.data.classes)

    def clean_identity(self, model: str) -> str:
        """Everything that decides a model's clean predictions."""
        return fingerprint([self._common(), self.hashes[model]])

    def unit_identity(self, unit: Unit) -> str:
        """Everything that decides a unit's numbers; batch, chunk and device memory do not."""
        targets = [[name, self.hashes[name]] for name in self.targets]
        attack = repr(self.attacks[unit.attack])
        pictures = [self.config.pictures, self.config.save_images]
        return fingerprint([self._common(), self.hashes[unit.surrogate], attack, unit.seed, targets, pictures])

    def _common(self) -> list[Any]:
        return [self._data_hash, self.config.size, self.device.type, torch.__version__, segtrans.__version__]

    @property
    def _data_hash(self) -> str:
        return self.hashes["data"]


def make_plan(config: RunConfig, data: Dataset | None = None) -> Plan:
    """Resolve every name of a configuration; ``data`` takes the place of the data set it names.

    Raises:
        UsageError: an unknown name, or models and data whose classes do not agree.
        DataError: data that is not there. MissingError: weights, an extra or a device that is not there.
    """
    device = pick_device(config.device)
    attacks = {
        name: read_attack(name).configured(eps=config.eps, iterations=config.iterations, step_size=config.step_size)
        for name in config.attacks
    }
    data = (data or load_data(config.data)).take(config.limit)
    names = dict.fromkeys((*config.surrogates, *config.targets))
    models = {name: load_model(name, device=str(device)) for name in names}
    check_classes(models, data)
    hashes = {name: model_hash(model) for name, model in models.items()}
    hashes["data"] = data_hash(data)
    return Plan(config, data, models, hashes, attacks, device, Store(config.out))


def check_classes(models: dict[str, SegModel], data: Dataset) -> None:
    """Every model must speak of the data's classes, or, without masks, of the same number of classes."""
    counts = {name: len(model.classes) for name, model in models.items()}
    for name, count in counts.items():
        if count > 255:
            raise ModelError(f"model {name!r} has {count} classes; allowed are up to 255")
        if data.classes and count != len(data.classes):
            raise UsageError(
                f"model {name!r} has {count} classes but data {data.name!r} has {len(data.classes)}; "
                "give it a label map (?label_map=FILE)"
            )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise UsageError(f"the models' class counts differ: {listed}; give a label map (?label_map=FILE)")


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MissingError(f"device {name!r} cannot be used here ({reason})") from None
    return device


def model_hash(model: SegModel) -> str:
    """What a model computes: its weights, its preprocessing and its label map."""
    described = (type(model.network).__name__, model.preprocessing, model.classes, model.label_map)
    digest = hashlib.sha256(repr(described).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_hash(data: Dataset) -> str:
    """Names and bytes of every image and mask, and how masks are read; a missing file counts as missing."""

    def of(path: Path | None) -> str:
        return file_hash(path) if path is not None and path.is_file() else ""

    files = [[item.name, of(item.image), of(item.mask)] for item in data.items]
    return fingerprint([data.name, data.max_side, data.classes, data.values, files])

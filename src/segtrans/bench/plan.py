"""From a configuration to the list of units: every name resolved and checked before anything runs."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import segtrans
from segtrans.bench.store import Store, fingerprint, slug
from segtrans.catalogue import attack as read_attack
from segtrans.data import Dataset, load_data
from segtrans.errors import MissingError, ModelError, UsageError, unknown
from segtrans.goals import Towards
from segtrans.io import file_hash
from segtrans.models import SegModel, load_model
from segtrans.spec import RunConfig
from segtrans.worst import AnyAttack

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "segmentation-models-pytorch", "timm", "transformers")
NOT_DECIDING = frozenset({"report", "cli.py", "demo.py", "doctor.py", "listing.py", "testing.py"})
"""Parts of this package that show results and decide none."""


@dataclass(frozen=True)
class Unit:
    """What is crafted or not crafted as a whole: one attack on one surrogate with one seed."""

    surrogate: str
    attack: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """A run with all its values at hand.

    ``models`` and ``attacks`` are keyed by the names the user gave; ``hashes`` identifies what each model computes,
    and ``functions`` what each of its members does, which is the model itself unless it is an ensemble. ``again`` makes
    the same plan in another process.
    """

    config: RunConfig
    data: Dataset
    models: dict[str, SegModel]
    hashes: dict[str, str]
    attacks: dict[str, AnyAttack]
    device: torch.device
    store: Store
    surroundings: str
    functions: dict[str, frozenset[str]]
    again: Callable[[], "Plan"]

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

    @property
    def pictured(self) -> list[str]:
        """The images that are drawn with masks."""
        return [item.name for item in self.data.items[: self.config.pictures]]

    def images_identity(self) -> str:
        """Everything that decides what models are shown: the data and their size."""
        return fingerprint([self.hashes["data"], self.config.size])

    def clean_identity(self, model: str) -> str:
        """Everything that decides a model's clean predictions."""
        return fingerprint([self.images_identity(), self.surroundings, self.hashes[model]])

    def unit_identity(self, unit: Unit) -> str:
        """Everything that decides a unit's adversarial images, as far as rounding errors do not."""
        attack = self.attacks[unit.attack]
        described = [repr(attack), *foreign_code(attack)]
        return fingerprint([self.clean_identity(unit.surrogate), *described, unit.seed])

    def score_identity(self, unit: Unit, target: str) -> str:
        """Everything that decides a unit's score on a target."""
        return fingerprint([self.unit_identity(unit), self.hashes[target]])

    def images_folder(self) -> str:
        return f"images/clean-{self.images_identity()[:8]}"

    def labels_folder(self) -> str:
        return f"masks/labels-{self.images_identity()[:8]}"

    def clean_folder(self, model: str) -> str:
        return f"masks/{slug(model)}/clean-{self.clean_identity(model)[:8]}"

    def unit_folder(self, unit: Unit) -> str:
        """Where a unit's adversarial images lie."""
        return f"images/{slug(unit.surrogate)}/{slug(unit.attack)}/seed{unit.seed}-{self.unit_identity(unit)[:8]}"

    def masks_folder(self, unit: Unit, model: str) -> str:
        """Where a model's masks of a unit's pictured images lie."""
        kept = f"seed{unit.seed}-{self.score_identity(unit, model)[:8]}"
        return f"masks/{slug(model)}/{slug(unit.surrogate)}/{slug(unit.attack)}/{kept}"

    def unit_name(self, unit: Unit) -> str:
        short = self.unit_identity(unit)[:8]
        return f"{slug(unit.surrogate)}--{slug(unit.attack)}--seed{unit.seed}-{short}"

    def score_name(self, unit: Unit, target: str) -> str:
        return f"{self.unit_name(unit)}/{slug(target)}-{self.hashes[target][:8]}"


def make_plan(
    config: RunConfig,
    data: Dataset | None = None,
    models: Mapping[str, SegModel] | None = None,
    attacks: Mapping[str, AnyAttack] | None = None,
) -> Plan:
    """Resolve every name of a configuration.

    ``data`` takes the place of the data set it names, ``models`` and ``attacks`` hold what some of its names stand for.

    Raises:
        UsageError: an unknown name, or models and data whose classes do not agree.
        DataError: data that is not there. MissingError: weights, an extra or a device that is not there.
    """
    again = partial(make_plan, config, data, models, attacks)
    check_writable(config.out)
    device = pick_device(config.device)
    known_models, known_attacks = dict(models or {}), dict(attacks or {})
    found_attacks = {
        name: (known_attacks.get(name) or read_attack(name)).configured(
            eps=config.eps, iterations=config.iterations, step_size=config.step_size
        )
        for name in config.attacks
    }
    for name, attack in found_attacks.items():
        if any(isinstance(part.goal, Towards) for part in attack.attacks):
            raise UsageError(
                f"attack {name!r} needs a map to drive the surrogate to; call it from Python, with the map as y"
            )
    data = (data or load_data(config.data)).take(config.limit, skip=config.skip)
    names = dict.fromkeys((*config.surrogates, *config.targets))
    found_models = {
        name: known_models[name].to(device) if name in known_models else load_model(name, device=str(device))
        for name in names
    }
    check_classes(found_models, data)
    check_gradients({name: found_models[name] for name in config.surrogates}, found_attacks)
    hashes = {name: model_hash(model) for name, model in found_models.items()}
    hashes["data"] = data_hash(data)
    return Plan(
        config=config,
        data=data,
        models=found_models,
        hashes=hashes,
        attacks=found_attacks,
        device=device,
        store=Store(config.out),
        surroundings=surroundings(device),
        functions={name: _functions(model, hashes[name]) for name, model in found_models.items()},
        again=again,
    )


def check_writable(out: Path) -> None:
    """UsageError unless a folder can be made at ``out``, before any work is done for it."""
    existing = next(path for path in (out, *out.resolve().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"out is {out}, but {existing} is a file; give a folder for results")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"out is {out}, but {existing} may not be written to; give a folder for results")


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


def check_gradients(surrogates: Mapping[str, SegModel], attacks: Mapping[str, AnyAttack]) -> None:
    """ModelError if an attack would ask a surrogate for gradients that it cannot give."""
    asking = next((name for name, attack in attacks.items() if attack.evaluations), None)
    for name, model in surrogates.items():
        for part in members(model) if asking is not None else ():
            if not getattr(part, "differentiable", True):
                who = "" if part is model else f": its member {part.name!r}"
                raise ModelError(
                    f"surrogate {name!r}{who} has no gradient, which attack {asking!r} needs; use it as a target"
                )


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one."""
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise unknown("device", name, DEVICES)
    if kind == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MissingError(f"device {name!r} cannot be used here ({reason})") from None
    return device


def surroundings(device: torch.device) -> str:
    """What decides numbers beside models, data and settings: this package's source, libraries, the kind of device."""
    root = Path(segtrans.__file__).parent
    sources = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    code = [[path.as_posix(), file_hash(root / path)] for path in sources if path.parts[0] not in NOT_DECIDING]
    return fingerprint([code, versions(), device.type])


@cache
def foreign_code(attack: AnyAttack) -> list[str]:
    """Hashes of the files that define an attack's parts, of those that are not this package's own."""
    kept = [getattr(one, field.name) for one in attack.attacks for field in fields(one)]
    parts = [part for value in kept for part in (value if isinstance(value, tuple) else (value,))]
    modules = {type(part).__module__ for part in parts if not type(part).__module__.startswith("segtrans.")}
    files = sorted({getattr(sys.modules[name], "__file__", None) or "" for name in modules} - {""})
    return [file_hash(Path(file)) for file in files]


def versions() -> dict[str, str]:
    """Versions of the libraries that numbers may depend on."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # transformers is an extra
            found[name] = version(name)
    return found


def members(model: SegModel) -> list[SegModel]:
    """The models of an ensemble, or the model alone."""
    return list(getattr(model, "members", (model,)))


def _functions(model: SegModel, own: str) -> frozenset[str]:
    """Fingerprints of an ensemble's members, or a model's ``own``, which took reading all of its weights."""
    parts = members(model)
    return frozenset({own}) if parts == [model] else frozenset(map(model_hash, parts))


def model_hash(model: SegModel) -> str:
    """What a model computes: its structure, its weights, its preprocessing and its label map."""
    parts = members(model)
    if parts != [model]:
        return fingerprint([getattr(model, "fuse", ""), *map(model_hash, parts)])
    network = model.network
    # What modules print does not hold everything; Hugging Face models have the rest in their configuration.
    described = (repr(network), repr(getattr(network, "config", None)), model.preprocessing, model.label_map)
    digest = hashlib.sha256(repr(described).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_hash(data: Dataset) -> str:
    """Names and bytes of every image and mask, and how masks are read; what cannot be read counts as missing."""

    def of(path: Path | None) -> str:
        try:
            return "" if path is None else file_hash(path)
        except OSError:
            return ""

    files = [[item.name, of(item.image), of(item.mask)] for item in data.items]
    return fingerprint([data.name, data.max_side, data.classes, data.values, files])

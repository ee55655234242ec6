"""From a configuration to the list of units: every name resolved and checked before anything runs."""

from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch

from segtrans.attack import Evaluations
from segtrans.bench.checks import (
    check_apart,
    check_attacks,
    check_classes,
    check_given,
    check_gradients,
    check_writable,
    named,
)
from segtrans.bench.identity import attack_identity, image_hashes, model_hashes, surroundings
from segtrans.bench.store import Shard, Store, fingerprint, slug
from segtrans.catalogue import attack as read_attack
from segtrans.config import RunConfig
from segtrans.data import Dataset, load_data
from segtrans.devices import pick_device
from segtrans.errors import MissingError, UsageError
from segtrans.models import SegModel, load_model
from segtrans.models.ensemble import members_of
from segtrans.models.load import ENSEMBLES
from segtrans.worst import AnyAttack


@dataclass(frozen=True)
class Trial:
    """What tables are about: one attack on one surrogate with one seed, on all images."""

    surrogate: str
    attack: str
    seed: int


@dataclass(frozen=True)
class Unit:
    """What is crafted and scored, or not, as a whole: a trial on some of the images, given by their places. What draws
    no random numbers has the seed 0 here and is a piece of the trials of all seeds.
    """

    trial: Trial
    images: range


@dataclass(frozen=True)
class Plan:
    """A run with all its values at hand.

    ``models`` and ``attacks`` are keyed by the names the user gave; ``hashes`` identifies what each model computes,
    ``member_hashes`` what each of its members does, which is the model itself unless it is an ensemble, and
    ``image_hashes`` each image with its mask. ``device`` is where this process computes, of the ``kind`` that the run
    is for unless that is only found elsewhere. ``objects`` are the names of the caller's own models, attacks and data,
    which no command spells. ``again`` makes the plan of a configuration with the same objects.
    """

    config: RunConfig
    data: Dataset
    models: dict[str, SegModel]
    hashes: dict[str, str]
    image_hashes: tuple[str, ...]
    attacks: dict[str, AnyAttack]
    device: torch.device
    kind: str
    store: Store
    surroundings: str
    member_hashes: dict[str, frozenset[str]]
    objects: tuple[str, ...]
    again: Callable[[RunConfig], "Plan"]

    @property
    def surrogates(self) -> tuple[str, ...]:
        return self.config.surrogates

    @property
    def targets(self) -> tuple[str, ...]:
        return self.config.targets or self.config.surrogates

    @property
    def trials(self) -> list[Trial]:
        c = self.config
        return [Trial(s, a, seed) for seed in c.seeds for s in c.surrogates for a in c.attacks]

    @cached_property
    def slices(self) -> list[range]:
        """The images in the pieces in which work is done."""
        count, each = len(self.data), self.config.slice
        return [range(first, min(first + each, count)) for first in range(0, count, each)]

    def units_of(self, trial: Trial) -> list[Unit]:
        """A trial's pieces of work; what all images share is made on all of them at once."""
        attack = self.attacks[trial.attack]
        made = trial if attack.draws else replace(trial, seed=0)
        return [Unit(made, images) for images in ([range(len(self.data))] if attack.shared else self.slices)]

    def trials_of(self, unit: Unit) -> list[Trial]:
        """The trials that a unit is a piece of."""
        made = unit.trial
        return [made] if self.attacks[made.attack].draws else [replace(made, seed=seed) for seed in self.config.seeds]

    @cached_property
    def units(self) -> list[Unit]:
        return list(dict.fromkeys(unit for trial in self.trials for unit in self.units_of(trial)))

    @property
    def labelled(self) -> bool:
        """Whether the images have masks; without them each target's own clean prediction is the reference."""
        return bool(self.data.classes)

    @property
    def pictured(self) -> list[str]:
        """The images that are drawn with masks."""
        return [item.name for item in self.data.items[: self.config.pictures]]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each image stands in the data set."""
        return {item.name: place for place, item in enumerate(self.data.items)}

    @cached_property
    def attack_identities(self) -> dict[str, str]:
        return {name: attack_identity(attack) for name, attack in self.attacks.items()}

    def views_of(self, unit: Unit) -> list[tuple[str, range]]:
        """The clean predictions that a unit needs: of which model, of which slice of the images."""
        slices = [images for images in self.slices if images.start in unit.images]
        return [(name, images) for name in dict.fromkeys((unit.trial.surrogate, *self.targets)) for images in slices]

    def is_seen(self, model: str, images: range) -> bool:
        """Whether a model's clean predictions of some images are there."""
        return self.store.shard_path(self.clean_name(model, images)).exists()

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit is crafted and scored, as far as the records tell."""
        names = (self.unit_name(unit), *(self.score_name(unit, target) for target in self.targets))
        return all(self.store.shard_path(name).exists() for name in names)

    def has_images(self, unit: Unit, crafted: Shard, *, all_of_them: bool = False) -> bool:
        """Whether those adversarial images of a crafted unit that a run keeps, or all, are on disk, sound or not."""
        images = {*crafted.header["images"]}
        wanted = images if all_of_them or self.config.save_images else images & {*self.pictured}
        folder = self.store.root / self.adversarial_folder(unit)
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
        return {self.store.png("", image).name for image in wanted} <= there

    def is_whole(self, unit: Unit) -> bool:
        """Whether a unit is done and those of its images that a run keeps are there."""
        crafted = self.store.read(self.unit_name(unit), self.unit_identity(unit)) if self.is_done(unit) else None
        return crafted is not None and self.has_images(unit, crafted)

    def check_device(self) -> None:
        """MissingError unless what the run is for can be computed here.

        Numbers of another kind of device are other numbers, and would not be found again as these.
        """
        if self.device.type != self.kind:
            raise MissingError(
                f"workers left work undone that needs a device of kind {self.kind!r}, which is not here; run it again"
            )

    def evaluations(self, unit: Unit) -> int:
        """Gradient evaluations that a unit asks for, over all of its images."""
        return len(unit.images) * self.evaluations_per_image(unit.trial).total

    def evaluations_per_image(self, trial: Trial) -> Evaluations:
        """What an attack asks of a surrogate, which may be an ensemble."""
        return self.attacks[trial.attack].evaluations_on(len(members_of(self.models[trial.surrogate])))

    @cached_property
    def images_identity(self) -> Callable[[range], str]:
        """Everything that decides what models are shown: some of the data, and their size."""

        # Remembered, since every name of a file asks for it.
        @cache
        def identity(images: range) -> str:
            return fingerprint([self.image_hashes[images.start : images.stop], self.config.size])

        return identity

    def clean_identity(self, model: str, images: range) -> str:
        """Everything that decides a model's clean predictions of some images."""
        return fingerprint([self.images_identity(images), self.surroundings, self.hashes[model]])

    def unit_identity(self, unit: Unit) -> str:
        """Everything that decides a unit's adversarial images, as far as rounding errors do not."""
        trial = unit.trial
        attack = self.attack_identities[trial.attack]
        return fingerprint([self.clean_identity(trial.surrogate, unit.images), attack, trial.seed])

    def score_identity(self, unit: Unit, target: str) -> str:
        """Everything that decides a unit's score on a target."""
        return fingerprint([self.unit_identity(unit), self.hashes[target]])

    def slice_of(self, image: str) -> range:
        """The piece of the data in which an image is."""
        return self.slices[self.places[image] // self.config.slice]

    def image_path(self, image: str) -> Path:
        """Where a pictured image lies as models are shown it."""
        return self.store.png(f"images/clean-{self.images_identity(self.slice_of(image))[:8]}", image)

    def label_path(self, image: str) -> Path:
        """Where a pictured image's true mask lies."""
        return self.store.png(f"masks/labels-{self.images_identity(self.slice_of(image))[:8]}", image)

    def clean_path(self, model: str, image: str) -> Path:
        """Where a model's mask of a clean image lies."""
        identity = self.clean_identity(model, self.slice_of(image))
        return self.store.png(f"masks/{slug(model)}/clean-{identity[:8]}", image)

    def adversarial_path(self, unit: Unit, image: str) -> Path:
        """Where an image lies as a unit's attack made it."""
        return self.store.png(self.adversarial_folder(unit), image)

    def adversarial_folder(self, unit: Unit) -> str:
        trial, short = unit.trial, self.unit_identity(unit)[:8]
        return f"images/{slug(trial.surrogate)}/{slug(trial.attack)}/seed{trial.seed}-{short}"

    def mask_path(self, unit: Unit, model: str, image: str) -> Path:
        """Where a model's mask of an adversarial image lies."""
        trial, short = unit.trial, self.score_identity(unit, model)[:8]
        folder = f"masks/{slug(model)}/{slug(trial.surrogate)}/{slug(trial.attack)}/seed{trial.seed}-{short}"
        return self.store.png(folder, image)

    def clean_name(self, model: str, images: range) -> str:
        return f"clean--{slug(model)}-{self.clean_identity(model, images)[:8]}"

    def unit_name(self, unit: Unit) -> str:
        trial, short = unit.trial, self.unit_identity(unit)[:8]
        return f"{slug(trial.surrogate)}--{slug(trial.attack)}--seed{trial.seed}-{short}"

    def score_name(self, unit: Unit, target: str) -> str:
        return f"{self.unit_name(unit)}/{slug(target)}-{self.hashes[target][:8]}"


def make_plan(
    config: RunConfig,
    data: Dataset | None = None,
    models: Mapping[str, SegModel] | None = None,
    attacks: Mapping[str, AnyAttack] | None = None,
) -> Plan:
    """Resolve every name of a configuration.

    ``data`` takes the place of the data set it names, which the plan's configuration then has the name of; ``models``
    and ``attacks`` hold what some of its names stand for.

    Raises:
        UsageError: an unknown name, an attack that contradicts itself, or models and data whose classes do not agree.
        DataError: data that is not there. MissingError: weights, an extra or a device that is not there.
        ModelError: a model of more than 255 classes, or a surrogate without the gradient that an attack needs.
    """
    again = partial(make_plan, data=data, models=models, attacks=attacks)
    check_writable(config.out)
    device, kind = places_of_work(config)
    known_models, known_attacks = dict(models or {}), dict(attacks or {})
    check_given(data, known_models, known_attacks)
    protocol: dict[str, Any] = config.model_dump(include={"eps", "iterations", "step_size"})
    found_attacks = {
        name: known_attacks[name].configured(**protocol) if name in known_attacks else read_attack(name, **protocol)
        for name in config.attacks
    }
    check_attacks(found_attacks)
    objects = [name for name in config.attacks if name in known_attacks and named(name) is None]
    if data is None:
        data = load_data(config.data)
    else:
        config = config.model_copy(update={"data": data.name})
        objects.append(data.name)
    check_apart(config.out, data)
    data = data.take(config.limit, skip=config.skip, every=config.every)
    names = dict.fromkeys((*config.surrogates, *config.targets))
    found_models = {
        name: _placed(known_models[name], device) if name in known_models else _loaded(name, known_models, device)
        for name in names
    }
    check_classes(found_models, data)
    check_gradients({name: found_models[name] for name in config.surrogates}, found_attacks)
    hashes = {name: model_hashes(model) for name, model in found_models.items()}
    return Plan(
        config=config,
        data=data,
        models=found_models,
        hashes={name: own for name, (own, _) in hashes.items()},
        image_hashes=image_hashes(data),
        attacks=found_attacks,
        device=device,
        kind=kind,
        store=Store(config.out),
        surroundings=surroundings(kind),
        member_hashes={name: members for name, (_, members) in hashes.items()},
        objects=(*(name for name in names if name in known_models), *objects),
        again=again,
    )


def _placed(model: SegModel, device: torch.device) -> SegModel:
    """A model on a device: a copy where it has to move, since it is the caller's."""
    here = torch.empty(0, device=device).device  # with its number
    moves = any(tensor.device != here for tensor in (*model.parameters(), *model.buffers()))
    return deepcopy(model).to(device) if moves else model


def _loaded(name: str, own: Collection[str], device: torch.device) -> SegModel:
    """The model of that name; UsageError for an ensemble with one of the caller's ``own`` models in it."""
    source, _, listed = name.partition(":")
    for member in listed.split(",") if source in ENSEMBLES else ():
        if member in own:
            raise UsageError(
                f"ensemble {name!r} names {member!r}, a model of your own; allowed are models to be loaded, so give "
                "an Ensemble([...]) among your models instead"
            )
    return load_model(name, device=str(device))


def places_of_work(config: RunConfig) -> tuple[torch.device, str]:
    """Where this process computes, and the kind of device that the run is for: the same, unless workers elsewhere have
    devices that this machine lacks.
    """
    if config.engine == "local":
        device = pick_device(config.device)
        return device, device.type
    name = ("cuda" if config.gpus else "cpu") if config.device == "auto" else config.device
    try:
        return pick_device(name), name.partition(":")[0]
    except MissingError:
        return torch.device("cpu"), name.partition(":")[0]

"""What a run refuses before any work is done for it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from segtrans.catalogue import attack as read_attack
from segtrans.data import Dataset
from segtrans.errors import ModelError, SegtransError, UsageError
from segtrans.goals import Towards
from segtrans.models import Ensemble, SegModel
from segtrans.models.base import out_of_order
from segtrans.models.ensemble import members_of
from segtrans.worst import AnyAttack


def check_given(data: Dataset | None, models: Mapping[str, SegModel], attacks: Mapping[str, AnyAttack]) -> None:
    """UsageError unless a caller's own data, models and attacks are such, models in evaluation mode, and no attack has
    the name of another.
    """
    if not isinstance(cast(Any, data), Dataset | None):
        kind = type(data).__name__
        raise UsageError(f"data is a {kind}; allowed are a spelling such as 'photos' and what load_data makes")
    for name, attack in attacks.items():
        if not isinstance(cast(Any, attack), AnyAttack):
            kind = type(attack).__name__
            raise UsageError(f"attack {name!r} is a {kind}; allowed are attacks, such as attack('mi') or compose(...)")
        if (other := named(name)) is not None and attack != other:
            raise UsageError(f"attack {name!r} of your own has the name of another of the catalogue; give it its own")
    for name, model in models.items():
        if not isinstance(cast(Any, model), SegModel | Ensemble):
            kind = type(model).__name__
            raise UsageError(f"model {name!r} is a {kind}; allowed are what segtrans.models.wrap and load_model return")
        if any(module.training for member in members_of(model) for module in member.modules()):
            raise UsageError(f"model {name!r} is in training mode, in which it depends on the batch; call its eval()")


def named(name: str) -> AnyAttack | None:
    """The attack that a name spells, if it spells one."""
    try:
        return read_attack(name)
    except SegtransError:
        return None


def check_attacks(attacks: Mapping[str, AnyAttack]) -> None:
    """UsageError if an attack contradicts itself, or needs what a run does not give it."""
    for name, attack in attacks.items():
        for part in attack.attacks:
            if isinstance(part.goal, Towards):
                raise UsageError(
                    f"attack {name!r} needs a map to drive the surrogate to; call it from Python, with the map as y"
                )
            try:
                part.objective.check(part)
            except UsageError as error:
                raise UsageError(f"attack {name!r} contradicts itself: {error}") from None


def check_writable(out: Path) -> None:
    """UsageError unless a folder can be made at ``out``, before any work is done for it."""
    for path in (out, *out.parents):
        if path.is_symlink() and not path.exists():
            raise UsageError(f"out is {out}, but {path} is a link to {path.readlink()}, which is not there")
    existing = next(path for path in (out, *out.resolve().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"out is {out}, but {existing} is a file; give a folder for results")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"out is {out}, but {existing} may not be written to; give a folder for results")


def check_apart(out: Path, data: Dataset) -> None:
    """UsageError where results would lie among the data, which then would no longer be what it was."""
    kept = {(out / folder).resolve() for folder in ("", "images", "masks", "pictures")}
    # A file of each folder, of which there are few.
    files = {path.parent: path for item in data.items for path in (item.mask, item.image) if path is not None}
    for folder, path in files.items():
        if folder.resolve() in kept:
            raise UsageError(f"out is {out}, where {path} of the data lies; give a folder of its own")


def check_classes(models: dict[str, SegModel], data: Dataset) -> None:
    """Every model must speak of the data's classes, or, without masks, of as many as the others; where the names are
    the same, in the same order.
    """
    counts = {name: len(model.classes) for name, model in models.items()}
    for name, count in counts.items():
        if count > 255:
            raise ModelError(f"model {name!r} has {count} classes; allowed are up to 255")
        if data.classes and count != len(data.classes):
            raise UsageError(
                f"model {name!r} has {count} classes but data {data.name!r} has {len(data.classes)}; "
                f"give it a label map (?label_map=FILE), with data_classes={len(data.classes)} if it names fewer"
            )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise UsageError(f"the models' class counts differ: {listed}; give a label map (?label_map=FILE)")
    first, *_ = models
    theirs, whose = (
        (data.classes, f"data {data.name!r}") if data.classes else (models[first].classes, f"model {first!r}")
    )
    for name, model in models.items():
        if difference := out_of_order(model.classes, theirs):
            raise UsageError(
                f"model {name!r} has the classes of {whose} in another order ({difference}); "
                "give it a label map (?label_map=FILE)"
            )


def check_gradients(surrogates: Mapping[str, SegModel], attacks: Mapping[str, AnyAttack]) -> None:
    """ModelError if an attack would ask a surrogate for gradients that it cannot give."""
    asking = next((name for name, attack in attacks.items() if attack.evaluations), None)
    for name, model in surrogates.items():
        for part in members_of(model) if asking is not None else ():
            if not getattr(part, "differentiable", True):
                who = "" if part is model else f": its member {part.name!r}"
                raise ModelError(
                    f"surrogate {name!r}{who} has no gradient, which attack {asking!r} needs; use it as a target"
                )

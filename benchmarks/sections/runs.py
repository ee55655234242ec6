"""Whole runs, beside what they cannot do without and beside scripts."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from sections.setting import EPS, Row, Setting, as_it_comes
from segtrans import bench
from segtrans.catalogue import attack
from segtrans.config import make_config
from segtrans.data import load_data
from segtrans.data.base import resize
from segtrans.io import to_tensor
from segtrans.models import load_model

TARGETS = ("deeplabv3plus-mobilenetv3s", "deeplabv3-mobilenetv3s", "pspnet-mobilenetv3s", "fcn-mobilenetv3s")


def scores(on: Setting) -> Iterator[Row]:
    """A run on one surrogate and many targets against its attack and one forward pass per target and image."""
    for count in (1, 4, 12):
        with tempfile.TemporaryDirectory() as folder:
            run, least = _scores(on, count, Path(folder))
            yield on.ratio("scores", f"1 surrogate × {count} targets", run, least, "× attack and forward passes")


def _scores(on: Setting, count: int, folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    models, crafted = _targets(on, count), attack(f"pgd(iterations={on.iterations})")
    batches = [on.images(1, on.size) for _ in load_data("photos")]
    values: dict[str, Any] = {"surrogates": ["s"], "targets": list(models), "attacks": ["few steps"], "out": folder}
    values |= {"size": on.size, "batch": 1, "pictures": 0, "device": on.device, "data": "photos"}
    known = {"s": on.model, **models}
    # Reading all of a model's weights for its fingerprint is once per run, however many images it has. Clean masks are
    # there from the first time on; another seed is another unit, since `pgd` draws.
    plans = iter(
        [
            bench.make_plan(make_config({**values, "seeds": [seed]}), models=known, attacks={"few steps": crafted})
            for seed in range(on.repeats + 1)
        ]
    )

    def run() -> None:
        bench.execute(next(plans), quiet=True)

    def least() -> None:
        for x in batches:
            adversarial = crafted(on.model, x)
            with torch.inference_mode():
                for model in models.values():
                    model(adversarial)

    return run, least


def _targets(on: Setting, count: int) -> dict[str, Any]:
    models = {f"target {i}": load_model(f"zoo:voc/{TARGETS[i % len(TARGETS)]}", on.device) for i in range(count)}
    # Different models: what is the same would be scored once.
    for i, model in enumerate(models.values()):
        next(model.network.buffers()).add_(i * 1e-6)
    return models


def pipeline(on: Setting) -> Iterator[Row]:
    """The script that people write: attack, save, and per target load the model and the images again; with models as we
    load them and as they come.
    """
    images, steps = load_data("photos"), on.iterations
    names = [f"zoo:voc/{name}" for name in (*TARGETS, *TARGETS)]

    def script(load: Callable[[str, str], nn.Module]) -> None:
        import torchattacks

        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(name)
            for attacker in ("MIFGSM", "DIFGSM"):
                model = load(on.surrogate, on.device)
                crafted = getattr(torchattacks, attacker)(model, eps=EPS, alpha=EPS / 4, steps=steps)
                for sample in images:
                    x = to_tensor(resize(sample, on.size).image)[None].to(on.device)
                    with torch.no_grad():
                        y = model(x).argmax(1)
                    pixels = (crafted(x, y)[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
                    Image.fromarray(pixels).save(folder / f"{sample.name}.png")
                for target in names:
                    model, total = load(target, on.device), 0.0
                    for sample in images:
                        clean = to_tensor(resize(sample, on.size).image)[None].to(on.device)
                        with Image.open(folder / f"{sample.name}.png") as file:
                            x = to_tensor(np.array(file))[None].to(on.device)
                        with torch.no_grad():
                            before, after = model(clean).argmax(1), model(x).argmax(1)
                        for label in before.unique():
                            both, either = (before == label) & (after == label), (before == label) | (after == label)
                            total += float(both.sum() / either.sum())

    def ours() -> None:
        models = _targets(on, len(names))
        with tempfile.TemporaryDirectory() as folder:
            values: dict[str, Any] = {"surrogates": [on.surrogate], "targets": list(models), "size": on.size}
            values |= {"attacks": [f"mi(iterations={steps})", f"di(iterations={steps})"], "pictures": 0, "quiet": True}
            bench.run(models=models, data="photos", out=Path(folder), device=on.device, batch=on.batch, **values)

    once = replace(on, repeats=min(on.repeats, 3))
    what = "2 attacks × 8 targets, with PNGs and models read again"
    yield once.ratio("pipeline", what, partial(script, load_model), ours, "× ours")
    yield once.ratio("pipeline", f"{what}, networks as they come", partial(script, as_it_comes), ours, "× ours")

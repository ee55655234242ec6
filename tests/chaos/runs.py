"""Runs of toy models in processes of their own, to be killed, stopped and starved."""

import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segtrans import bench, report
from segtrans.bench import plan as planning
from segtrans.bench.store import Store
from segtrans.cli import main
from segtrans.config import make_config, read_config
from segtrans.models import Preprocessing, SegModel

CLASSES = 3
UNITS = 62
TIMING = ("seconds", "seconds_per_image", "peak_memory")
"""What a unit costs differs from one time to the next; everything else is compared."""

# A process forked off one that has imported everything starts at once.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["pytest", "segtrans.cli", "segtrans.bench", "segtrans.report", "segtrans.config"])


class Toy(nn.Module):
    """A network that, given a book, signs there with the process it runs in, and at first waits for so many others."""

    book: Path | None = None
    _processes = 1

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, CLASSES, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        if self.book is not None:
            with self.book.open("a") as file:
                file.write(f"{os.getpid()}\n")
            deadline = time.monotonic() + 60
            while len(signed(self.book)) < self._processes and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.005)
        return self.network(x)


def signed(book: Path) -> dict[int, int]:
    """How often each process signed."""
    lines = book.read_text().split("\n")[:-1] if book.is_file() else []
    return Counter(map(int, lines))


def toy(name: str, device: str = "cpu") -> SegModel:
    with torch.random.fork_rng():
        torch.manual_seed(int(name.partition(":")[2]))
        network = Toy()
    preprocessing = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return SegModel(network, CLASSES, preprocessing=preprocessing, name=name, backbone=name).to(device)


def prepare(folder: Path, **changes: Any) -> Path:
    """A folder with two images, their masks, and the configuration of a run of 62 units beside them."""
    random = np.random.default_rng(0)
    for kind, channels in (("images", (3,)), ("masks", ())):
        (folder / "data" / kind).mkdir(parents=True)
        for i in range(2):
            pixels = random.integers(0, 255 if channels else CLASSES, (12, 16, *channels), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / kind / f"{i}.png")
    config: dict[str, Any] = {
        "surrogates": ["toy:0", "toy:1"],
        "targets": ["toy:1", "toy:2"],
        "attacks": ["noise", "pgd", "di", "mi"],
        "seeds": list(range(10)),
        "data": f"folder:data?classes={CLASSES}",
        "iterations": 2,
        "pictures": 0,
        "device": "cpu",
        "out": "run",
    }
    (folder / "config.yaml").write_text(json.dumps({**config, **changes}))
    return folder


def nothing(_: Path) -> list[Path]:
    """In place of pages, which take longer than these runs."""
    return []


def in_two_parts(path: Path, raw: bytes) -> int:
    """Files this small would be written in no time, and no kill would ever come in between."""
    with path.open("wb") as file:
        file.write(raw[:100])
        file.flush()
        time.sleep(0.002)
        return file.write(raw[100:])


def segtrans(folder: Path) -> None:
    """The command line within ``folder``, with the toys for models; what it says goes to ``said.txt`` there."""
    planning.load_model = toy
    report.write_report = nothing
    Path.write_bytes = in_two_parts
    os.chdir(folder)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = ["segtrans", "run", "config.yaml", "--quiet"]
    main()


def shared(folder: Path, workers: int, **changes: Any) -> None:
    """The run from Python, by several processes, which meet before any of them goes far."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    models = {f"toy:{i}": toy(f"toy:{i}") for i in range(3)}
    for model in models.values():
        # At first there is work for as many as there are models.
        model.network.book, model.network._processes = folder / "book", min(workers, len(models))
    # Clusters look for the data where it is, not where they were started.
    data = f"folder:{folder}/data?classes={CLASSES}"
    config = make_config({**read_config(Path("config.yaml")), "data": data, "workers": workers, **changes})
    sys.exit(130 if bench.run(config, models=models, quiet=True)["interrupted"] else 0)


def start(folder: Path) -> BaseProcess:
    process = context.Process(target=segtrans, args=(folder,))
    process.start()
    return process


def finish(process: BaseProcess, timeout: float = 120) -> int:
    """The exit code."""
    process.join(timeout)
    assert process.exitcode is not None, "the run does not end"
    return process.exitcode


def whole(folder: Path) -> None:
    """Start, or go on, to the end."""
    process = start(folder)
    assert finish(process) == 0, (folder / "said.txt").read_text()


def shards(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every shard, each of them read, with what changes when it is written again."""
    store, found = Store(folder / "run"), {}
    for path in sorted((store.root / "units").rglob("[!.]*.safetensors")):
        raw = path.read_bytes()
        header = json.loads(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["segtrans"])
        name = path.relative_to(store.root / "units").as_posix().removesuffix(".safetensors")
        assert store.read(name, header["identity"]) is not None, f"{name} is unreadable"
        found[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def count(folder: Path) -> int:
    """How many shards there are."""
    return len(list((folder / "run").rglob("[!.]*.safetensors")))


def begun(folder: Path, shards: int = 8) -> int:
    """Wait until a run has made so many shards; how many it has made then."""
    deadline = time.monotonic() + 120
    while count(folder) < shards:
        assert time.monotonic() < deadline, "no shards come"
        time.sleep(0.002)
    return count(folder)


def met(folder: Path, processes: int) -> set[int]:
    """Wait until so many processes are at work; their ids."""
    deadline = time.monotonic() + 120
    while len(found := signed(folder / "book")) < processes:
        assert time.monotonic() < deadline, "workers do not come"
        time.sleep(0.02)
    return set(found)


def tables(folder: Path) -> tuple[str, bytes]:
    """What a run found, letter by letter: its document but for times and for what came from Python, and its cells."""
    document = json.loads((folder / "run" / "result.json").read_text())
    del document["objects"]
    for name in ("workers", "engine", "address", "slice", "slurm", "batch", "data"):
        del document["config"][name]
    for cost in document["costs"]:
        for name in TIMING:
            del cost[name]
    return json.dumps(document), (folder / "run" / "cells.csv").read_bytes()


if __name__ == "__main__":
    segtrans(Path(sys.argv[1]))

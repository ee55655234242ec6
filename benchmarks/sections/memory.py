"""Peak memory, each in a process of its own."""

import ctypes
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from sections.setting import Row, Setting
from segtrans.catalogue import attack


def memory(on: Setting) -> Iterator[Row]:
    """Peak memory of an attack beyond what holds the model, against one bare gradient's, pair by pair, each in a
    process of its own.
    """
    for name, size in (("mi", on.size), ("segtrans", on.size), ("segtrans-k5", on.size), ("fspgd", 512)):
        found = [_peak(on, name, size) / _peak(on, "gradient", size) for _ in range(on.repeats)]
        spread = statistics.median(found), "× one gradient's memory", min(found), max(found)
        yield Row("memory", f"{name} at {size}×{size}", *spread)


def _peak(on: Setting, name: str, size: int) -> float:
    settings = {"--surrogate": on.surrogate, "--device": on.device, "--size": str(size), "--batch": "1"}
    command = [sys.executable, sys.argv[0], "--peak", name, *chain.from_iterable(settings.items())]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(on: Setting, name: str) -> float:
    """Bytes at most beyond what is there before, of an attack or of one gradient."""
    if name == "gradient":
        work = partial(on.gradients, 1)
    else:
        work = partial(attack(f"{name}(iterations=2)"), on.model, on.x, on.y, chunk=1)
    # The first time also sets things up.
    work()
    if on.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        # What was freed goes back to the system, or the next would find it there and seem to need nothing.
        ctypes.CDLL(None).malloc_trim(0)
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
    work()
    return (torch.cuda.max_memory_allocated() if on.device.startswith("cuda") else _status("VmHWM")) - before


def _status(key: str) -> float:
    """What Linux says of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1]) * 1024

"""Peak memory."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch.profiler import profile

from sections.setting import Row, Setting
from segtrans.catalogue import attack


def memory(on: Setting) -> Iterator[Row]:
    """What tensors of an attack on one image take at most, beyond what is there before, against those of one bare
    gradient.
    """
    for name, size in (("mi", on.size), ("segtrans", on.size), ("segtrans-k5", on.size), ("fspgd", 512)):
        x = on.images(1, size)
        y = on.model(x).argmax(1)
        crafted = partial(attack(f"{name}(iterations=2)"), on.model, x, y, chunk=1)
        ratio = _peak(on, crafted) / _peak(on, partial(on.gradients, 1, x, y))
        yield Row("memory", f"{name} at {size}×{size}", ratio, "× one gradient's memory")


def _peak(on: Setting, work: Callable[[], object]) -> int:
    """Bytes, the second time: the first also sets things up."""
    work()
    if on.device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as found:
        work()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    taken = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(taken.cumsum(0).max())

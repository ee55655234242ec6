"""Random numbers by address: a pure function of (seed, image, iteration, part, copy), on any device.

A sequential generator gives an image other numbers when the batch around it changes. Here every number is a hash of
where it is used, so batch size, order, chunking and worker count change nothing, global generators stay untouched, and
a whole batch is drawn at once without a loop. The hash is splitmix64's finaliser (Steele et al., OOPSLA 2014).

Addresses are hashed on the CPU, and so are few numbers, since a GPU has to be told of each of a hash's operations and
takes longer to begin one than to do it. Many numbers are made where they are used. They are the same everywhere.
"""

import copy
import hashlib
import itertools
import math
import random
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segtrans.devices import CPU, sent


def _signed(number: int) -> int:
    """A whole number modulo 2^64, as the int64 with the same bits; tensors wrap by themselves."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, whose own shift is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def derive(keys: Tensor, address: int | Tensor) -> Tensor:
    """New int64 keys from ``keys`` and an address; different addresses give unrelated keys."""
    if isinstance(address, int):
        return _mix(keys + _signed((address + 1) * _GOLDEN))
    return _mix(keys + (address + 1) * _GOLDEN)


def image_keys(images: Tensor) -> Tensor:
    """One int64 key per image (N, 3, H, W), on the CPU, a hash of its 8-bit content: an image keeps its random numbers
    wherever it stands in whatever batch, on any device and in any precision.
    """
    grey = (images.detach() * 255).round().to(torch.uint8).cpu().contiguous().numpy()
    if images.device.type == "cpu":
        keys = [_hashed(image) for image in grey]
    else:
        # Side by side, since a GPU waits for it; a CPU has other things to do.
        with ThreadPoolExecutor() as pool:
            keys = list(pool.map(_hashed, grey))
    return torch.tensor(keys, dtype=torch.int64, device=CPU)


def _hashed(image: npt.NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(image.data, digest_size=8).digest(), "little", signed=True)


def _numbers(keys: Tensor, count: int) -> Tensor:
    """For each key so many numbers, (*keys, count) float32, uniform in [0, 1)."""
    index = torch.arange(count, device=keys.device)
    # 24 bits are exact in float32 and float64 alike, so that precision does not change the draw; float16 cannot even
    # hold 2^24.
    return _shift(derive(keys[..., None], index), 40).to(torch.float32) / (1 << 24)


CALLS, COUNT = 16, 32
"""Of how many calls so many numbers each are made at once. A hash is some thirty operations on tensors, so small that
each takes as long as any: ten calls would take longer than what a transformation does with the numbers.
"""


class MayDraw:
    """A part of an attack that says whether it asks for random numbers. An attack of which none does finds the same
    with every seed, and a run makes it once for all of them.
    """

    @property
    def draws(self) -> bool:
        return False


class Draw:
    """The random numbers of one part in one gradient evaluation, for a batch of B items.

    Successive calls of its methods give independent numbers. ``copy`` (B,) tells a transformation with several copies
    which of them each item is, and ``reach`` by how much the attack may change every value at once, in which noise is
    measured. What a transformation sends through ``adjust`` comes back as it is, unless the attack looks for better
    numbers (see :attr:`segtrans.transforms.Transform.descent`). ``device`` is where numbers are given.

    ``keys`` (B,), ``copy`` and ``shared`` (1,), the key of numbers that all images share, are int64 and on the CPU.
    """

    def __init__(
        self, keys: Tensor, copy: Tensor, shared: Tensor, dtype: torch.dtype, reach: float, device: torch.device = CPU
    ) -> None:
        self.dtype = dtype
        self.reach = reach
        self.device = device
        self.adjust: Callable[[Tensor], Tensor] = lambda numbers: numbers
        self._keys = keys
        self._copy = copy
        self._shared = shared
        # One count for all that go on with these numbers, wherever they are given.
        self._calls = itertools.count()

    def __len__(self) -> int:
        return len(self._keys)

    def on_cpu(self) -> "Draw":
        """The numbers that come next, given on the CPU, for a part that works with few of each image."""
        if self.device.type == "cpu":
            return self
        there = copy.copy(self)
        there.device = CPU
        for known in ("copy", "_ahead"):
            there.__dict__.pop(known, None)
        return there

    @cached_property
    def copy(self) -> Tensor:
        return sent(self._copy, self.device)

    @cached_property
    def _ahead(self) -> Tensor:
        """The first numbers of the first calls, (B, CALLS, COUNT)."""
        return sent(_numbers(derive(self._keys[:, None], torch.arange(CALLS, device=CPU)), COUNT), self.device)

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        call, count = next(self._calls), math.prod(shape)
        if call < CALLS and count <= COUNT:
            return self._ahead[:, call, :count].reshape(-1, *shape)
        return _numbers(sent(derive(self._keys, call), self.device), count).view(-1, *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, *shape) numbers, uniform in [low, high)."""
        return low + (high - low) * self._uniform(shape).to(self.dtype)

    def normal(self, *shape: int, deviation: float = 1.0) -> Tensor:
        """(B, *shape) numbers from a Gaussian around zero (Box and Muller, 1958); none is more than 5.8 deviations out.

        They are rounded to float32 from float64: the last digit of a logarithm depends on the device and on where in
        memory a number stands.
        """
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        distance, angle = (self._uniform(shape).to(wide) for _ in range(2))
        numbers = torch.log1p(-distance).mul_(-2).sqrt_().mul_(angle.mul_(2 * math.pi).cos_())
        return deviation * numbers.float().to(self.dtype)

    def integers(self, bound: Tensor) -> Tensor:
        """Whole numbers, uniform in 0 … bound-1, of the shape of ``bound`` (B, …)."""
        return (self.uniform(*bound.shape[1:]) * bound).floor().long().minimum(bound - 1)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """(B, *shape) booleans, true with the given probability."""
        return self.uniform(*shape) < probability

    def shared(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number for every image of the run at this iteration, uniform in [low, high)."""
        return low + (high - low) * float(_numbers(derive(self._shared, next(self._calls)), 1))


@contextmanager
def seeded(key: int, device: torch.device = CPU) -> Generator[None]:
    """A context in which the global generators, those of a GPU too, are seeded; leaving it puts them back."""
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002 what libraries draw from
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        torch.default_generator.manual_seed(key)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(key)
        np.random.seed(key % 2**32)  # noqa: NPY002
        random.seed(key)
        try:
            yield
        finally:
            np.random.set_state(numbers)  # noqa: NPY002
            random.setstate(python)

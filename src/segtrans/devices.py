"""Where tensors are computed."""

import os
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from segtrans.errors import MissingError, first_line, unknown

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
CPU = torch.device("cpu")
"""Named wherever a tensor is made there, since a program can have another default."""


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one."""
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise unknown("device", name, DEVICES)
    if kind == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # torchrun tells each of its processes which of a machine's devices is its own.
    if name == "cuda" and torch.cuda.is_available() and os.environ.get("LOCAL_RANK", "").isdecimal():
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MissingError(f"device {name!r} cannot be used here ({first_line(error)})") from None
    return device


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` of the CPU on a device; a CUDA device is not waited for."""
    # Of what lies in ordinary memory CUDA has taken a copy when it returns; Apple's devices read it later.
    return values.to(device, non_blocking=device.type == "cuda")


@contextmanager
def exact(device: torch.device) -> Generator[None]:
    """Full float32 on GPUs: TensorFloat-32, which convolutions use unless told otherwise, is another attack."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def synchronise(device: torch.device) -> None:
    """Wait until a CUDA device has done all that it was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

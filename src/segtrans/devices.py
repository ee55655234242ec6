"""Where tensors are computed."""

import os

import torch

from segtrans.errors import MissingError, first_line, unknown

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")


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

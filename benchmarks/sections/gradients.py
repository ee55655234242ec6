"""One gradient, which is what attacks cannot do without."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sections.setting import Row, Setting, as_it_comes, forward
from segtrans.objectives.base import pixel_losses


def gradient(on: Setting) -> Iterator[Row]:
    """One gradient as an attack here takes it, against one of the network as it comes with F.cross_entropy."""
    plain = as_it_comes(on.surrogate, on.device).requires_grad_(False)

    def theirs() -> None:
        leaf = on.x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(plain(leaf), on.y), leaf)

    ours = partial(on.gradients, 1)
    yield on.ratio("gradient", "network as it comes, weights frozen", theirs, ours, "× ours")
    yield on.ratio("gradient", "ours", ours, partial(forward, on.model, on.x), "× a forward pass")


def ceilings(on: Setting) -> Iterator[Row]:
    """What the processor multiplies at its best, and what share of it one gradient of the surrogate reaches."""
    side = 8192 if on.device.startswith("cuda") else 2048
    with FlopCounterMode(display=False) as counter:
        forward(as_it_comes(on.surrogate, on.device), on.x)
    # Backwards to the input a convolution multiplies as often as forwards.
    operations = 2e-12 * counter.get_total_flops()
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("TensorFloat-32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        if tf32 and not on.device.startswith("cuda"):
            continue
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        one, other = (torch.randn(side, side, device=on.device).to(dtype) for _ in range(2))
        best = 2e-12 * side**3 / on.median(partial(torch.mm, one, other))
        yield Row("ceilings", f"{name}, product of {side}×{side} matrices", best, "TFLOP/s")

        def gradient(dtype: torch.dtype = dtype) -> None:
            with torch.autocast(torch.device(on.device).type, dtype, enabled=dtype is torch.bfloat16):
                on.gradients(1)

        took = on.median(gradient)
        yield Row("ceilings", f"{name}, gradients", on.batch / took, "images per second")
        yield Row("ceilings", f"{name}, operations of gradients", operations / took / best, "of that product's")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def compiled(on: Setting) -> Iterator[Row]:
    """One gradient by a compiled surrogate or, on a GPU, replayed as a CUDA graph, against one as attacks take it."""
    ours, x = partial(on.gradients, 1), on.x.clone().requires_grad_()

    def by(model: nn.Module) -> Tensor:
        return torch.autograd.grad(pixel_losses(model(x), on.y).mean(), x)[0]

    if on.device.startswith("cuda"):
        # Capturing needs what runs for the first time to have run, on another stream than the default one.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                by(on.model)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            by(on.model)
        yield on.ratio("compiled", "CUDA graph", graph.replay, ours, "× ours")
    # Interpolation is torch's own in what is compiled.
    fast = torch.compile(on.model)
    yield on.ratio("compiled", "torch.compile", partial(by, fast), ours, "× ours")

"""Networks as CPUs compute them fastest: where their weights lie, and by which routine they are applied."""

from typing import Any, cast

import torch
from torch import Tensor, nn


def lay_out(network: nn.Module) -> None:
    """Change, in place, how ``network`` is computed, not what: weights of convolutions have channels last, which their
    inputs follow, and convolutions of single pixels are :class:`Pointwise`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        # Subclasses of other libraries compute something of their own.
        if type(module) is nn.Conv2d and _is_pointwise(module):
            module.__class__ = Pointwise


def _is_pointwise(module: nn.Conv2d) -> bool:
    plain = module.stride == (1, 1) and module.padding in ((0, 0), "valid", "same") and module.groups == 1
    return module.kernel_size == (1, 1) and plain


class Pointwise(nn.Conv2d):
    """A 1 × 1 convolution that oneDNN computes.

    With one thread and fewer than 16 images PyTorch leaves these to a matrix product of MKL instead (``use_mkldnn`` in
    its Convolution.cpp), which took twice as long forwards and backwards on a processor with AVX-512 that Intel did not
    make, and rounds differently from what several threads get.

    It knows backward passes and their derivatives; vmap, forward-mode derivatives and torch.jit.script it does not.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in nn.Conv2d
        learns = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        fixed = input.dtype == self.weight.dtype == torch.float32 and not learns
        here = input.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if fixed and here and input.ndim == 4 and not _is_written_down() and torch.backends.mkldnn.is_available():
            return cast(Tensor, _Product.apply(input, self.weight, self.bias))
        return super().forward(input)


class _Product(torch.autograd.Function):
    """Weights (O, I, 1, 1) times the channels of every pixel of (N, I, H, W); weights get no gradient."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.mkldnn_convolution(x, weight, bias, (0, 0), (1, 1), (1, 1), 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        # Itself, so that it has a derivative in turn.
        return cast(Tensor, _Product.apply(grads[0], ctx.saved_tensors[0].transpose(0, 1), None)), None, None


def _is_written_down() -> bool:
    """Whether PyTorch is making a program of the network, in which a function of our own has no place."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]

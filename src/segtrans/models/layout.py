"""Networks as they are computed fastest: where their weights lie, and by which routine they are applied."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from segtrans.interpolation import interpolate, is_written_down


def lay_out(network: nn.Module) -> None:
    """Change, in place, how ``network`` is computed, not what: weights of convolutions have channels last, which their
    inputs follow, convolutions of single pixels are :class:`Pointwise`, and modules that enlarge :class:`Enlarged`.

    On CUDA most networks are faster in float32 with channels first: ``network.to(memory_format=
    torch.contiguous_format)`` puts weights back, as :func:`segtrans.models.load_model` does for a GPU.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        # Subclasses of other libraries compute something of their own.
        if type(module) is nn.Conv2d and _is_pointwise(module):
            module.__class__ = Pointwise
        if type(module) in (nn.Upsample, nn.UpsamplingBilinear2d) and _is_whole(module):
            cast(Any, module).__class__ = Enlarged


def _is_pointwise(module: nn.Conv2d) -> bool:
    plain = module.stride == (1, 1) and module.padding in ((0, 0), "valid", "same") and module.groups == 1
    return module.kernel_size == (1, 1) and plain


def _is_whole(module: nn.Module) -> bool:
    """Whether an interpolation is bilinear and by a whole number, for which torch and we find the same size."""
    factor = getattr(module, "scale_factor", None)
    return getattr(module, "mode", "") == "bilinear" and isinstance(factor, int | float) and float(factor).is_integer()


class Enlarged(nn.Upsample):
    """A bilinear interpolation by :func:`segtrans.interpolation.interpolate`, which torch.jit.script does not know."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in nn.Upsample
        if is_written_down():
            return super().forward(input)
        factor, (height, width) = int(cast(float, self.scale_factor)), input.shape[-2:]
        return interpolate(input, (factor * height, factor * width), align_corners=bool(self.align_corners))


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
        if fixed and here and input.ndim == 4 and not is_written_down() and torch.backends.mkldnn.is_available():
            # Without a gradient, what torch does to prepare one is a tenth of the time on small maps.
            product = _Product.apply if torch.is_grad_enabled() else _Product.forward
            return cast(Tensor, product(input, self.weight, self.bias))
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

"""Directional derivatives of a backbone along its parameters, in forward-mode autograd."""

import warnings
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

with warnings.catch_warnings():
    # Forward mode loads this by itself, and some versions of torch then warn about their own parts.
    warnings.simplefilter("ignore")
    import torch._decomp.decompositions_for_jvp


def directional_derivative(module: nn.Module, direction: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """d/de module(x; theta + e v) at e = 0, in the shape of the module's output.

    In train mode batch-norms take their statistics from the batch, and the derivative goes through
    these. Parameters and buffers do not change. ``direction`` is v, one tensor for each parameter,
    by name; x is a constant.
    """
    # Copies, as batch-norms in train mode write their running statistics.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    # The fused kernels of attention have no forward mode.
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), forward_ad.dual_level(), _FastBatchNorm(), plain:
        moving = {
            name: forward_ad.make_dual(parameter.detach(), direction[name])  # type: ignore[no-untyped-call]
            for name, parameter in module.named_parameters()
        }
        output = functional_call(module, {**moving, **buffers}, (x,))
        parts = forward_ad.unpack_dual(output)  # type: ignore[no-untyped-call]
        return cast(Tensor, parts.tangent)


class _FastBatchNorm(TorchFunctionMode):
    """Mode in which batch-norms on batch statistics have a tangent of two passes.

    Torch's own tangent is a chain of elementwise operations in mixed precision, which took most of
    the time of the whole derivative in bfloat16.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not nn.functional.batch_norm:
            return func(*args, **kwargs)
        names = ("input", "mean", "var", "weight", "bias", "training", "momentum", "eps")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        # With running statistics torch's own tangent is an affine map, and fast.
        if not given.get("training") or given.get("weight") is None:
            return func(*args, **kwargs)
        x, weight, bias = given["input"], given["weight"], given["bias"]
        return _BatchNorm.apply(x, weight, bias, given["eps"])[0]


class _BatchNorm(torch.autograd.Function):
    """Batch-norm of [B, C, H, W] by batch statistics, for forward mode only.

    With s the inverse deviation and m the mean, per channel:

        dy = J dx + s (x - m) dw + db

    J = w s (1 - (1 + x^ x^') / n), with x^ = s (x - m) and n values in a channel, is symmetric, so
    the kernel of the backward pass gives J dx for dx.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output, and mean and inverse deviation of each channel."""
        output, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        return output, mean, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        """Keep the inputs of the tangent."""
        x, weight, _bias, ctx.eps = inputs
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.save_for_forward(x, weight, output[1], output[2])

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None, None]:
        """Tangent of the output."""
        dx, dweight, dbias, _ = tangents
        x, weight, mean, inverse = ctx.saved_tensors
        through, _, _ = torch.ops.aten.native_batch_norm_backward(
            dx, x, weight, None, None, mean, inverse, True, ctx.eps, [True, False, False]
        )
        slope = inverse * dweight
        # The affine part as a batch-norm, which has a kernel for few channels.
        zero, one = torch.zeros_like(slope), torch.ones_like(slope)
        offset = dbias - mean * slope
        affine = torch.native_batch_norm(x, slope, offset, zero, one, False, 0.0, 0.0)[0]
        return affine.add_(through), None, None

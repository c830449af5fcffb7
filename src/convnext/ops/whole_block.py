"""A whole ConvNeXt block in training as one operation, so that nothing but kernels touches its tensors on the way.

Under autocast the residual stream is fp32 and the products are in half precision. As two operations (`depthwise_norm`, `mlp`)
a block casts x and the gradient of its output down, the gradient of the convolution up, and adds that to the residual's. Here
the kernels do it where they have the values in registers: the MLP writes its output and, in the dtype of the products, the
output's `twin`, which is what the next block's convolution reads; the convolution's gradient adds the residual's, and writes
the sum and its twin, which is what the MLP of the block before reads.

So a block takes and gives a pair, and the gradient of a twin is not its part of the gradient, as autograd has it, but the
whole, rounded. This is right where twins go from one block to the next and nowhere else: `models.block.Blocks` sees to it.

Legend: B batch, H W height and width, C channels, M = B H W pixels.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from convnext.ops import depthwise_norm, mlp
from convnext.ops.mlp import KERNELS, compute_dtype

WHOLE = replace(KERNELS, pays=lambda x: x.device.type == "cuda" and compute_dtype(x) != torch.float32)


def whole_block(
    x: Tensor,
    twin: Tensor | None,
    conv: tuple[Tensor, Tensor | None],
    norm: tuple[Tensor | None, Tensor | None, float],
    linear: tuple[Tensor, Tensor, Tensor, Tensor],
    gamma: Tensor | None = None,
    scale: Tensor | None = None,
    recompute: bool = False,
    pair: bool = False,
    bf16_rows: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`mlp_residual(x, depthwise_norm(x, *conv, *norm), *linear, gamma, scale, recompute)`, (B,H,W,C), and its twin or None.

    The output has x's dtype; under autocast with LayerScale the wider one of x's and gamma's, as in PyTorch's own operations.
    The convolution and the products are in autocast's dtype, or else x's.

    Args:
        x: (B,H,W,C).
        twin: x in the dtype of the products, from the block before.
        conv: (weight (C,1,7,7), bias (C,) or None).
        norm: (weight (C,), bias (C,), eps); without an affine part both are None.
        linear: (w1 (4C,C), b1 (4C,), w2 (C,4C), b2 (C,)).
        pair: the next block takes the twin of the output; where x's dtype is that of the products, or without a gradient,
            there is none.
        bf16_rows: as in `depthwise_norm`, without a gradient.

    Raises:
        ConvNextError: shapes that do not fit.
    """
    dtype = compute_dtype(x)
    if WHOLE.takes(x):
        stream = stream_dtype(x, gamma)
        differentiable = (x, *conv, *norm[:2], *linear, gamma)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiable):
            depthwise_norm.check(x, *conv, *norm[:2])
            mlp.check(x, x, *linear, gamma, scale)
            pair = pair and stream != dtype
            out, found, *_ = fused(
                x.contiguous(),
                twin,
                *conv,
                *norm[:2],
                *linear,
                gamma,
                scale,
                norm[2],
                dtype,
                stream,
                not recompute,
                pair,
            )
            return out, found if pair else None
        y = depthwise_norm.depthwise_norm(x.to(dtype), *conv, *norm, bf16_rows)
        return mlp.mlp_residual(x.to(stream), y, *linear, gamma, scale, recompute), None
    y = depthwise_norm.depthwise_norm(x.to(dtype), *conv, *norm, bf16_rows)
    return mlp.mlp_residual(x, y, *linear, gamma, scale, recompute), None


def stream_dtype(x: Tensor, gamma: Tensor | None) -> torch.dtype:
    """The dtype of the block's output."""
    if gamma is None or not torch.is_autocast_enabled(x.device.type):
        return x.dtype
    return torch.promote_types(x.dtype, gamma.dtype)


# -- as operators that torch.compile, the FLOP counter and fake tensors know


@torch.library.custom_op(
    "convnext::whole_block",
    mutates_args=(),
    schema="(Tensor x, Tensor? twin, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, Tensor w1, Tensor b1,"
    " Tensor w2, Tensor b2, Tensor? gamma, Tensor? scale, float eps, ScalarType dtype, ScalarType stream, bool keep, bool pair)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def fused(
    x, twin, weight, bias, norm_weight, norm_bias, w1, b1, w2, b2, gamma, scale, eps, dtype, stream, keep, pair
):  # fmt: skip
    """The output, its twin if `pair`, and what the gradient needs: x in `dtype` where that is neither x nor `twin`; z of the
    convolution and LayerNorm, the normalised values where they are not z, 1/std; the pre-activation if `keep`. Else empty."""
    from convnext.ops._triton import depthwise
    from convnext.ops._triton import mlp as kernels

    bias, norm_weight, norm_bias, gamma, scale = (
        None if t is None else t.contiguous() for t in (bias, norm_weight, norm_bias, gamma, scale)
    )
    b1, b2 = b1.contiguous(), b2.contiguous()
    w1, w2 = (w.to(dtype).contiguous() for w in (w1, w2))
    given = x.to(dtype) if twin is None else twin
    with torch.cuda.device_of(x):
        y, hat, rstd = depthwise.forward(given, weight.contiguous(), bias, norm_weight, norm_bias, eps, True)
        out, z, rounded = kernels.forward(x, y, w1, b1, w2, b2, gamma, scale, keep, stream, pair)
    made = given if twin is None and given is not x else None
    rounded, made, hat, z = (y.new_empty(0) if t is None else t for t in (rounded, made, hat, z))
    return out, rounded, made, y, hat, rstd, z


@fused.register_fake
def _(x, twin, weight, bias, norm_weight, norm_bias, w1, b1, w2, b2, gamma, scale, eps, dtype, stream, keep, pair):
    def half(shape):
        return x.new_empty(shape, dtype=dtype)

    return (
        x.new_empty(x.shape, dtype=stream),
        half(x.shape if pair else 0),
        half(x.shape if twin is None and x.dtype != dtype else 0),
        half(x.shape),
        half(x.shape if norm_weight is not None else 0),
        x.new_empty(x.shape[:3], dtype=torch.float32),
        half((x.numel() // len(w2), len(w1)) if keep else 0),
    )


@torch.library.custom_op(
    "convnext::whole_block_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor? grad_twin, Tensor x, Tensor y, Tensor hat, Tensor rstd, Tensor z, Tensor weight,"
    " Tensor? norm_weight, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? gamma, Tensor? scale, ScalarType stream,"
    " bool recompute, bool pair, bool need_x, bool need_conv, bool need_norm, bool need_linear)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def fused_backward(
    grad, grad_twin, x, y, hat, rstd, z, weight, norm_weight, w1, b1, w2, b2, gamma, scale,
    stream, recompute, pair, need_x, need_conv, need_norm, need_linear,
):  # fmt: skip
    """Gradients of x (in `stream`), its twin (rounded, if `pair`), the convolution's and LayerNorm's weight and bias, w1, b1,
    w2, b2 and gamma (fp32); empty where not needed or not there. x is what the convolution read."""
    from convnext.ops._triton import depthwise, mlp_backward, norm

    gamma, scale = (None if t is None else t.contiguous() for t in (gamma, scale))
    grad = grad.contiguous()
    narrow = grad.to(y.dtype) if grad_twin is None else grad_twin.contiguous()
    lower: list[Tensor | None] = [None] * 6
    with torch.cuda.device_of(x), torch.autocast(x.device.type, enabled=False):
        matrices = (w1.to(y.dtype).contiguous(), b1.contiguous(), w2.to(y.dtype).contiguous(), b2)
        kept = None if recompute else z
        dy, *upper = mlp_backward.backward(narrow, y, kept, *matrices, gamma, scale, need_linear)
        assert dy is not None
        if need_x or need_conv or need_norm:
            dc, *lower[4:] = norm.norm_backward(dy, hat, rstd, norm_weight)
            if need_conv:
                lower[2:4] = depthwise.weight_gradient(x, dc)
            if need_x:
                lower[:2] = depthwise.residual_gradient(dc, weight.contiguous(), grad, stream, pair)
    return tuple(y.new_empty(0, dtype=torch.float32) if t is None else t for t in (*lower, *upper))


@fused_backward.register_fake
def _(
    grad, grad_twin, x, y, hat, rstd, z, weight, norm_weight, w1, b1, w2, b2, gamma, scale,
    stream, recompute, pair, need_x, need_conv, need_norm, need_linear,
):  # fmt: skip
    def made(like, needed, dtype=torch.float32):
        return y.new_empty(like.shape if needed else 0, dtype=dtype if needed else torch.float32)

    affine = norm_weight is not None and (need_x or need_conv or need_norm)
    return (
        made(x, need_x, stream),
        made(x, need_x and pair, y.dtype),
        made(weight, need_conv),
        made(b2, need_conv),
        made(b2, affine),
        made(b2, affine),
        *(made(t, need_linear) for t in (w1, b1, w2, b2)),
        made(b2, need_linear and gamma is not None),
    )


def setup_context(ctx, inputs, output):
    x, twin, *parameters, scale, _, dtype, _, keep, pair = inputs
    _, _, made, y, hat, rstd, z = output
    given = twin if twin is not None else x if x.dtype == dtype else made
    ctx.keep, ctx.taken, ctx.gave, ctx.stream = keep, twin is not None, pair, x.dtype
    weight, _, norm_weight, _, w1, b1, w2, b2, gamma = parameters
    ctx.dtypes = [None if t is None else t.dtype for t in parameters]
    hat = y if norm_weight is None else hat
    ctx.save_for_backward(given, y, hat, rstd, z, weight, norm_weight, w1, b1, w2, b2, gamma, scale)
    ctx.set_materialize_grads(False)  # no zeros for what nobody differentiates


def backward(ctx, grad, grad_twin, *unused):
    need_x, need_twin, *needs = ctx.needs_input_grad
    needs = needs[:9]
    if grad is None:
        return (None,) * 17
    need_conv, need_norm, need_linear = any(needs[:2]), any(needs[2:4]), any(needs[4:])
    pair = ctx.taken and need_twin
    grad_twin = grad_twin if ctx.gave else None
    dx, dtwin, *found = fused_backward(
        grad, grad_twin, *ctx.saved_tensors, ctx.stream, not ctx.keep, pair, need_x, need_conv, need_norm, need_linear
    )
    gradients = [d.to(dtype) if n else None for d, n, dtype in zip(found, needs, ctx.dtypes, strict=True)]
    return dx if need_x else None, dtwin if pair else None, *gradients, *(None,) * 6


fused.register_autograd(backward, setup_context=setup_context)


@register_flop_formula(torch.ops.convnext.whole_block)
def flops(x_shape, twin_shape, weight_shape, bias, norm_weight, norm_bias, w1_shape, *args, **kwargs) -> int:
    """Those of the two operations."""
    return depthwise_norm.flops(x_shape, weight_shape) + mlp.flops(x_shape, x_shape, w1_shape)


@register_flop_formula(torch.ops.convnext.whole_block_backward)
def backward_flops(
    grad_shape, grad_twin, x_shape, y, hat, rstd, z, weight_shape, norm_weight, w1_shape, b1, w2, b2, gamma, scale,
    stream, recompute, pair, need_x, need_conv, need_norm, need_linear, **kwargs,
) -> int:  # fmt: skip
    """Those of the two operations."""
    first = depthwise_norm.backward_flops(x_shape, x_shape, weight_shape, None, None, None, need_x, need_conv)
    last = mlp.backward_flops(x_shape, x_shape, None, w1_shape, None, None, None, None, None, recompute, need_linear)
    return first + last

"""Depthwise 7x7 convolution and LayerNorm over the channels, the first half of a ConvNeXt block, as one operation.

For the gradient the Triton form keeps x, the normalised values and one 1/std per pixel. Without an affine part (folded into
the next layer) the normalised values are the output, which that layer keeps anyway, so nothing is added; with one they
cost one tensor. Recomputing them would need the whole convolution again, which is the dearest thing here: 98 fp32
operations for each element against 4 bytes of memory traffic.

Legend: B batch, H W height and width, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from convnext.errors import ConvNextError
from convnext.ops.backend import TRITON
from convnext.ops.depthwise import depthwise_conv


def depthwise_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-6,
    bf16_rows: bool = False,
) -> Tensor:
    """LayerNorm over C of the depthwise convolution of x: (B,H,W,C) -> (B,H,W,C), contiguous, of x's dtype.

    x (B,H,W,C) float, weight (C,1,7,7), bias (C,) or None; norm_weight and norm_bias (C,), or both None: no affine part.
    Stride 1, zero padding 3. Autocast changes nothing: x's dtype decides, and sums and statistics are fp32 at least on a
    GPU. The parameters may have another dtype, in which their gradients come back. Gradients are the same bits every time.
    `bf16_rows`: on a GPU, for bf16 and without a gradient, sum the products of each of the seven kernel rows in bf16, two at a
    time, and only the rows in fp32; everything else ignores it.
    Raises ConvNextError for shapes that do not fit. Source: Section 2.6 and Figure 4 of the paper.
    """
    check(x, weight, bias, norm_weight, norm_bias)
    if not TRITON.takes(x):
        return reference(x, weight, bias, norm_weight, norm_bias, eps)
    differentiable = (x, weight, bias, norm_weight, norm_bias)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiable)
    rows = bf16_rows and not keep and x.dtype == torch.bfloat16
    return fused(x.contiguous(), weight, bias, norm_weight, norm_bias, eps, keep, rows)[0]


def check(x: Tensor, weight: Tensor, bias: Tensor | None, norm_weight: Tensor | None, norm_bias: Tensor | None) -> None:
    """Refuse shapes that do not fit together."""
    if x.ndim != 4:
        raise ConvNextError(f"x has shape {tuple(x.shape)}; (batch, height, width, channels) was expected.")
    c = x.shape[3]
    if tuple(weight.shape) != (c, 1, 7, 7):
        raise ConvNextError(
            f"The kernel has shape {tuple(weight.shape)}; with {c} channels ({c}, 1, 7, 7) was expected."
        )
    if (norm_weight is None) != (norm_bias is None):
        raise ConvNextError("Only one of norm_weight and norm_bias was given; give both, or neither after folding.")
    for name, t in (("bias", bias), ("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if t is not None and tuple(t.shape) != (c,):
            raise ConvNextError(f"{name} has shape {tuple(t.shape)}; with {c} channels ({c},) was expected.")


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, norm_weight, norm_bias, eps: float) -> Tensor:
    """The same in PyTorch's own operations, all in x's dtype."""
    weight = weight.to(x.dtype)
    bias = x.new_zeros(len(weight)) if bias is None else bias.to(x.dtype)
    norm_weight, norm_bias = (None if t is None else t.to(x.dtype) for t in (norm_weight, norm_bias))
    if x.device.type == "meta":
        return F.layer_norm(depthwise_conv(x, weight, bias), bias.shape, norm_weight, norm_bias, eps)
    with torch.autocast(x.device.type, enabled=False):
        y = depthwise_conv(x, weight, bias)  # (B,H,W,C)
        return F.layer_norm(y, bias.shape, norm_weight, norm_bias, eps).contiguous()


# -- the Triton form as operators that torch.compile, the FLOP counter and fake tensors know


@torch.library.custom_op(
    "convnext::depthwise_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor? norm_weight, Tensor? norm_bias, float eps, bool keep,"
    " bool bf16_rows=False) -> (Tensor, Tensor, Tensor)",
)
def fused(x, weight, bias, norm_weight, norm_bias, eps, keep, bf16_rows=False):
    """z (B,H,W,C); if `keep`, the normalised values (empty where they are z) and 1/std (B,H,W), else two empty tensors."""
    from convnext.ops._triton import depthwise

    bias, norm_weight, norm_bias = (None if t is None else t.contiguous() for t in (bias, norm_weight, norm_bias))
    with torch.cuda.device_of(x):
        z, hat, rstd = depthwise.forward(
            x.contiguous(), weight.contiguous(), bias, norm_weight, norm_bias, eps, keep, bf16_rows
        )
    return z, x.new_empty(0) if hat is None else hat, x.new_empty(0, dtype=torch.float32) if rstd is None else rstd


@fused.register_fake
def _(x, weight, bias, norm_weight, norm_bias, eps, keep, bf16_rows=False):
    z = x.new_empty(x.shape)
    hat = x.new_empty(x.shape if keep and norm_weight is not None else 0)
    return z, hat, x.new_empty(x.shape[:3] if keep else 0, dtype=torch.float32)


@torch.library.custom_op(
    "convnext::depthwise_norm_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor? norm_weight, Tensor hat, Tensor rstd, bool need_x,"
    " bool need_weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def fused_backward(grad, x, weight, norm_weight, hat, rstd, need_x, need_weight):
    """Gradients of x, weight, bias (in x's dtype, fp32, fp32) and of the affine part (fp32); empty where not needed."""
    from convnext.ops._triton import depthwise, norm

    empty = x.new_empty(0, dtype=torch.float32)
    with torch.cuda.device_of(x):
        dy, dg, db = norm.norm_backward(grad.contiguous(), hat, rstd, norm_weight)
        dx = depthwise.input_gradient(dy, weight.contiguous()) if need_x else x.new_empty(0)
        dw, dbias = depthwise.weight_gradient(x, dy) if need_weight else (empty, empty.clone())
    return dx, dw, dbias, empty.clone() if dg is None else dg, empty.clone() if db is None else db


@fused_backward.register_fake
def _(grad, x, weight, norm_weight, hat, rstd, need_x, need_weight):
    def fp32(*shape):
        return x.new_empty(shape, dtype=torch.float32)

    c, kernel, affine = x.shape[3], weight.shape if need_weight else (0,), x.shape[3] if norm_weight is not None else 0
    return (
        x.new_empty(x.shape if need_x else 0),
        fp32(*kernel),
        fp32(c if need_weight else 0),
        fp32(affine),
        fp32(affine),
    )


def setup_context(ctx, inputs, output):
    x, weight, bias, norm_weight, norm_bias, *_ = inputs
    z, hat, rstd = output
    ctx.save_for_backward(x, weight, norm_weight, z if norm_weight is None else hat, rstd)
    ctx.dtypes = [None if t is None else t.dtype for t in (bias, norm_bias)]
    ctx.set_materialize_grads(False)  # no zeros for the two outputs that nobody differentiates


def backward(ctx, grad, *unused):
    if grad is None:
        return (None,) * 8
    x, weight, norm_weight, hat, rstd = ctx.saved_tensors
    need_x, need_weight, need_bias, need_g, need_b, *_ = ctx.needs_input_grad
    dx, dw, dbias, dg, db = fused_backward(grad, x, weight, norm_weight, hat, rstd, need_x, need_weight or need_bias)
    return (
        dx if need_x else None,
        dw.to(weight.dtype) if need_weight else None,
        dbias.to(ctx.dtypes[0]) if need_bias else None,
        dg.to(norm_weight.dtype) if need_g else None,
        db.to(ctx.dtypes[1]) if need_b else None,
        None,
        None,
        None,
    )


fused.register_autograd(backward, setup_context=setup_context)


@register_flop_formula(torch.ops.convnext.depthwise_norm)
def flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Two per multiply-accumulate of the convolution; the normalisation is not counted, as everywhere in the paper."""
    return 2 * 49 * math.prod(x_shape)


@register_flop_formula(torch.ops.convnext.depthwise_norm_backward)
def backward_flops(
    grad_shape, x_shape, weight_shape, g_shape, hat_shape, rstd_shape, need_x, need_weight, **kwargs
) -> int:
    """Once more for each of the two gradients."""
    return 2 * 49 * math.prod(x_shape) * (int(need_x) + int(need_weight))

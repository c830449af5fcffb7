"""The second half of a ConvNeXt block as one operation: both linear layers, GELU, LayerScale, drop-path, residual.

The reference writes and reads the 4C-wide hidden layer several times; the Triton form (`_triton/mlp.py`) never lets it
leave the chip up to 192 channels, and writes and reads it once above. For the gradient it keeps, per pixel,

    y and the pre-activation: 5 C elements, 10 C bytes in bf16       or, with `recompute`, y alone: C elements, 2 C bytes

and nothing of the branch's output; PyTorch's own operations keep y, the pre-activation, the hidden layer, and the outputs
of the second layer and of LayerScale's factors. During the backward pass of one block there are 8 C more for a moment.

Legend: B batch, H W height and width, C channels, M = B H W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from convnext.errors import ConvNextError
from convnext.ops import onednn
from convnext.ops.backend import TRITON, obstacle

NARROWEST = 16  # channels; the tensor cores' products have no fewer


def _obstacle(y: Tensor) -> str:
    few = f"the tensor has {y.shape[-1]} channels; the kernels take {NARROWEST} or more"
    return obstacle(y) or (few if y.shape[-1] < NARROWEST else "")


# in fp32 there are no tensor cores to feed, and cuBLAS does better than the kernels, which then run on demand only
KERNELS = replace(TRITON, pays=lambda y: y.device.type == "cuda" and y.dtype != torch.float32, cannot=_obstacle)


def mlp_residual(
    x: Tensor,
    y: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    gamma: Tensor | None = None,
    scale: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """x + scale * gamma * (GELU(y w1^T + b1) w2^T + b2), (B,H,W,C) contiguous, of x's dtype. GELU is the exact one (erf).

    x (B,H,W,C) the residual, y (B,H,W,C) the normalised branch, w1 (4C,C), b1 (4C,), w2 (C,4C), b2 (C,), gamma (C,) or
    None: LayerScale, scale (B,) or None: what drop-path multiplies each sample by, 0 or 1 / keep; it gets no gradient.
    The products are in autocast's dtype or else y's, whatever the parameters' is, in which their gradients come back.
    `recompute` makes the hidden layer a second time for the gradient rather than keep it; the reference ignores it.
    Gradients are the same bits every time. Raises ConvNextError for shapes that do not fit. Source: Figure 4, Section 3.
    """
    check(x, y, w1, b1, w2, b2, gamma, scale)
    y = y.to(compute_dtype(y))
    if scale is None and x.dtype == y.dtype == w1.dtype and onednn.ONEDNN.takes(y):
        return onednn.mlp_residual(x.contiguous(), y, w1, b1, w2, b2, gamma)
    if not KERNELS.takes(y):
        return reference(x, y, w1, b1, w2, b2, gamma, scale)
    given = (y, w1, b1, w2, b2, gamma)
    keep = not recompute and torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    return fused(x, y, w1, b1, w2, b2, gamma, scale, keep)[0]


def reference(
    x: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gamma: Tensor | None, scale: Tensor | None
) -> Tensor:
    """The same in PyTorch's own operations."""
    h = F.gelu(F.linear(y, w1.to(y.dtype), b1.to(y.dtype)))  # (B,H,W,4C)
    o = F.linear(h, w2.to(h.dtype), b2.to(h.dtype))  # (B,H,W,C)
    if gamma is not None:
        o = o * gamma
    if scale is not None:
        o = o * scale.detach()[:, None, None, None]
    return (x + o).to(x.dtype)


def compute_dtype(y: Tensor) -> torch.dtype:
    """Autocast's dtype where it is on, else y's."""
    kind = y.device.type
    on = kind != "meta" and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else y.dtype


def check(x, y, w1, b1, w2, b2, gamma, scale) -> None:
    """Refuse shapes that do not fit together."""
    if x.ndim != 4 or x.shape != y.shape:
        raise ConvNextError(
            f"x and y have shapes {tuple(x.shape)} and {tuple(y.shape)}; (batch, height, width, channels), twice, was expected."
        )
    b, c = x.shape[0], x.shape[3]
    expected = {"w1": (4 * c, c), "b1": (4 * c,), "w2": (c, 4 * c), "b2": (c,), "gamma": (c,), "scale": (b,)}
    for (name, shape), t in zip(expected.items(), (w1, b1, w2, b2, gamma, scale), strict=True):
        if t is not None and tuple(t.shape) != shape:
            raise ConvNextError(
                f"{name} has shape {tuple(t.shape)}; {shape} was expected for x of shape {tuple(x.shape)}."
            )


# -- for deployment: constants that linear layers can take over


def fold_affine(norm_weight: Tensor, norm_bias: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(w', b') with LayerNorm's weight and bias (C,) in them: w' z + b' = w (norm_weight * z + norm_bias) + b.

    w (N,C) of a linear layer or (N,C,K,K) of a convolution without padding, b (N,).
    """
    taps = w.double().flatten(2).sum(2) if w.ndim > 2 else w.double()
    bias = b.double() + taps @ norm_bias.double()
    return w * norm_weight.view(-1, *(1,) * (w.ndim - 2)), bias.to(b.dtype)


def fold_gamma(gamma: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """(w2', b2') with LayerScale's gamma (C,) in them: w2' h + b2' = gamma * (w2 h + b2)."""
    return gamma[:, None] * w2, gamma * b2


# -- the Triton form as operators that torch.compile, the FLOP counter and fake tensors know


@torch.library.custom_op(
    "convnext::mlp_residual",
    mutates_args=(),
    schema="(Tensor x, Tensor y, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? gamma, Tensor? scale, bool keep)"
    " -> (Tensor, Tensor)",
)
def fused(x, y, w1, b1, w2, b2, gamma, scale, keep):
    """The result and, if `keep`, the pre-activation (M,4C), else an empty tensor."""
    from convnext.ops._triton import mlp

    weights = (w1.to(y.dtype).contiguous(), b1.contiguous(), w2.to(y.dtype).contiguous(), b2.contiguous())
    gamma, scale = (None if t is None else t.contiguous() for t in (gamma, scale))
    with torch.cuda.device_of(x):
        out, z, _ = mlp.forward(x.contiguous(), y.contiguous(), *weights, gamma, scale, keep)
    return out, y.new_empty(0) if z is None else z


@fused.register_fake
def _(x, y, w1, b1, w2, b2, gamma, scale, keep):
    return x.new_empty(x.shape), y.new_empty((y.numel() // len(w2), len(w1)) if keep else 0)


@torch.library.custom_op(
    "convnext::mlp_residual_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor y, Tensor z, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? gamma, Tensor? scale,"
    " bool recompute, bool need_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def fused_backward(grad, y, z, w1, b1, w2, b2, gamma, scale, recompute, need_weights):
    """Gradients of y (its dtype) and w1, b1, w2, b2, gamma (fp32), empty where not needed or not there."""
    from convnext.ops._triton import mlp_backward

    weights = (w1.to(y.dtype).contiguous(), b1.contiguous(), w2.to(y.dtype).contiguous(), b2)
    gamma, scale = (None if t is None else t.contiguous() for t in (gamma, scale))
    grad = grad.to(y.dtype).contiguous()
    with torch.cuda.device_of(y), torch.autocast(y.device.type, enabled=False):
        z = None if recompute else z
        found = mlp_backward.backward(grad, y.contiguous(), z, *weights, gamma, scale, need_weights)
    return tuple(y.new_empty(0, dtype=torch.float32) if t is None else t for t in found)


@fused_backward.register_fake
def _(grad, y, z, w1, b1, w2, b2, gamma, scale, recompute, need_weights):
    def fp32(like, needed=need_weights):
        return y.new_empty(like.shape if needed else 0, dtype=torch.float32)

    last = fp32(b2, need_weights and gamma is not None)
    return y.new_empty(y.shape), fp32(w1), fp32(b1), fp32(w2), fp32(b2), last


def setup_context(ctx, inputs, output):
    _, y, *parameters, scale, keep = inputs
    ctx.keep = keep
    ctx.save_for_backward(y, output[1], *parameters, scale)
    ctx.set_materialize_grads(False)  # no zeros for the pre-activation, which nobody differentiates


def backward(ctx, grad, _):
    if grad is None:
        return (None,) * 9
    y, z, *parameters, scale = ctx.saved_tensors
    need_x, need_y, *need, _, _ = ctx.needs_input_grad
    found: Sequence[Tensor | None] = [None] * 6
    if need_y or any(need):
        found = fused_backward(grad, y, z, *parameters, scale, not ctx.keep, any(need))
    gradients = [
        None if d is None or not n else d.to(p.dtype) for d, p, n in zip(found[1:], parameters, need, strict=True)
    ]
    return grad if need_x else None, found[0] if need_y else None, *gradients, None, None


fused.register_autograd(backward, setup_context=setup_context)


@register_flop_formula(torch.ops.convnext.mlp_residual)
def flops(x_shape, y_shape, w1_shape, *args, out_shape=None, **kwargs) -> int:
    """Two per multiply-accumulate of the two products; biases, GELU and factors are not counted, as in the paper."""
    return 2 * product(y_shape, w1_shape)


@register_flop_formula(torch.ops.convnext.mlp_residual_backward)
def backward_flops(
    grad_shape, y_shape, z_shape, w1_shape, b1, w2, b2, gamma, scale, recompute, need_weights, **kwargs
) -> int:  # fmt: skip
    """Two products for the hidden layer and y, two for the weights, one to make the pre-activation again."""
    return (2 + 2 * need_weights + recompute) * product(y_shape, w1_shape)


def product(y_shape, w1_shape) -> int:
    """FLOPs of y w1^T."""
    return 2 * math.prod(y_shape) * w1_shape[0]

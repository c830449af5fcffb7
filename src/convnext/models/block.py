"""ConvNeXt's block (Figure 4 of the paper), and what every network of such blocks is made with.

Legend: B batch, H W height and width, C channels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.models.drop_path import drop_path, drop_path_scale
from convnext.ops.backend import TRITON
from convnext.ops.depthwise import depthwise_module, unchanged
from convnext.ops.onednn import ONEDNN
from convnext.ops.rule import intact, unwatched
from convnext.ops.whole_block import whole_block


def layer_norm(channels: int) -> nn.Module:
    """LayerNorm over the last axis, as everywhere in ConvNeXt."""
    return nn.LayerNorm(channels, eps=1e-6)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + drop_path(gamma * pwconv2(between(GELU(pwconv1(norm(dwconv7x7(x))))))), on (B, H, W, C).

    Args:
        dim: C.
        drop_path_rate: probability with which a sample skips the block in training.
        layer_scale_init_value: initial gamma; 0 leaves LayerScale out.
        norm: builds the norm from C.
        between: builds what stands between the two linear layers from 4C, such as a global response normalisation, on
            (B, H, W, 4C); None: nothing. Only LayerNorm and nothing have faster forms (`stock`); others run the parts.
    """

    recompute_hidden = False  # make the hidden layer a second time for the gradient, where a fused operation can
    bf16_rows = False  # sum rows of the depthwise kernel in bf16, in inference, where the fused operation can

    def __init__(
        self,
        dim: int,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        norm: Callable[[int], nn.Module] = layer_norm,
        between: Callable[[int], nn.Module] | None = None,
    ):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = norm(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.between = between(4 * dim) if between else None
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), float(layer_scale_init_value))) if layer_scale_init_value else None
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) both ways."""
        if (TRITON.takes(x) or ONEDNN.takes(x)) and self.stock():
            return self.forward_fused(x)
        y = F.gelu(self.pwconv1(self.norm(depthwise_module(self.dwconv, x))))  # C -> 4C
        if self.between is not None:
            y = self.between(y)
        y = self.pwconv2(y)  # 4C -> C
        if self.gamma is not None:
            y = y * self.gamma
        return x + drop_path(y, self.drop_path_rate, self.training)

    def stock(self) -> bool:
        """True if the parts are what the operations of `ops` know: unchanged, and with nothing between the linear layers."""
        if self.between is not None:
            return False
        parts = self._modules  # read without nn.Module.__getattr__, which takes longer than all else here
        conv, norm, first, last = parts["dwconv"], parts["norm"], parts["pwconv1"], parts["pwconv2"]
        assert conv is not None and norm is not None and first is not None and last is not None  # noqa: PT018
        return (
            unchanged(conv)
            and intact(norm, nn.LayerNorm)
            and norm.normalized_shape == (conv.in_channels,)
            and (norm._parameters["weight"] is None) == (norm._parameters["bias"] is None)
            and intact(first, nn.Linear, biased=True)
            and intact(last, nn.Linear, biased=True)
            and first._parameters["bias"].shape == (4 * conv.in_channels,)  # pyright: ignore[reportOptionalMemberAccess]
        )

    def forward_fused(self, x: Tensor) -> Tensor:
        """The block as operations of `ops`."""
        return self.forward_pair(x, None, False)[0]

    def forward_pair(self, x: Tensor, twin: Tensor | None, pair: bool) -> tuple[Tensor, Tensor | None]:
        """The same with twins on both sides, see `ops.whole_block`; between blocks only."""
        norm = self.norm
        assert isinstance(norm, nn.LayerNorm)  # `stock` made sure
        scale = drop_path_scale(x, self.drop_path_rate, self.training)
        conv = self.dwconv.weight, self.dwconv.bias
        linear = self.pwconv1.weight, self.pwconv1.bias, self.pwconv2.weight, self.pwconv2.bias
        affine = norm.weight, norm.bias, norm.eps
        return whole_block(
            x, twin, conv, affine, linear, self.gamma, scale, self.recompute_hidden, pair, self.bf16_rows
        )

    def extra_repr(self) -> str:
        return f"drop_path_rate={self.drop_path_rate:.3f}, layer_scale={self.gamma is not None}"


class Blocks(nn.Sequential):
    """Modules one after the other, on (B, H, W, C). Blocks in training on a GPU hand each other their output twice.

    Once as it is and once in the dtype of the products (`ops.whole_block`); the output alone from or to a block that is watched
    or changed, or a module of another class.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) both ways."""
        modules = list(self._modules.values())
        if not modules or type(modules[0]) is not Block or not TRITON.takes(x):
            return super().forward(x)
        chain = [module if joins(module) else None for module in modules]
        twin = None
        for module, block, after in zip(modules, chain, [*chain[1:], None], strict=True):
            if block is not None and TRITON.takes(x):
                x, twin = block.forward_pair(x, twin, after is not None)
            else:
                x, twin = module(x), None
        return x


def joins(module: nn.Module) -> TypeGuard[Block]:
    """True for a stock `Block` whose call is its `forward` and nothing else."""
    compiled = module.__dict__.get("_compiled_call_impl")  # by its own `compile`
    return type(module) is Block and unwatched(module) and compiled is None and module.stock()


_filled_later = ContextVar("filled_later", default=False)


@contextmanager
def filled_later() -> Iterator[None]:
    """Build networks in here whose every weight comes from a file afterwards: they draw no truncated normal, which takes most
    of the time of building."""
    token = _filled_later.set(True)
    try:
        yield
    finally:
        _filled_later.reset(token)


def init_weights(module: nn.Module) -> None:
    """Truncated normal of std 0.02 (cut at +-2, absolute) for convolutions and linear layers, zero biases."""
    if isinstance(module, nn.Conv2d | nn.Linear) and not _filled_later.get():
        nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def make_head(channels: int, num_classes: int) -> nn.Module:
    """A linear classifier; for 0 classes nothing, so that the network returns its pooled, normalised features."""
    return nn.Linear(channels, num_classes) if num_classes else nn.Identity()


def scale_head(head: nn.Module, scale: float) -> None:
    """Multiply a freshly initialised classifier by `scale` (0.001 when fine-tuning with a new head, Table 6)."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(scale)


def check_image(x: Tensor, in_chans: int, side: int) -> None:
    """Check that x is a batch of images (B, in_chans, H, W), float, with sides of at least `side` pixels.

    A leaf for torch.fx (`torch.fx.wrap` where it is called), and left out of traces, which would keep its sizes.

    Raises:
        ConvNextError: it is not; the message says what to do.
    """
    if torch.jit.is_tracing():
        return
    shape = tuple(x.shape)
    if x.ndim != 4 or shape[1] != in_chans or min(shape[2:]) < side:
        remedy = "Enlarge smaller images, or build the model with a smaller stem_stride if it has one."
        if x.ndim == 4 and shape[3] == in_chans:
            remedy = "This looks like (batch, height, width, channels): give the model x.permute(0, 3, 1, 2)."
        elif x.ndim == 3:
            remedy = "This looks like one image without a batch: give the model x[None]."
        raise ConvNextError(
            f"The model got an input of shape {shape}; it expects (batch, {in_chans}, height, width) with sides of at least "
            f"{side} pixels. {remedy}"
        )
    if not x.is_floating_point():
        raise ConvNextError(
            f"The model got an input of {x.dtype}; it expects normalised floating-point images. Give it (x / 255 - mean) / std, "
            "with the mean and std of its training."
        )

"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022): block, network, initialisation, sizes.

Section 2 and Table 9 of the paper; parameter names are those of the reference implementation, so its checkpoints load
as they are. Activations stay (B, H, W, C) contiguous from the stem to the head: LayerNorm and Linear work on the last
axis, and the depthwise convolution sees a channels-last view of the same memory.

Legend: B batch, H W height and width, C channels.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.models.drop_path import drop_path, drop_path_rates, drop_path_scale
from convnext.ops import backend, onednn, patchify
from convnext.ops.depthwise import depthwise_conv
from convnext.ops.depthwise_norm import depthwise_norm
from convnext.ops.mlp import compute_dtype, mlp_residual


@dataclass(frozen=True)
class Size:
    """Blocks and channels of the four stages."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]


SIZES = {
    # below the paper's sizes: the shapes that the field uses under these names
    "convnext_atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnext_femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnext_pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnext_nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    # Section 3 of the paper
    "convnext_tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": Size((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": Size((3, 3, 27, 3), (256, 512, 1024, 2048)),
}


class Block(nn.Module):
    """x + drop_path(gamma * pwconv2(GELU(pwconv1(LN(dwconv7x7(x)))))), on (B, H, W, C)."""

    recompute_hidden = False  # make the hidden layer a second time for the gradient, where a fused operation can
    parts = nn.Conv2d, nn.LayerNorm, nn.Linear

    def __init__(self, dim: int, drop_path_rate: float = 0.0, layer_scale_init_value: float = 1e-6):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        # an initial value of 0: no LayerScale at all
        self.gamma = nn.Parameter(layer_scale_init_value * torch.ones(dim)) if layer_scale_init_value else None
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        if self.fused(x):
            return self.forward_fused(x)
        y = depthwise_conv(x, self.dwconv.weight, self.dwconv.bias)
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))  # C -> 4C -> C
        if self.gamma is not None:
            y = y * self.gamma
        return x + drop_path(y, self.drop_path_rate, self.training)

    def fused(self, x: Tensor) -> bool:
        """Whether two operations of `ops` stand in for the parts: faster here, and no part has a hook or was replaced."""
        faster = backend.use(x) or (onednn.use(x) and backend.chosen() == "auto")
        return faster and all(type(m) in self.parts and not backend.watched(m) for m in self.children())

    def forward_fused(self, x: Tensor) -> Tensor:
        y = x.to(compute_dtype(x))
        y = depthwise_norm(y, self.dwconv.weight, self.dwconv.bias, self.norm.weight, self.norm.bias, self.norm.eps)
        scale = drop_path_scale(x, self.drop_path_rate, self.training)
        weights = self.pwconv1.weight, self.pwconv1.bias, self.pwconv2.weight, self.pwconv2.bias
        return mlp_residual(x, y, *weights, self.gamma, scale, recompute=self.recompute_hidden)

    def extra_repr(self) -> str:
        return f"drop_path_rate={self.drop_path_rate:.3f}, layer_scale={self.gamma is not None}"


def init_weights(module: nn.Module) -> None:
    """Truncated normal of std 0.02 (cut at +-2, absolute) for convolutions and linear layers, zero biases."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def scale_head(head: nn.Linear, scale: float) -> None:
    """Multiply a freshly initialised classifier by `scale` (0.001 when fine-tuning with a new head, Table 6)."""
    with torch.no_grad():
        head.weight.mul_(scale)
        head.bias.mul_(scale)


class ConvNeXt(nn.Module):
    """The network: stem, four stages with downsampling between them, and a classifier or the norms of a backbone.

    Args:
        depths, dims: blocks and channels of the four stages.
        num_classes: outputs of the classifier; None builds a backbone for dense prediction, which has one LayerNorm
            per stage output (`norm0`..`norm3`) in place of the final norm and head.
        in_chans: channels of the image.
        drop_path_rate: stochastic depth of the last block; linear from 0 at the first.
        layer_scale_init_value: initial gamma; 0 leaves LayerScale out.
        head_init_scale: factor on the classifier's initial weights.
        stem_stride: 4 as in the paper; 2 or 1 keep more resolution for small images. The 4x4 kernel stays, padded so
            that a side of n gives n / stem_stride, so every checkpoint fits every stride.
    """

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 3, 9, 3),
        dims: tuple[int, ...] = (96, 192, 384, 768),
        *,
        num_classes: int | None = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        head_init_scale: float = 1.0,
        stem_stride: int = 4,
    ):
        super().__init__()
        self.stem_padding = stem_padding(stem_stride)
        self.depths, self.dims, self.stem_stride, self.in_chans = tuple(depths), tuple(dims), stem_stride, in_chans
        self.num_classes = num_classes
        stem = nn.Conv2d(in_chans, dims[0], kernel_size=4, stride=stem_stride)
        self.downsample_layers = nn.ModuleList([nn.Sequential(stem, nn.LayerNorm(dims[0], eps=1e-6))])
        for before, after in pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(nn.LayerNorm(before, eps=1e-6), nn.Conv2d(before, after, kernel_size=2, stride=2))
            )
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, next(rates), layer_scale_init_value) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        if num_classes is None:
            for i, dim in enumerate(dims):
                self.add_module(f"norm{i}", nn.LayerNorm(dim, eps=1e-6))
        else:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.head = nn.Linear(dims[-1], num_classes)
        self.apply(init_weights)
        if num_classes is not None:
            scale_head(self.head, head_init_scale)

    # -- what a neck, a head or an optimizer needs to know, so that nobody parses names from outside

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        return {f"stage{i}": dim for i, dim in enumerate(self.dims)}

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per feature-map pixel."""
        return {f"stage{i}": self.stem_stride * 2**i for i in range(len(self.dims))}

    def layer_decay_ids(self, rule: str = "layer") -> tuple[dict[str, int], int]:
        """The depth id of every parameter, and the largest id: its learning rate is scaled by decay^(largest - id).

        `layer` (classification and COCO): every 3 consecutive blocks of stage 2 form a group, other stages are one
        group each. `stage` (ADE20K): all downsampling layers id 0, stage i id i + 1. Final norms and the head have
        the largest id; n is 6 for depths with a 9-block stage 2 (Tiny) and 12 for 27 (Section A.2 of the paper).
        """
        last = 3 + -(-self.depths[2] // 3)  # n: stem, 2 stages, the groups of stage 2, stage 3

        def depth_id(name: str) -> int:
            kind, *rest = name.split(".")
            if kind not in ("downsample_layers", "stages"):
                return last + 1
            stage = int(rest[0])
            if rule == "stage":
                return 0 if kind == "downsample_layers" else stage + 1
            if stage == 2:
                return 3 + (int(rest[1]) // 3 if kind == "stages" else 0)
            return last if stage == 3 else 2 * stage + (kind == "stages" and stage == 0)

        if rule not in ("layer", "stage"):
            raise ConvNextError(f"layer-decay rule {rule!r} is unknown; use 'layer' or 'stage'.")
        return {name: depth_id(name) for name, _ in self.named_parameters()}, last + 1

    def deploy(self, precision: str = "auto"):
        """An inference copy, the fastest there is on this device: see `models.deploy.deploy`."""
        from convnext.models.deploy import deploy  # which imports this module

        return deploy(self, precision)

    def stage_outputs(self, x: Tensor):
        """Yield the output of every stage, (B, H/stride, W/stride, C), from an image (B, in_chans, H, W)."""
        check_image(x, self.in_chans, 8 * self.stem_stride)
        x = (F.pad(x, self.stem_padding) if any(self.stem_padding) else x).permute(0, 2, 3, 1)
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            if i == 0:
                x = downsample[1](channels_last(downsample[0], x))
            else:
                x = channels_last(downsample[1], downsample[0](x))
            x = stage(x)
            yield x

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, in_chans, H, W) -> {"stage0": (B, C0, H/4, W/4), .., "stage3": (B, C3, H/32, W/32)} at stem stride 4.

        Each map is normalised over channels: by `norm{i}` in a backbone, without affine parameters in a classifier,
        which is what a fresh backbone does.
        """
        maps = {}
        for i, y in enumerate(self.stage_outputs(x)):
            norm = getattr(self, f"norm{i}", None)
            y = norm(y) if norm is not None else F.layer_norm(y, y.shape[-1:], eps=1e-6)
            maps[f"stage{i}"] = y.permute(0, 3, 1, 2)
        return maps

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """x (B, in_chans, H, W) float -> logits (B, num_classes); a backbone returns its feature maps."""
        if self.num_classes is None:
            return self.feature_maps(x)
        for y in self.stage_outputs(x):  # noqa: B007  the last stage is what the head reads
            pass
        return self.head(self.norm(y.mean((1, 2))))  # (B, H, W, C) -> (B, C) -> (B, num_classes)


def stem_padding(stride: int) -> tuple[int, int, int, int]:
    """Zeros around the image (for F.pad) with which a 4x4 stem of this stride takes a side of n to n / stride."""
    if stride not in (1, 2, 4):
        raise ConvNextError(f"stem_stride is {stride!r}; it must be 1, 2 or 4 (4 is the paper's).")
    before, after = (4 - stride) // 2, (5 - stride) // 2
    return before, after, before, after


def check_image(x: Tensor, in_chans: int, side: int) -> None:
    """Refuse what is not a batch of images of `in_chans` channels with sides of at least `side` pixels."""
    if x.ndim != 4 or x.shape[1] != in_chans or min(x.shape[2:]) < side:
        raise ConvNextError(
            f"The model got an input of shape {tuple(x.shape)}; it expects (batch, {in_chans}, height, width) with sides of "
            f"at least {side} pixels. Enlarge smaller images, or build the model with a smaller stem_stride if it has one."
        )


def channels_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to (B, H, W, C) through its channels-last view; returns (B, H', W', C') contiguous."""
    if patchify.use(conv, x):
        return patchify.patchify(x, conv.weight, conv.bias)
    return conv(x.contiguous().permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


def build(name: str, **options) -> ConvNeXt:
    """A ConvNeXt of the named size; options are those of `ConvNeXt`."""
    size = SIZES[name]
    return ConvNeXt(size.depths, size.dims, **options)

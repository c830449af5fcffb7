"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", CVPR 2022): network and sizes; the block is in `block.py`.

Section 2 and Table 9 of the paper; parameter names are those of the reference implementation, so its checkpoints load
as they are. Activations stay (B, H, W, C) contiguous from the stem to the head: LayerNorm and Linear work on the last
axis, and the depthwise convolution sees a channels-last view of the same memory.

Legend: B batch, H W height and width, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.models.block import Block, Blocks, check_image, init_weights, make_head, scale_head
from convnext.models.deploy import Deployable
from convnext.models.drop_path import drop_path_rates
from convnext.models.outputs import CLASSIFIER
from convnext.ops.patchify import patches_module

torch.fx.wrap("check_image")  # which branches on sizes


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


class Stem(nn.Sequential):
    """Convolution and LayerNorm, on (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_chans), in any memory order -> (B, H', W', C)."""
        conv, norm = self
        return norm(patches_module(conv, x))


class Downsample(nn.Sequential):
    """LayerNorm and a 2x2 convolution of stride 2, on (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H // 2, W // 2, D)."""
        norm, conv = self
        return patches_module(conv, norm(x))


class ConvNeXt(Deployable):
    """The network: stem, four stages with downsampling between them, and a classifier or the norms of a backbone.

    Args:
        depths, dims: blocks and channels of the four stages.
        block: builds a block from its channels, drop-path rate and initial gamma: `Block` with other parts makes a
            variant of the network.
        num_classes: outputs of the classifier; 0 leaves it out, so that the network returns pooled, normalised features
            (B, C); None builds a backbone for dense prediction, which has one LayerNorm per stage output
            (`norm0`..`norm3`) in place of the final norm and head.
        in_chans: channels of the image.
        drop_path_rate: stochastic depth of the last block; linear from 0 at the first.
        layer_scale_init_value: initial gamma; 0 leaves LayerScale out.
        head_init_scale: factor on the classifier's initial weights.
        stem_stride: 4 as in the paper; 2 or 1 keep more resolution for small images. The 4x4 kernel stays, padded so
            that a side of n gives n / stem_stride, so every checkpoint fits every stride.
    """

    output_layers = CLASSIFIER
    channels_axis = 3  # of what the modules of `stage_parts` give

    def __init__(
        self,
        depths: tuple[int, ...] = (3, 3, 9, 3),
        dims: tuple[int, ...] = (96, 192, 384, 768),
        block: Callable[[int, float, float], nn.Module] = Block,
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
        self.downsample_layers = nn.ModuleList([Stem(stem, nn.LayerNorm(dims[0], eps=1e-6))])
        for before, after in pairwise(dims):
            self.downsample_layers.append(
                Downsample(nn.LayerNorm(before, eps=1e-6), nn.Conv2d(before, after, kernel_size=2, stride=2))
            )
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList(
            Blocks(*(block(dim, next(rates), layer_scale_init_value) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        if num_classes is None:
            for i, dim in enumerate(dims):
                self.add_module(f"norm{i}", nn.LayerNorm(dim, eps=1e-6))
        else:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.head = make_head(dims[-1], num_classes)
        self.apply(init_weights)
        if num_classes is not None:
            scale_head(self.head, head_init_scale)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        return {f"stage{i}": dim for i, dim in enumerate(self.dims)}

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per feature-map pixel."""
        return {f"stage{i}": self.stem_stride * 2**i for i in range(len(self.dims))}

    @property
    def stage_parts(self) -> list[list[nn.Module]]:
        """The modules of each stage with what stands before it: the stem, or the downsampling."""
        return [list(parts) for parts in zip(self.downsample_layers, self.stages, strict=True)]

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

    def folds(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """The norms before the downsampling convolutions and before the classifier."""
        norm_then_conv = ((layer, *layer.children()) for layer in self.downsample_layers[1:])
        pairs: list[tuple[nn.Module, str, nn.Module]] = [(layer, "0", conv) for layer, _, conv in norm_then_conv]
        return pairs if self.num_classes is None else [*pairs, (self, "norm", self.head)]

    def stage_outputs(self, x: Tensor):
        """Yield the output of every stage, (B, H/stride, W/stride, C), from an image (B, in_chans, H, W)."""
        check_image(x, self.in_chans, 8 * self.stem_stride)
        x = (F.pad(x, self.stem_padding) if any(self.stem_padding) else x).permute(0, 2, 3, 1)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
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
        """x (B, in_chans, H, W) float -> logits (B, num_classes); features (B, C) for 0 classes; a backbone its maps."""
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


def build(name: str, **options) -> ConvNeXt:
    """A ConvNeXt of the named size; options are those of `ConvNeXt`."""
    size = SIZES[name]
    return ConvNeXt(size.depths, size.dims, **options)

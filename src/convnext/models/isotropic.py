"""Isotropic ConvNeXt: blocks of one width at one resolution, as in a ViT.

Section 3.3 and Table 2 of the paper ("ConvNeXt (iso.)"); parameter names are those of the reference implementation.
No downsampling after the stem, and the features stay at 1/16 of the image's side.

Legend: B batch, H W height and width of the image, h w of the features (H // 16, W // 16), C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

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

PATCH = 16


@dataclass(frozen=True)
class Size:
    """Number of blocks, their width, and the LayerScale with which the paper trained this size."""

    depth: int
    dim: int
    layer_scale_init_value: float = 0.0


SIZES = {
    "convnext_isotropic_small": Size(18, 384),
    "convnext_isotropic_base": Size(18, 768),
    "convnext_isotropic_large": Size(36, 1024, layer_scale_init_value=1e-6),
}


class IsotropicConvNeXt(Deployable):
    """A 16x16 patch stem without norm, `depth` equal blocks, and a classifier.

    Args:
        depth, dim: number of blocks and their channels.
        block: builds a block, as in `ConvNeXt`.
        num_classes: outputs of the classifier; 0 leaves it out, so that the network returns pooled, normalised features.
        in_chans: channels of the image.
        drop_path_rate: stochastic depth of the last block; linear from 0 at the first.
        layer_scale_init_value: initial gamma; 0 leaves LayerScale out.
        head_init_scale: factor on the classifier's initial weights.
    """

    output_layers = CLASSIFIER
    channels_axis = 3  # of what the modules of `stage_parts` give

    def __init__(
        self,
        depth: int,
        dim: int,
        block: Callable[[int, float, float], nn.Module] = Block,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
        head_init_scale: float = 1.0,
    ):
        super().__init__()
        self.depth, self.dim, self.num_classes, self.in_chans = depth, dim, num_classes, in_chans
        self.stem = nn.Conv2d(in_chans, dim, kernel_size=PATCH, stride=PATCH)
        self.blocks = Blocks(
            *(block(dim, rate, layer_scale_init_value) for rate in drop_path_rates(drop_path_rate, depth))
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = make_head(dim, num_classes)
        self.apply(init_weights)
        scale_head(self.head, head_init_scale)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of the one feature map."""
        return {"stage0": self.dim}

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per feature-map pixel."""
        return {"stage0": PATCH}

    @property
    def stage_parts(self) -> list[list[nn.Module]]:
        """The only stage."""
        return [[self.stem, self.blocks]]

    def layer_decay_ids(self, rule: str = "layer") -> tuple[dict[str, int], int]:
        """The depth id of every parameter, and the largest id: its learning rate is scaled by decay^(largest - id).

        0 for the stem, 1 + j // 3 for block j (groups of 3 consecutive blocks, Section A.2), then the final norm and
        the head. The `stage` rule of ADE20K has no meaning for a network without stages.
        """
        if rule != "layer":
            raise ConvNextError(f"An isotropic ConvNeXt has only the layer-decay rule 'layer', not {rule!r}.")
        last = 1 + -(-self.depth // 3)

        def depth_id(name: str) -> int:
            kind, index, *_ = name.split(".")
            if kind == "blocks":
                return 1 + int(index) // 3
            return 0 if kind == "stem" else last

        return {name: depth_id(name) for name, _ in self.named_parameters()}, last

    def folds(self) -> list[tuple[nn.Module, str, nn.Module]]:
        """The norm before the classifier."""
        return [(self, "norm", self.head)]

    def features(self, x: Tensor) -> Tensor:
        """The output of the last block, (B, h, w, C), from an image (B, in_chans, H, W)."""
        check_image(x, self.in_chans, PATCH)
        return self.blocks(patches_module(self.stem, x.permute(0, 2, 3, 1)))

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, in_chans, H, W) -> {"stage0": (B, C, h, w)}, normalised over channels without affine parameters."""
        y = self.features(x)
        return {"stage0": F.layer_norm(y, y.shape[-1:], eps=1e-6).permute(0, 3, 1, 2)}

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_chans, H, W) float -> logits (B, num_classes), or features (B, C) for 0 classes."""
        return self.head(self.norm(self.features(x).mean((1, 2))))  # (B, h, w, C) -> (B, C) -> (B, num_classes)


def build(name: str, **options) -> IsotropicConvNeXt:
    """An isotropic ConvNeXt of the named size; options are those of `IsotropicConvNeXt`."""
    size = SIZES[name]
    options.setdefault("layer_scale_init_value", size.layer_scale_init_value)
    return IsotropicConvNeXt(size.depth, size.dim, **options)

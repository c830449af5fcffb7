"""The roadmap from ResNet to ConvNeXt: every step as a model (Section 2, Figure 2, Tables 10 and 11 of the paper).

`roadmap` is the whole story: each step is the step before with one change, read top to bottom. The two regimes differ
only in depths and widths. One block class reads a `Spec` and is every block from ResNet's bottleneck to the inverted
one with a single LayerNorm; the last step is `ConvNeXt` itself.

The tables fix the multiply-accumulates of each step; these models have exactly those. What no published number fixes
is chosen here, each in one place: `Spec.stem_norm`, `Spec.pool_norm` and `Spec.shortcut_norm`; convolutions without
bias where BatchNorm follows (`conv`); LayerScale of 1e-6 on the main branch, before the sum, in every step (`Block`).
Every step starts from Table 5's initialisation, as ConvNeXt does.

Legend: B batch, H W height and width, C channels. Tensors are (B, C, H, W), in the memory format of the caller.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from convnext.models.block import ChannelNorm, check_image, init_weights, make_head, scale_head
from convnext.models.convnext import ConvNeXt, stem_padding
from convnext.models.drop_path import drop_path, drop_path_rates
from convnext.models.outputs import CLASSIFIER

torch.fx.wrap("check_image")  # which branches on sizes


@dataclass(frozen=True)
class Spec:
    """An architecture on the way. A block has three convolutions; the triples say what follows each of them."""

    depths: tuple[int, ...]
    """Blocks of the four stages."""
    width: int
    """Channels after the stem; stage i has width x 2^i, and a block that is not inverted puts out 4 times as many."""
    patchify: bool = False
    """Stem: 4x4 convolution in place of 7x7 convolution, norm, activation and max pooling."""
    depthwise: bool = False
    """The spatial convolution has one group per channel."""
    inverted: bool = False
    """The block is wide inside (C -> 4C -> C), not narrow (4C -> C -> 4C)."""
    spatial_first: bool = False
    """The spatial convolution is the first of the three, not the second."""
    kernel: int = 3
    """Side of the spatial convolution."""
    activation: type[nn.Module] = nn.ReLU
    activations: tuple[bool, bool, bool] = (True, True, True)
    """An activation after the first and the second convolution, and after the sum."""
    norm: type[nn.Module] = nn.BatchNorm2d
    norms: tuple[bool, bool, bool] = (True, True, True)
    """A norm after each convolution."""
    separate_downsampling: bool = False
    """Downsample between the stages, not in their first blocks: this is ConvNeXt."""
    stem_norm: bool = False
    """A norm after the patchify stem."""
    pool_norm: bool = False
    """A norm after the global average pooling."""
    shortcut_norm: bool = True
    """A norm after the projection on the shortcut."""


def roadmap(depths: tuple[tuple[int, ...], tuple[int, ...]], widths: tuple[int, int, int]) -> dict[str, Spec]:
    """All steps of a regime, each made from the one it builds on.

    Args:
        depths: before `stage-ratio`, and from it on.
        widths: before `stage-ratio`, from it on, and from `width` on.
    """
    step = {}

    # 2.1 Training techniques: the ResNet (v1.5), with ConvNeXt's recipe
    step["resnet"] = Spec(depths[0], widths[0])

    # 2.2 Macro design
    step["stage-ratio"] = replace(step["resnet"], depths=depths[1], width=widths[1])
    step["patchify-stem"] = replace(step["stage-ratio"], patchify=True)

    # 2.3 ResNeXt-ify
    step["depthwise"] = replace(step["patchify-stem"], depthwise=True)
    step["width"] = replace(step["depthwise"], width=widths[2])

    # 2.4 Inverted bottleneck
    step["inverting"] = replace(step["width"], inverted=True)

    # 2.5 Large kernel sizes; 9 and 11 gained nothing, so what follows builds on 7
    step["move-up"] = replace(step["inverting"], spatial_first=True)
    step["kernel-5"] = replace(step["move-up"], kernel=5)
    step["kernel-7"] = replace(step["move-up"], kernel=7)
    step["kernel-9"] = replace(step["move-up"], kernel=9)
    step["kernel-11"] = replace(step["move-up"], kernel=11)

    # 2.6 Micro design
    step["gelu"] = replace(step["kernel-7"], activation=nn.GELU)
    step["fewer-activations"] = replace(step["gelu"], activations=(False, True, False))
    step["fewer-norms"] = replace(step["fewer-activations"], norms=(True, False, False), shortcut_norm=False)
    step["layer-norm"] = replace(step["fewer-norms"], norm=ChannelNorm)
    step["separate-downsampling"] = replace(
        step["layer-norm"], separate_downsampling=True, stem_norm=True, pool_norm=True
    )
    return step


REGIMES = {
    "resnet50": roadmap(depths=((3, 4, 6, 3), (3, 3, 9, 3)), widths=(64, 64, 96)),
    "resnet200": roadmap(depths=((3, 24, 36, 3), (3, 3, 27, 3)), widths=(64, 84, 128)),
}
SIZES = {f"roadmap_{regime}_{key}": spec for regime, steps in REGIMES.items() for key, spec in steps.items()}


def conv(before: int, after: int, kernel: int = 1, norm: type[nn.Module] | None = None, **geometry) -> list[nn.Module]:
    """A convolution and the norm that follows it, if any; BatchNorm makes a bias superfluous."""
    layer = nn.Conv2d(before, after, kernel, bias=norm is not nn.BatchNorm2d, **geometry)
    return [layer, norm(after)] if norm else [layer]


class Block(nn.Module):
    """activation(shortcut(x) + drop_path(gamma * branch(x))), on (B, C, H, W), as the spec says it.

    `before` to `after` channels and `stride` are changed by the spatial convolution and a 1x1 shortcut projection.
    """

    def __init__(
        self, spec: Spec, before: int, after: int, stride: int, drop_path_rate: float, layer_scale_init_value: float
    ):
        super().__init__()
        hidden = 4 * after if spec.inverted else after // 4
        channels = (before, before if spec.spatial_first else hidden, hidden, after)
        spatial = 0 if spec.spatial_first else 1
        self.branch = nn.Sequential()
        for i in range(3):
            norm = spec.norm if spec.norms[i] else None
            if i == spatial:
                groups = channels[i] if spec.depthwise else 1
                geometry = {"stride": stride, "padding": spec.kernel // 2, "groups": groups}
                self.branch.extend(conv(channels[i], channels[i + 1], spec.kernel, norm, **geometry))
            else:
                self.branch.extend(conv(channels[i], channels[i + 1], norm=norm))
            if i < 2 and spec.activations[i]:
                self.branch.append(spec.activation())
        self.shortcut = nn.Sequential()
        if stride > 1 or before != after:
            norm = spec.norm if spec.shortcut_norm else None
            self.shortcut.extend(conv(before, after, norm=norm, stride=stride))
        self.gamma = (
            nn.Parameter(torch.full((after,), float(layer_scale_init_value))) if layer_scale_init_value else None
        )
        self.activation = spec.activation() if spec.activations[2] else nn.Identity()
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.gamma is not None:
            y = y * self.gamma[:, None, None]
        return self.activation(self.shortcut(x) + drop_path(y, self.drop_path_rate, self.training))

    def extra_repr(self) -> str:
        return f"drop_path_rate={self.drop_path_rate:.3f}, layer_scale={self.gamma is not None}"


def make_stem(spec: Spec, in_chans: int, stride: int) -> nn.Sequential:
    """(B, in_chans, H, W) -> (B, width, H / stride, W / stride). A smaller stride keeps the kernels."""
    if spec.patchify:
        norm = spec.norm if spec.stem_norm else None
        return nn.Sequential(nn.ZeroPad2d(stem_padding(stride)), *conv(in_chans, spec.width, 4, norm, stride=stride))
    layers = [*conv(in_chans, spec.width, 7, spec.norm, stride=min(stride, 2), padding=3), spec.activation()]
    if stride == 4:
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    return nn.Sequential(*layers)


class RoadmapNet(nn.Module):
    """Any step but the last: stem, four stages whose first blocks downsample, global average, classifier.

    Args:
        spec: the architecture.
        num_classes: outputs of the classifier; 0 leaves it out, so that the network returns pooled features.
        in_chans, drop_path_rate, layer_scale_init_value, head_init_scale: as in `ConvNeXt`.
        stem_stride: 4 as in the paper; 2 or 1 keep more resolution for small images, in every step alike.
    """

    output_layers = CLASSIFIER

    def __init__(
        self,
        spec: Spec,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        head_init_scale: float = 1.0,
        stem_stride: int = 4,
    ):
        super().__init__()
        stem_padding(stem_stride)  # refuses a stride that is none, for every stem
        self.spec, self.num_classes, self.in_chans, self.stem_stride = spec, num_classes, in_chans, stem_stride
        self.stem = make_stem(spec, in_chans, stem_stride)
        rates = iter(drop_path_rates(drop_path_rate, sum(spec.depths)))
        self.stages = nn.ModuleList()
        before = spec.width
        for i, depth in enumerate(spec.depths):
            stage = nn.Sequential()
            after = spec.width * 2**i * (1 if spec.inverted else 4)
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(Block(spec, before, after, stride, next(rates), layer_scale_init_value))
                before = after
            self.stages.append(stage)
        self.norm = spec.norm(before) if spec.pool_norm else nn.Identity()
        self.head = make_head(before, num_classes)
        self.apply(init_weights)
        scale_head(self.head, head_init_scale)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map."""
        return {f"stage{i}": self.spec.width * 2**i * (1 if self.spec.inverted else 4) for i in range(4)}

    @property
    def strides(self) -> dict[str, int]:
        """Input pixels per feature-map pixel."""
        return {f"stage{i}": self.stem_stride * 2**i for i in range(4)}

    @property
    def stage_parts(self) -> list[list[nn.Module]]:
        """The modules of each stage; the stem belongs to the first."""
        return [[stage] if i else [self.stem, stage] for i, stage in enumerate(self.stages)]

    def stage_outputs(self, x: Tensor):
        """Yield the output of every stage, (B, C, H/stride, W/stride), from an image (B, in_chans, H, W)."""
        check_image(x, self.in_chans, 8 * self.stem_stride)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            yield x

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """x (B, in_chans, H, W) -> {"stage0": (B, C0, H/4, W/4), ..}, the outputs of the stages, not normalised."""
        return dict(zip(self.channels, self.stage_outputs(x), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_chans, H, W) float -> logits (B, num_classes), or features (B, C) for 0 classes."""
        for y in self.stage_outputs(x):  # noqa: B007  the last stage is what the head reads
            pass
        return self.head(self.norm(y.mean((2, 3), keepdim=True)).flatten(1))  # (B, C, 1, 1) -> (B, C) -> logits


def build(name: str, *, width_mult: float = 1.0, depth_mult: float = 1.0, **options) -> RoadmapNet | ConvNeXt:
    """A step of the roadmap; options: those of `RoadmapNet`, and
    width_mult, depth_mult: factors of all widths and depths for small experiments; rounded, at least 1.
    """
    spec = SIZES[name]
    spec = replace(
        spec,
        width=max(1, round(spec.width * width_mult)),
        depths=tuple(max(1, round(depth * depth_mult)) for depth in spec.depths),
    )
    if spec.separate_downsampling:
        return ConvNeXt(spec.depths, tuple(spec.width * 2**i for i in range(4)), **options)
    return RoadmapNet(spec, **options)

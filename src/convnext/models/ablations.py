"""Ablations that the paper's text reports without a row in its tables (Section 2.6), in the ResNet-50 regime.

- `ablation_first-norm`: one more BatchNorm at the start of the block of `fewer-norms`, which "does not improve the
  performance".
- `ablation_resnet-layer-norm`: LayerNorm in place of BatchNorm in the plain ResNet, "suboptimal performance".
- `ablation_bare-downsampling`: separate 2x2 downsampling in `layer-norm`, without the norms around it, "diverged training".

Each is a step of the roadmap with one change, and is built and trained like one. The fourth, EMA of a model with BatchNorm, is a
recipe alone.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from convnext.models.block import ChannelNorm, init_weights
from convnext.models.drop_path import drop_path_rates
from convnext.models.roadmap import REGIMES, Block, RoadmapNet, Spec

_STEPS = REGIMES["resnet50"]
SIZES: dict[str, Spec] = {
    "ablation_first-norm": _STEPS["fewer-norms"],
    "ablation_resnet-layer-norm": replace(_STEPS["resnet"], norm=ChannelNorm),
    "ablation_bare-downsampling": _STEPS["layer-norm"],
}


def add_first_norm(model: RoadmapNet) -> None:
    """Put a norm before everything else of each block's branch; the shortcut stays."""
    stages: Any = model.stages
    for stage in stages:
        for block in stage:
            block.branch.insert(0, model.spec.norm(block.branch[0].in_channels))


def separate_downsampling(model: RoadmapNet, drop_path_rate: float, layer_scale_init_value: float) -> None:
    """Downsample by a 2x2 convolution before stages 1 to 3, whose blocks then keep their size; no norm around it."""
    spec, rates = model.spec, iter(drop_path_rates(drop_path_rate, sum(model.spec.depths)))
    before = spec.width
    for i, depth in enumerate(spec.depths):
        after = spec.width * 2**i
        stage = nn.Sequential()
        if i > 0:
            stage.append(nn.Conv2d(before, after, 2, stride=2))
        stage.extend(Block(spec, after, after, 1, next(rates), layer_scale_init_value) for _ in range(depth))
        model.stages[i] = stage.apply(init_weights)
        before = after


def build(name: str, *, width_mult: float = 1.0, depth_mult: float = 1.0, **options) -> RoadmapNet:
    """An ablation; options as for `roadmap.build`."""
    spec = SIZES[name]
    spec = replace(
        spec,
        width=max(1, round(spec.width * width_mult)),
        depths=tuple(max(1, round(depth * depth_mult)) for depth in spec.depths),
    )
    model = RoadmapNet(spec, **options)
    with torch.no_grad():
        if name == "ablation_first-norm":
            add_first_norm(model)
        elif name == "ablation_bare-downsampling":
            scale = options.get("layer_scale_init_value", 1e-6)
            separate_downsampling(model, options.get("drop_path_rate", 0.0), scale)
    return model

"""Table 9: the layers of ResNet-50, ConvNeXt-T and Swin-T, stage by stage.

A block is written as its layers between brackets: `k×k, C` a convolution with C outputs, `d` before it where it is
depthwise; `1×1, C×3` the projections of attention; `MSA, w7×7, H=3` attention in windows with H heads.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A row: its name, the side of its output for images of 224 px, and the layers of the three networks."""

    name: str
    output: int
    resnet: str
    convnext: str
    swin: str


def _swin(width: int, heads: int, blocks: int) -> str:
    attention = f"1×1, {width}×3; MSA, w7×7, H={heads}, rel. pos.; 1×1, {width}"
    return f"[{attention}; 1×1, {4 * width}; 1×1, {width}] × {blocks}"


def _resnet(width: int, blocks: int) -> str:
    return f"[1×1, {width}; 3×3, {width}; 1×1, {4 * width}] × {blocks}"


def _convnext(width: int, blocks: int) -> str:
    return f"[d7×7, {width}; 1×1, {4 * width}; 1×1, {width}] × {blocks}"


STAGES = (
    Stage("stem", 56, "7×7, 64, stride 2; 3×3 max pool, stride 2", "4×4, 96, stride 4", "4×4, 96, stride 4"),
    Stage("res2", 56, _resnet(64, 3), _convnext(96, 3), _swin(96, 3, 2)),
    Stage("res3", 28, _resnet(128, 4), _convnext(192, 3), _swin(192, 6, 2)),
    Stage("res4", 14, _resnet(256, 6), _convnext(384, 9), _swin(384, 12, 6)),
    Stage("res5", 7, _resnet(512, 3), _convnext(768, 3), _swin(768, 24, 2)),
)

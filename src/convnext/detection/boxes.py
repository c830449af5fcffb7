"""Box coding: a box as its offset from another, in units of that other's size (mmdet's DeltaXYWHBBoxCoder).

Boxes are x1 y1 x2 y2 in pixels without the "+ 1" of old; deltas are dx dy dw dh, divided by `stds`. All of it is done in
fp32, whatever the model runs in.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
SMALLEST = 1e-3  # pixels: what a side counts at least, so that an empty box has finite deltas
UNIT = (1.0, 1.0, 1.0, 1.0)


def encode(sources: Tensor, targets: Tensor, stds: Sequence[float] = UNIT) -> Tensor:
    """The deltas (n, 4) that take `sources` (n, 4) to `targets` (n, 4)."""
    (centre, size), (target_centre, target_size) = (_centre_size(boxes.float()) for boxes in (sources, targets))
    size, target_size = size.clamp(min=SMALLEST), target_size.clamp(min=SMALLEST)
    deltas = torch.cat([(target_centre - centre) / size, (target_size / size).log()], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode(
    sources: Tensor, deltas: Tensor, stds: Sequence[float] = UNIT, clip_to: tuple[int, int] | None = None
) -> Tensor:
    """The inverse of `encode`: (..., 4); sides grow or shrink at most by the factor 1000 / 16, centres are not limited.

    Args:
        clip_to: (height, width) of the image to which the boxes are cut.
    """
    deltas = deltas.float() * deltas.new_tensor(stds, dtype=torch.float32)
    centre, size = _centre_size(sources.float())
    centre = centre + size * deltas[..., :2]
    half = 0.5 * size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    return boxes if clip_to is None else clip(boxes, clip_to)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) cut to an image of `size` (height, width); nan, from weights that diverged, becomes 0."""
    height, width = size
    x1, y1, x2, y2 = boxes.nan_to_num(0.0).clamp(min=0).unbind(-1)
    return torch.stack([x1.clamp(max=width), y1.clamp(max=height), x2.clamp(max=width), y2.clamp(max=height)], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return 0.5 * (boxes[..., :2] + boxes[..., 2:]), boxes[..., 2:] - boxes[..., :2]

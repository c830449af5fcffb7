"""Anchors: the boxes that the region proposal network corrects, of three shapes at every position of every level.

As in mmdet's AnchorGenerator: scale 8, ratios (height over width) 0.5, 1, 2, centred on the corner of the grid cell and
not rounded; at one position, neighbours in memory.

Legend: A anchors at a position, h w height and width of a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SCALE = 8.0
RATIOS = (0.5, 1.0, 2.0)


def base_anchors(stride: int, device: torch.device | None = None) -> Tensor:
    """(A, 4) x1 y1 x2 y2 around the origin, each of area (8 stride)^2."""
    root = torch.tensor(RATIOS, device=device).sqrt()
    half = torch.stack([SCALE * stride / root, SCALE * stride * root], dim=1) / 2  # (A, 2): half width, half height
    return torch.cat([-half, half], dim=1)


def level_anchors(size: Sequence[int], stride: int, device: torch.device | None = None) -> Tensor:
    """(h w A, 4) pixels of the image, for a level of `size` (h, w); row after row, the A of a position together."""
    y, x = (stride * torch.arange(side, dtype=torch.float32, device=device) for side in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)  # (h w, 1, 4)
    return (corners + base_anchors(stride, device)).reshape(-1, 4)


def inside(size: Sequence[int], stride: int, image_size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(h w A,) bool: anchors of a level at positions that the `image_size` (height, width) reaches, not padding alone."""
    y, x = (torch.arange(side, device=device) * stride < valid for side, valid in zip(size, image_size, strict=True))
    return (y[:, None] & x).reshape(-1, 1).expand(-1, len(RATIOS)).reshape(-1)

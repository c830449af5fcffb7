"""Detectors with random weights that find as much as trained ones, and targets to train them on: for timing alone."""

from typing import Any

import torch
from torch import Tensor, nn

OBJECTS = 7
"""Objects of an image, COCO's mean rounded."""
SURE = 1000.0
"""Factor on the classifiers' weights, which are drawn with a deviation of 0.01."""


@torch.no_grad()
def prime(detector: Any) -> nn.Module:
    """Make every proposal sure of some class, in place: random weights find nothing, which leaves out the work on objects.

    A trained detector on a crowded image has its 1,000 proposals refined, suppressed within their classes, and the masks of the
    best 100 computed and pasted; so has this one.
    """
    for head in detector.roi_head.box_heads:
        head.fc_cls.weight.mul_(SURE)
    return detector


def example_targets(x: Tensor) -> list[dict[str, Tensor]]:
    """`OBJECTS` boxes with elliptic masks in each of the images x (B, 3, H, W), of a tenth to a third of their sides."""
    height, width = x.shape[2:]
    generator = torch.Generator().manual_seed(0)
    y, column = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
    targets = []
    for _ in range(len(x)):
        share = torch.rand(OBJECTS, 4, generator=generator)
        side = 0.1 + 0.23 * share[:, 2:]
        corner = share[:, :2] * (1 - side)
        boxes = (torch.cat([corner, corner + side], dim=1) * torch.tensor([width, height] * 2)).to(x.device)
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        across = (column - middle[:, 0, None, None]) / half[:, 0, None, None]
        down = (y - middle[:, 1, None, None]) / half[:, 1, None, None]
        labels = torch.randint(80, (OBJECTS,), generator=generator).to(x.device)
        targets.append({"boxes": boxes, "labels": labels, "masks": across**2 + down**2 <= 1})
    return targets

"""The box head: RoIAlign of each proposal on the level that fits its size, then its class and a better box.

Legend: B batch, C channels, n proposals of all images together, s side of a pooled proposal, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.detection import losses
from convnext.detection.boxes import decode, encode
from convnext.detection.fpn import Conv
from convnext.detection.matching import Sample
from convnext.detection.roi_align import roi_align

POOLED = 7
HIDDEN = 1024
FINEST = 14  # cells of the finest level: a proposal of 56 pixels, at stride 4, is the first that may use a coarser one


def pool(levels: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], side: int) -> Tensor:
    """RoIAlign, aligned and with adaptive sampling, of every box on the level that fits its size.

    Args:
        levels: (B, C, h, w) each, contiguous and fp32, of these `strides`.
        boxes: (ni, 4) of each image, pixels.

    Returns:
        (n, C, side, side), in the order of the boxes.
    """
    image = torch.cat([box.new_full((len(box), 1), i) for i, box in enumerate(boxes)])
    proposals = torch.cat([image, torch.cat(list(boxes))], dim=1)  # (n, 5)
    level_of = fitting_level(proposals[:, 1:], strides)
    order = level_of.argsort(stable=True)
    counts = torch.bincount(level_of, minlength=len(levels)).tolist()
    pooled = [
        roi_align(level, part, side, stride)
        for level, stride, part in zip(levels, strides, proposals[order].split(counts), strict=True)
        if len(part)
    ]
    if not pooled:
        return levels[0][:0, :, :1, :1].expand(-1, -1, side, side)
    return torch.cat(pooled)[order.argsort()]


def fitting_level(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The level, 0 for the finest, from which each of the boxes (n, 4) is read: (n,) int64."""
    scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (scale / (FINEST * strides[0]) + 1e-6).log2().floor().clamp(0, len(strides) - 1).long()


class BoxHead(nn.Module):
    """`convs` 3x3 convolutions with batch norm, then `linears` hidden layers, then K + 1 classes and K boxes of a proposal.

    Background is the last class. Boxes are class-specific and coded in units of `stds`; with convolutions the box loss
    is GIoU on decoded boxes, times 10, else L1 on deltas: the heads of Cascade Mask R-CNN and Mask R-CNN in Table 3.
    """

    def __init__(self, channels: int, num_classes: int, stds: Sequence[float], convs: int, linears: int):
        super().__init__()
        self.channels, self.num_classes, self.stds = channels, num_classes, tuple(stds)
        self.shared_convs = nn.ModuleList(Conv(channels, channels, 3, norm=True) for _ in range(convs))
        widths = [channels * POOLED**2] + [HIDDEN] * linears
        hidden = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.shared_fcs = nn.ModuleList(hidden)
        self.fc_cls = nn.Linear(HIDDEN, num_classes + 1)
        self.fc_reg = nn.Linear(HIDDEN, 4 * num_classes)
        for linear in hidden:
            nn.init.xavier_uniform_(linear.weight)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for linear in (*hidden, self.fc_cls, self.fc_reg):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled proposals (n, C, 7, 7) -> logits (n, K + 1), deltas (n, K, 4), fp32."""
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for linear in self.shared_fcs:
            x = F.relu(linear(x), inplace=True)
        return self.fc_cls(x).float(), self.fc_reg(x).float().unflatten(1, (self.num_classes, 4))

    def losses(self, outputs: tuple[Tensor, Tensor], samples: Sequence[Sample], labels: Tensor, boxes: Tensor):
        """`loss_cls` and `loss_bbox`, divided by the number of proposals.

        Args:
            outputs: of `forward`, for the proposals of all `samples` one after the other.
            labels: (n,), K for background; boxes: (P, 4), the objects of the positives.
        """
        logits, deltas = outputs
        positives = (labels < self.num_classes).nonzero()[:, 0]
        deltas = deltas[positives, labels[positives]]  # (P, 4)
        proposals = torch.cat([part.boxes for part in samples])[positives]
        if self.shared_convs:
            loss = 10.0 * losses.giou(decode(proposals, deltas, self.stds), boxes)
        else:
            loss = losses.smooth_l1(deltas, encode(proposals, boxes, self.stds), beta=0.0)
        return {"loss_cls": losses.class_mean(logits, labels), "loss_bbox": loss / max(len(labels), 1)}

    def refine(self, boxes: Tensor, labels: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        """The boxes (n, 4) moved by the deltas (n, K, 4) of their labels (n,) in 0..K-1, cut to the image."""
        return decode(boxes, deltas[torch.arange(boxes.shape[0], device=boxes.device), labels], self.stds, clip_to=size)

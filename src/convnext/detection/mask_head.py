"""The mask of a proposal, and its place in the image (He et al., "Mask R-CNN", ICCV 2017).

Legend: C channels, K classes, P or n proposals, H W of the image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.detection import losses
from convnext.detection.fpn import Conv
from convnext.detection.roi_align import roi_align

POOLED = 14
SIDE = 2 * POOLED
THRESHOLD = 0.5
PIXELS_AT_ONCE = 2**24  # of objects' masks turned to fp32 for cutting out targets


class MaskHead(nn.Module):
    """Four 3x3 convolutions, one that doubles the side, and one to a mask for each class."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.channels = channels
        self.convs = nn.ModuleList(Conv(channels, channels, 3) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        for layer in (self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled proposals (n, C, 14, 14) -> logits (n, K, 28, 28)."""
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(F.relu(self.upsample(x), inplace=True))

    def of_labels(self, x: Tensor, labels: Tensor) -> Tensor:
        """Pooled proposals (n, C, 14, 14) and their classes (n,) -> logits (n, 28, 28), fp32."""
        return self(x)[torch.arange(x.shape[0], device=x.device), labels].float()

    def losses(self, x: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """`loss_mask` of pooled proposals (P, C, 14, 14) with classes (P,) and targets (P, 28, 28); 0 for no proposals."""
        return {"loss_mask": losses.mask_mean(self.of_labels(x, labels), targets)}


@torch.no_grad()
def mask_targets(masks: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
    """Targets of the proposals' masks: (P, 28, 28), 1 where at least half of a cell is on the object.

    Args:
        masks: (m, H, W) bool, of the objects; boxes: (P, 4), the proposals; objects: (P,), which one each is of.
    """
    targets = boxes.new_zeros((len(boxes), SIDE, SIDE))
    step = max(1, PIXELS_AT_ONCE // max(masks[0].numel(), 1)) if len(masks) else 1
    for start in range(0, len(masks), step):
        mine = ((objects >= start) & (objects < start + step)).nonzero()[:, 0]
        proposals = torch.cat([(objects[mine, None] - start).float(), boxes[mine].float()], dim=1)
        cut = roi_align(masks[start : start + step, None].float(), proposals, SIDE, 1.0)
        targets[mine] = (cut[:, 0] >= 0.5).float()
    return targets


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, 28, 28) of probabilities stretched over their boxes (n, 4), bilinear: (n, *size) bool, above one half.

    One object after the other, and of the image only what its box reaches: memory is that of the result.
    """
    height, width = size
    whole = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    reach = torch.cat([boxes[:, :2].floor() - 1, boxes[:, 2:].ceil() + 1], dim=1).nan_to_num(0.0)
    limits: Sequence[int] = (width, height, width, height)
    for i, ends in enumerate(reach.tolist()):
        left, top, right, bottom = (int(min(max(end, 0), limit)) for end, limit in zip(ends, limits, strict=True))
        if left >= right or top >= bottom:
            continue
        x1, y1, x2, y2 = boxes[i].float().unbind()
        x = (torch.arange(left, right, device=boxes.device) + 0.5 - x1) / (x2 - x1) * 2 - 1  # -1..1 across the box
        y = (torch.arange(top, bottom, device=boxes.device) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]  # (1, h, w, 2)
        mask = F.grid_sample(masks[i][None, None].float(), grid, align_corners=False)[0, 0]
        whole[i, top:bottom, left:right] = mask >= THRESHOLD
    return whole

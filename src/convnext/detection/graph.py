"""The graph of a detector for export: `Detector.predict` for one image, in operators that every format has.

The number of boxes depends on the image. Here the number of proposals is fixed, some of them empty, and only the result has
one row per object. Boxes and masks are brought to the original's size outside, as for the model itself.

Legend: H W of the padded image, P proposals, K classes, n objects.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from convnext.detection import box_head, cascade, mask_head, rpn
from convnext.detection.anchors import level_anchors
from convnext.detection.boxes import decode
from convnext.detection.detector import TEST, Detector, readable

NOTHING = -1.0  # the score of a proposal that is none
ALONE = -1e4  # pixels: where they are put, so that they suppress nothing


class DetectorGraph(nn.Module):
    """images (1, 3, H, W) fp32, normalised, padded; size (2,) int64, height and width of the image inside -> boxes (n, 4)
    x1 y1 x2 y2 in its pixels, scores (n,) descending, labels (n,), masks (n, 28, 28): probabilities inside the boxes."""

    def __init__(self, model: Detector):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inside = size.float().unbind()
        levels = self.model.pyramid(images)
        regions, real = self._proposals(levels, inside)
        return self._detections(readable(levels), regions, real, inside)

    def _proposals(self, levels: Sequence[Tensor], inside: Any) -> tuple[Tensor, Tensor]:
        """`RPNHead.proposals`, filled up: boxes (P, 4), and (P,) bool, which are proposals."""
        head, (per_level, total) = self.model.rpn_head, TEST
        scores, boxes = [], []
        for logit, delta, level, stride in zip(*head(levels), levels, head.strides, strict=True):
            # a level with fewer anchors is filled up
            score, index = F.pad(logit[0].sigmoid(), (0, per_level), value=NOTHING).topk(per_level)
            anchors = F.pad(level_anchors(level.shape[2:], stride), (0, 0, 0, per_level))[index]
            box = decode(anchors, F.pad(delta[0], (0, 0, 0, per_level))[index], clip_to=inside)
            real = (box[:, 2:] > box[:, :2]).all(dim=1) & (score >= 0)
            kept = nms(torch.where(real[:, None], box, ALONE), torch.where(real, score, NOTHING), rpn.NMS)
            best = torch.zeros_like(score).scatter(0, kept, torch.ones_like(kept, dtype=score.dtype))
            scores.append(torch.where(real & (best > 0), score, NOTHING))
            boxes.append(box)
        score, index = torch.cat(scores).topk(total)
        return torch.cat(boxes)[index], score >= 0

    def _detections(
        self, levels: Sequence[Tensor], regions: Tensor, real: Tensor, inside: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`RoIHead.predict`, for one image."""
        head, heads = self.model.roi_head, self.model.roi_head.box_heads
        logits = []
        for k, boxes in enumerate(heads):
            logit, delta = boxes(pool(levels, head.strides, regions, box_head.POOLED))
            logits.append(logit)
            if k + 1 < len(heads):
                regions = boxes.refine(regions, logit[:, :-1].argmax(dim=1), delta, inside)
        probabilities = torch.stack(logits).mean(dim=0).softmax(dim=1)[:, :-1] * real[:, None]
        which, labels = (probabilities > cascade.SCORE).nonzero().unbind(dim=1)
        boxes = heads[-1].refine(regions[which], labels, delta[which], inside)
        scores = probabilities[which, labels]
        apart = labels[:, None] * (torch.maximum(*inside) + 1)  # so that no class suppresses another
        best = nms(boxes + apart, scores, cascade.NMS)
        best = best[torch.ones_like(best).cumsum(0) <= cascade.PER_PICTURE]  # a slice, whose end OpenVINO cannot read
        boxes, labels = boxes[best], labels[best]
        x = pool(levels, head.strides, boxes, mask_head.POOLED)
        masks = torch.stack([each.of_labels(x, labels).sigmoid() for each in head.mask_heads]).mean(dim=0)
        return boxes, scores[best], labels, masks


def pool(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, side: int) -> Tensor:
    """`box_head.pool` for one image: boxes (n, 4) -> (n, C, side, side).

    Every level is asked for every box, and where another level fits the box, for an empty one, which costs nothing: so no
    size depends on how many boxes a level has.
    """
    level_of = box_head.fitting_level(boxes, strides)
    pooled = boxes.new_zeros(())
    for i, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        mine = level_of == i
        regions = F.pad(boxes * mine[:, None], (1, 0))  # the image's number, 0, before each box
        values = roi_align(level, regions, side, 1 / stride, sampling_ratio=0, aligned=True)
        pooled = pooled + torch.where(mine[:, None, None, None], values, 0.0)
    return pooled

"""The region proposal network (Ren et al., NeurIPS 2015): where anything may be, as corrected anchors with scores.

Legend: B batch, C channels, h w of a level, A anchors at a position, N anchors of all levels, N = sum of h w A.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from convnext.data.pixels import padded_size
from convnext.detection import losses
from convnext.detection.anchors import RATIOS, inside, level_anchors
from convnext.detection.boxes import decode, encode
from convnext.detection.matching import match, sample
from convnext.ops.conv3x3 import conv3x3

POSITIVE, NEGATIVE, LOW_QUALITY = 0.7, 0.3, 0.3  # IoU
POSITIVE_SHARE = 0.5
NMS = 0.7


class RPNHead(nn.Module):
    """One small convolutional head for all levels.

    Args:
        strides: of the levels.
        beta: of the box loss; 0 is L1.
        whole: learn only from anchors that lie in the image as a whole.
    """

    def __init__(self, channels: int, strides: Sequence[int], beta: float, whole: bool):
        super().__init__()
        self.strides, self.beta, self.whole = tuple(strides), beta, whole
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * len(RATIOS), 1)
        for conv in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """levels[l] (B, C, h, w) -> logits[l] (B, h w A), deltas[l] (B, h w A, 4), fp32."""
        logits, deltas = [], []
        for level in levels:
            x = F.relu(conv3x3(self.rpn_conv, level), inplace=True)
            logits.append(self.rpn_cls(x).permute(0, 2, 3, 1).flatten(1).float())  # (B, A, h, w) -> (B, h w A)
            deltas.append(self.rpn_reg(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4).float())
        return logits, deltas

    @torch.no_grad()
    def proposals(
        self,
        outputs: tuple[list[Tensor], list[Tensor]],
        levels: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        per_level: int,
        total: int,
    ) -> list[tuple[Tensor, Tensor]]:
        """Proposals of each image: boxes (n, 4) and scores (n,), best first.

        The best `per_level` of each level are decoded, cut to the image and, if anything is left of them, suppressed
        among their level; then the best `total` of all levels remain.

        Args:
            outputs: of `forward`.
            sizes: (height, width) of each image inside the padded batch.
        """
        scores, anchors, deltas, where = [], [], [], []
        for k, (logit, delta, level) in enumerate(zip(*outputs, levels, strict=True)):
            score, index = logit.sigmoid().topk(min(per_level, logit.shape[1]), dim=1)  # (B, n)
            scores.append(score)
            anchors.append(level_anchors(level.shape[2:], self.strides[k], level.device)[index])  # (B, n, 4)
            deltas.append(delta.gather(1, index[..., None].expand(-1, -1, 4)))
            where.append(torch.full_like(index, k))
        proposals = []
        for score, anchor, delta, level_of, size in zip(
            *(torch.cat(parts, dim=1) for parts in (scores, anchors, deltas, where)), sizes, strict=True
        ):
            boxes = decode(anchor, delta, clip_to=size)
            kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).nonzero()[:, 0]
            boxes, score = boxes[kept], score[kept]
            best = batched_nms(boxes, score, level_of[kept], NMS)[:total]
            proposals.append((boxes[best], score[best]))
        return proposals

    def losses(
        self,
        outputs: tuple[list[Tensor], list[Tensor]],
        levels: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        objects: Sequence[Tensor],
        samples: int | None,
    ) -> dict[str, Tensor]:
        """`loss_rpn_cls` and `loss_rpn_bbox` over `samples` anchors of each image, divided by their number.

        Args:
            outputs, sizes: as in `proposals`.
            objects: the boxes (m, 4) of each image.
            samples: anchors to draw in each, half of them positive at most; None takes all that are not in between.
        """
        logits, deltas = (torch.cat(parts, dim=1) for parts in outputs)  # (B, N), (B, N, 4)
        cls = bbox = logits.new_zeros(())
        count = 0
        for i, (boxes, image_size) in enumerate(zip(objects, sizes, strict=True)):
            with torch.no_grad():
                anchors, usable = self._usable(levels, image_size)
                owner = match(anchors, boxes, POSITIVE, NEGATIVE, LOW_QUALITY)
                positives, negatives = sample(owner, samples, POSITIVE_SHARE)
                target = encode(anchors[positives], boxes[owner[positives]])
                positives, negatives = usable[positives], usable[negatives]
            cls = cls + losses.objectness(logits[i, positives], logits[i, negatives])
            bbox = bbox + losses.smooth_l1(deltas[i, positives], target, self.beta)
            count += max(len(positives), 1) + max(len(negatives), 1)  # one at least of each, as the reference counts
        return {"loss_rpn_cls": cls / count, "loss_rpn_bbox": bbox / count}

    def _usable(self, levels: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The anchors (M, 4) that an image of `image_size` (height, width) is learnt from, and their positions (M,) among all N."""
        device = levels[0].device
        grids = [(level.shape[2:], stride) for level, stride in zip(levels, self.strides, strict=True)]
        anchors = torch.cat([level_anchors(size, stride, device) for size, stride in grids])
        reached = padded_size(image_size)  # padded alone, as in the reference
        usable = torch.cat([inside(size, stride, reached, device) for size, stride in grids])
        if self.whole:
            height, width = image_size
            usable &= (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2] < width) & (anchors[:, 3] < height)
        usable = usable.nonzero()[:, 0]
        return anchors[usable], usable

"""The second part of a detector: a sequence of stages, each of which classifies proposals, moves them and masks them.

Cascade R-CNN (Cai and Vasconcelos, CVPR 2018) has three, each trained at a higher IoU on what the one before made of the
proposals. Mask R-CNN is a cascade of one. Names as in the reference: `bbox_head` and `mask_head` are lists where there are
several stages.

Legend: B images, n proposals of all images together, N of one, K classes, P positives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from convnext.detection.box_head import POOLED, BoxHead, pool
from convnext.detection.mask_head import POOLED as MASK_POOLED
from convnext.detection.mask_head import SIDE, MaskHead, mask_targets
from convnext.detection.matching import Sample, sample_proposals

POSITIVE_SHARE = 0.25
SCORE, NMS, PER_PICTURE = 0.05, 0.5, 100

Size = tuple[int, int]
Detections = dict[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """IoU from which a proposal is an object, weight of the stage's losses, and units of its box deltas."""

    iou: float
    weight: float
    stds: tuple[float, float, float, float]


class RoIHead(nn.Module):
    """The stages on a pyramid's levels of `strides`. Further arguments: see `BoxHead`, `matching.match`."""

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        num_classes: int,
        stages: Sequence[Stage],
        convs: int,
        linears: int,
        low_quality: bool,
    ):
        super().__init__()
        self.num_classes, self.strides, self.stages = num_classes, tuple(strides), tuple(stages)
        self.low_quality = low_quality
        box_heads = [BoxHead(channels, num_classes, stage.stds, convs, linears) for stage in stages]
        mask_heads = [MaskHead(channels, num_classes) for _ in stages]
        several = len(stages) > 1
        self.bbox_head = nn.ModuleList(box_heads) if several else box_heads[0]
        self.mask_head = nn.ModuleList(mask_heads) if several else mask_heads[0]

    @property
    def box_heads(self) -> list[BoxHead]:
        return [head for head in self.bbox_head.modules() if isinstance(head, BoxHead)]

    @property
    def mask_heads(self) -> list[MaskHead]:
        return [head for head in self.mask_head.modules() if isinstance(head, MaskHead)]

    # -- training

    def losses(
        self,
        levels: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]],
        sizes: Sequence[Size],
        number: int | None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox`, `loss_mask`, of each stage (`s0.loss_cls`, ..) where there are several.

        Args:
            levels: (B, C, h, w) each, fp32; proposals: (N, 4) of each image; targets: see `Detector.losses`.
            number: proposals to draw in each image, a quarter of them positive at most; None takes all.
        """
        losses = {}
        proposals = list(proposals)
        for k, (stage, box_head, mask_head) in enumerate(
            zip(self.stages, self.box_heads, self.mask_heads, strict=True)
        ):
            with torch.no_grad():
                samples = [
                    sample_proposals(proposal, target["boxes"], stage.iou, self.low_quality, number, POSITIVE_SHARE)
                    for proposal, target in zip(proposals, targets, strict=True)
                ]
                labels = [self._labels(s, t["labels"]) for s, t in zip(samples, targets, strict=True)]
                objects = torch.cat([t["boxes"][s.objects] for s, t in zip(samples, targets, strict=True)])
            outputs = self._boxes(box_head, levels, [s.boxes for s in samples])
            stage_losses = box_head.losses(outputs, samples, torch.cat(labels), objects)
            stage_losses |= self._mask_loss(mask_head, levels, samples, targets)
            prefix = f"s{k}." if len(self.stages) > 1 else ""
            losses |= {prefix + name: stage.weight * value for name, value in stage_losses.items()}
            if k + 1 < len(self.stages):
                proposals = self._refined(box_head, samples, labels, [x.detach() for x in outputs], sizes)
        return losses

    def _labels(self, sample: Sample, labels: Tensor) -> Tensor:
        """(n,) of the sampled proposals: the positives' classes, then K for background."""
        background = labels.new_full((len(sample.boxes) - len(sample.objects),), self.num_classes)
        return torch.cat([labels[sample.objects], background])

    def _mask_loss(
        self,
        head: MaskHead,
        levels: Sequence[Tensor],
        samples: Sequence[Sample],
        targets: Sequence[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Mask loss over the positives of the images that have masks."""
        boxes, labels, expected = [], [], []
        for sample, target in zip(samples, targets, strict=True):
            objects = sample.objects if "masks" in target else sample.objects[:0]
            boxes.append(sample.boxes[: len(objects)])
            labels.append(target["labels"][objects])
            if len(objects):
                expected.append(mask_targets(target["masks"], boxes[-1], objects))
        x = pool(levels, self.strides, boxes, MASK_POOLED)
        return head.losses(x, torch.cat(labels), torch.cat(expected) if expected else x.new_zeros((0, SIDE, SIDE)))

    @torch.no_grad()
    def _refined(
        self,
        head: BoxHead,
        samples: Sequence[Sample],
        labels: Sequence[Tensor],
        outputs: Sequence[Tensor],
        sizes: Sequence[Size],
    ) -> list[Tensor]:
        """The sampled proposals, moved for the next stage; without those that are an object's own box."""
        logits, deltas = (part.split([len(s.boxes) for s in samples]) for part in outputs)
        proposals = []
        for i, sample in enumerate(samples):
            guess = logits[i][:, :-1].argmax(dim=1)
            label = torch.where(labels[i] == self.num_classes, guess, labels[i])
            proposals.append(head.refine(sample.boxes, label, deltas[i], sizes[i])[~sample.given])
        return proposals

    # -- prediction

    @torch.no_grad()
    def predict(
        self, levels: Sequence[Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size], masks: bool = True
    ) -> list[Detections]:
        """Predict for each image the best 100 `boxes`, `scores`, `labels`, and `masks` (N, 28, 28) as probabilities in the boxes.

        Logits are averaged over the stages, boxes are the last stage's, mask probabilities are averaged.
        """
        proposals, all_logits, deltas = list(proposals), [], levels[0].new_zeros(0)
        counts = [len(proposal) for proposal in proposals]
        for k, head in enumerate(self.box_heads):
            logits, deltas = self._boxes(head, levels, proposals)
            all_logits.append(logits)
            if k + 1 < len(self.stages):
                proposals = [
                    head.refine(proposal, logit[:, :-1].argmax(dim=1), delta, size)
                    for proposal, logit, delta, size in zip(
                        proposals, logits.split(counts), deltas.split(counts), sizes, strict=True
                    )
                ]
        scores = torch.stack(all_logits).mean(dim=0).softmax(dim=1)
        detections = [
            self._select(self.box_heads[-1], proposal, score[:, :-1], delta, size)
            for proposal, score, delta, size in zip(
                proposals, scores.split(counts), deltas.split(counts), sizes, strict=True
            )
        ]
        if masks:
            x = pool(levels, self.strides, [each["boxes"] for each in detections], MASK_POOLED)
            labels = torch.cat([each["labels"] for each in detections])
            mean = torch.stack([head.of_labels(x, labels).sigmoid() for head in self.mask_heads]).mean(dim=0)
            for each, part in zip(detections, mean.split([len(each["labels"]) for each in detections]), strict=True):
                each["masks"] = part
        return detections

    def _boxes(self, head: BoxHead, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return head(pool(levels, self.strides, proposals, POOLED))

    def _select(self, head: BoxHead, proposals: Tensor, scores: Tensor, deltas: Tensor, size: Size) -> Detections:
        """Detections from proposals (N, 4) with scores (N, K): above the threshold, suppressed within each class."""
        which, labels = (scores > SCORE).nonzero().unbind(dim=1)
        boxes, scores = head.refine(proposals[which], labels, deltas[which], size), scores[which, labels]
        best = batched_nms(boxes, scores, labels, NMS)[:PER_PICTURE]
        return {"boxes": boxes[best], "scores": scores[best], "labels": labels[best]}

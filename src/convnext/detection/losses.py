"""The losses that the heads share; sums, in fp32, which the heads divide. Zero, and differentiable, for nothing at all."""

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss


def smooth_l1(predicted: Tensor, target: Tensor, beta: float) -> Tensor:
    """Sum over all elements: quadratic below `beta`, linear above; L1 where beta is 0."""
    return F.smooth_l1_loss(predicted.float(), target, reduction="sum", beta=beta)


def giou(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of 1 - GIoU of boxes (n, 4) with boxes (n, 4)."""
    return generalized_box_iou_loss(predicted.float(), target, reduction="sum")


def objectness(positive: Tensor, negative: Tensor) -> Tensor:
    """Sum of the binary cross-entropies of logits (P,) that should be high and (N,) that should be low."""
    return F.softplus(-positive.float()).sum() + F.softplus(negative.float()).sum()


def class_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (n, K + 1) with labels (n,), the mean over proposals."""
    return F.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)


def mask_mean(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits (P, s, s) with targets (P, s, s) 0 or 1, the mean over pixels."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    return loss / max(logits.numel(), 1)

"""Losses of several labels per image.

Legend: B images, K classes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from convnext.classification.mixup import make_mixup
from convnext.recipes.schema import Augment

FOCUS = 4
"""Power of the probability by which asymmetric loss weights what is not there (Ridnik et al., 2021, section 3.1)."""
MARGIN = 0.05
"""Probability that asymmetric loss takes off what is not there, and so forgives altogether."""


def binary_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of logits (B, K) and targets (B, K) in 0..1; `weights` (K,) multiply the positive terms."""
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)


def asymmetric_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Asymmetric loss (Ridnik et al., 2021, equation 7, with its settings), meaned over images and classes.

    -y log p - (1 - y) q^4 log(1 - q) with q = max(p - 0.05, 0): easy negatives, which are almost all, count next to nothing.
    """
    log_p = F.logsigmoid(logits)
    q = (logits.sigmoid() - MARGIN).clamp(min=0)
    positive = targets * log_p if weights is None else weights * targets * log_p
    return -(positive + (1 - targets) * q**FOCUS * torch.log1p(-q)).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "bce": binary_loss,
    "asymmetric": asymmetric_loss,
}


def mixed(augment: Augment, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup and CutMix of images and their targets (B, K), by weight: a label of an image that makes up a third of the
    mixture has a target of a third, not 1 as the union of the labels would have it."""
    from dataclasses import replace

    mix = make_mixup(replace(augment, label_smoothing=0.0), len(images))
    if mix is None:
        return images, targets
    # the share that image j has in mixture i, (B, B), are the soft targets of B images that are each a class of their own
    images, shares = mix(images, torch.arange(len(images), device=images.device))
    with torch.autocast(images.device.type, enabled=False):
        return images, shares.float() @ targets


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    """Targets in 0..1 drawn towards a half: 0 becomes smoothing / 2, 1 as much less."""
    return targets * (1 - smoothing) + smoothing / 2 if smoothing else targets

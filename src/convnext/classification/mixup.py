"""Mixup and CutMix on a batch, as the paper uses them: one lambda per batch, the partner is the flipped batch."""

from collections.abc import Callable

from torch import Tensor

from convnext.recipes.schema import Augment


def make_mixup(augment: Augment, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """A function (images (B,3,H,W), labels (B,)) -> (mixed images, soft targets (B,K) with label smoothing), or None.

    timm's Mixup draws from NumPy's global generator: seed it per step (`convnext.seeding`).
    """
    if not (augment.mixup or augment.cutmix):
        return None
    from timm.data.mixup import Mixup

    mix = Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mixup_prob,
        switch_prob=augment.mixup_switch_prob,
        label_smoothing=augment.label_smoothing,
        num_classes=num_classes,
    )

    def apply(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) % 2 == 0:
            return mix(images, labels)
        # timm insists on even batches; the middle image of an odd one is its own partner and needs no copy
        mixed, soft = mix(images[:-1], labels[:-1])
        return _append(mixed, images[-1:]), _append(soft, _one_hot(labels[-1:], num_classes, augment.label_smoothing))

    return apply


def _append(head: Tensor, tail: Tensor) -> Tensor:
    import torch

    return torch.cat([head, tail.to(head.dtype)])


def _one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    import torch

    off = smoothing / num_classes
    return torch.full((len(labels), num_classes), off, device=labels.device).scatter_(
        1, labels[:, None], 1 - smoothing + off
    )

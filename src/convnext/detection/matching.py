"""Assignment of candidates to ground-truth objects by IoU, and random samples of them for the losses.

As mmdet's MaxIoUAssigner and RandomSampler. Crowds are not looked at (its `ignore_iof_thr` is -1 in all of the paper's
configurations): a candidate on a crowd is background like any other.

Legend: n candidates, m objects.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

IGNORED, BACKGROUND = -2, -1
PAIRS_AT_ONCE = 2**23  # of candidate and object: bounds the memory at 200 objects and 270,000 anchors


def match(boxes: Tensor, objects: Tensor, positive: float, negative: float, low_quality: float | None = None) -> Tensor:
    """The object of each candidate: (n,) int64 in 0..m-1, BACKGROUND below IoU `negative`, IGNORED in between.

    A candidate belongs to the object that it overlaps most, if its IoU is at least `positive`. With `low_quality`, each
    object that is overlapped at least that much by its best candidates takes those, from whomever; of two objects that
    want the same candidate the later gets it.

    Args:
        boxes: (n, 4); objects: (m, 4); both x1 y1 x2 y2.
    """
    n = len(boxes)
    best = boxes.new_zeros(n)
    owner = torch.full((n,), BACKGROUND, device=boxes.device)
    wanted = owner.clone()
    step = max(1, PAIRS_AT_ONCE // max(n, 1))
    for start in range(0, len(objects) if n else 0, step):
        iou = box_iou(objects[start : start + step].float(), boxes.float()).nan_to_num_(0.0)  # (step, n)
        highest, index = iou.max(dim=0)
        better = highest > best
        best, owner = torch.where(better, highest, best), torch.where(better, index + start, owner)
        if low_quality is not None:
            top = iou.max(dim=1, keepdim=True).values
            takes = (iou == top) & (top >= low_quality)
            numbers = torch.arange(start, start + len(iou), device=boxes.device)[:, None]
            wanted = torch.maximum(wanted, torch.where(takes, numbers, BACKGROUND).amax(dim=0))
    unsure = torch.where(best < negative, BACKGROUND, IGNORED)
    owner = torch.where((best >= positive) & (owner != BACKGROUND), owner, unsure)
    return torch.where(wanted != BACKGROUND, wanted, owner)


def sample(owner: Tensor, number: int | None, positive_share: float) -> tuple[Tensor, Tensor]:
    """Positions of positives and of background, at random from torch's global generator, at most `number` in all.

    Positives make up at most `positive_share`; background fills the rest. All of both where `number` is None.

    Args:
        owner: (n,) as `match` gives it.
    """
    positives, negatives = (owner >= 0).nonzero()[:, 0], (owner == BACKGROUND).nonzero()[:, 0]
    if number is None:
        return positives, negatives
    positives = _draw(positives, int(number * positive_share))
    return positives, _draw(negatives, number - len(positives))


def _draw(positions: Tensor, number: int) -> Tensor:
    if len(positions) <= number:
        return positions
    return positions[torch.randperm(len(positions), device=positions.device)[:number]]


@dataclass
class Sample:
    """The proposals of one image that a head learns from; the P positives come first, those that are objects at once.

    Attributes:
        boxes: (n, 4); objects: (P,) int64, the object of each positive; given: (n,) bool, the box is an object's own.
    """

    boxes: Tensor
    objects: Tensor
    given: Tensor


def sample_proposals(
    proposals: Tensor, objects: Tensor, iou: float, low_quality: bool, number: int | None, positive_share: float
) -> Sample:
    """Draw proposals among the proposals (n, 4) and the objects (m, 4) themselves; each object is its own positive."""
    owner = match(proposals, objects, iou, iou, iou if low_quality else None)
    owner = torch.cat([torch.arange(len(objects), device=owner.device), owner])
    boxes = torch.cat([objects.float(), proposals.float()])
    positives, negatives = sample(owner, number, positive_share)
    chosen = torch.cat([positives, negatives])
    return Sample(boxes[chosen], owner[positives], chosen < len(objects))

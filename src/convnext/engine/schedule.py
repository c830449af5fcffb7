"""Learning rate per optimizer step, for the three schedules of the paper: Table 5's, COCO's and ADE20K's (Section A)."""

import math

from convnext.recipes.optim import Schedule


def learning_rate(schedule: Schedule, step: int) -> float:
    """The learning rate of optimizer step `step` (from 0).

    cosine: a warm-up from 0 to `lr` inclusive over `warmup_steps` values, then
    min_lr + (lr - min_lr) (1 + cos(pi i / n)) / 2 with i from 0 over the n remaining steps.
    step: lr / 10^(milestones passed). poly: lr (1 - step / total)^power. In the warm-up of these two, that value times
    1 - (1 - step / warmup_steps) (1 - warmup_ratio).
    """
    s = schedule
    if s.kind == "cosine":
        return _cosine(s, step)
    if s.kind == "step":
        lr = s.lr * 0.1 ** sum(step >= milestone for milestone in s.milestones)
    else:
        lr = s.lr * (1 - step / s.total_steps) ** s.power
    if step < s.warmup_steps:
        lr *= 1 - (1 - step / s.warmup_steps) * (1 - s.warmup_ratio)
    return lr


def _cosine(s: Schedule, step: int) -> float:
    if step < s.warmup_steps:
        return s.lr * step / (s.warmup_steps - 1) if s.warmup_steps > 1 else s.lr
    i, n = step - s.warmup_steps, s.total_steps - s.warmup_steps
    return s.min_lr + 0.5 * (s.lr - s.min_lr) * (1 + math.cos(math.pi * i / n))

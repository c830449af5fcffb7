"""Learning rate per optimizer step: linear warm-up, then half a cosine (Table 5; PAPER's "cosine decay")."""

import math


def cosine(step: int, total_steps: int, warmup_steps: int, lr: float, min_lr: float) -> float:
    """The learning rate of optimizer step `step` (from 0).

    The warm-up rises from 0 to `lr` inclusive over `warmup_steps` values; then
    min_lr + (lr - min_lr) (1 + cos(pi i / n)) / 2 with i from 0 over the n remaining steps.
    """
    if step < warmup_steps:
        return lr * step / (warmup_steps - 1) if warmup_steps > 1 else lr
    i, n = step - warmup_steps, total_steps - warmup_steps
    return min_lr + 0.5 * (lr - min_lr) * (1 + math.cos(math.pi * i / n))

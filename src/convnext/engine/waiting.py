"""Advice for a training that waits for its data."""

import os

SHARE = 0.2
"""Of the time between two records, from which waiting is worth a word."""


def advice(share: float, device: str, workers: int | None, data: str) -> str:
    """A sentence for a run that waited this share of its time; empty where it waited little, or computes on the CPU, which
    loading shares with training.

    Args:
        device: type of the device; workers: what the recipe says; data: the training data.
    """
    if share < SHARE or device == "cpu":
        return ""
    cores = os.cpu_count() or 1
    now = "all but one now" if workers is None else f"{workers} now"
    return (
        f"The device waited for data {share:.0%} of the time. Remedies: more loading processes (--runtime.workers, {now}, of "
        f"{cores} cores); a cache of decoded images (--runtime.cache ram or disk); images that decode faster, which `convnext "
        f"data speed {data}` measures: large ones as JPEG files; and on a slow disk shards, which `convnext data shard` writes."
    )

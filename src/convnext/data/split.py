"""Hold out a share of a dataset for validation, by a hash of (seed, name): an image keeps its side when others come or go."""

import hashlib
from collections.abc import Sequence

import numpy as np

from convnext.errors import ConvNextError


def hold_out(
    names: Sequence[str], share: float, seed: int, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation images, each ascending.

    Of each class, `share` goes to validation, rounded, but at least one image and not all of them; the only image of a
    class stays in training. A share of 0 holds out none.

    Args:
        names: stable ids of the N images.
        labels: (N,) int64, one class per image; None: all images are of one class.

    Raises:
        ConvNextError: share is not in 0 to 1, or images are to be held out and no class has two.
    """
    if not 0 <= share < 1:
        raise ConvNextError(f"The validation share is {share}, and must be 0 or more and below 1; 0.1 holds out 10 %.")
    if share == 0:
        return np.arange(len(names)), np.arange(0)
    labels = np.zeros(len(names), dtype=np.int64) if labels is None else labels
    counts = np.bincount(labels)
    if not len(names) or counts.max() < 2:
        few = "No class has more than one image" if len(names) > 1 else f"There is only {len(names)} image"
        raise ConvNextError(f"{few}, so none can be held out for validation. Add images.")
    keys = np.array([_key(seed, name) for name in names], dtype=np.uint64)
    quotas = np.clip(np.rint(share * counts), 1, np.maximum(counts - 1, 0))
    by_class = np.lexsort((keys, labels))
    rank_in_class = np.arange(len(names)) - np.repeat(np.cumsum(counts) - counts, counts)
    held_out = np.zeros(len(names), dtype=bool)
    held_out[by_class] = rank_in_class < np.repeat(quotas, counts)
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogateescape"), digest_size=8).digest())

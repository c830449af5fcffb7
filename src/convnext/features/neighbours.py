"""Neighbours among vectors by the cosine of their angle: classes by vote, near-duplicates, outliers.

Legend: N images that are known, M that are asked about, C channels, K neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 1024
"""Vectors that are compared with all others at once: the memory is 4 BLOCK N bytes."""
ALIKE = 0.995
"""Cosine from which two images are called near-duplicates."""
NEAREST = 10
"""Neighbours that an outlier is judged by."""


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, C) of length 1, float32; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def cosines(asked: np.ndarray, known: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, cosines (B, N)) of blocks of `asked` (M, C) with all of `known` (N, C)."""
    asked, known = normalised(asked), normalised(known)
    for start in range(0, len(asked), BLOCK):
        yield start, asked[start : start + BLOCK] @ known.T


def nearest(asked: np.ndarray, known: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (M, K) int64 in `known` and cosines (M, K) of the k nearest of each, nearest first; fewer where N < k."""
    k = min(k, len(known))
    places, values = [np.zeros((0, k), np.int64)], [np.zeros((0, k), np.float32)]
    for _, block in cosines(asked, known):
        found = (
            np.argpartition(-block, k - 1, axis=1)[:, :k]
            if k < block.shape[1]
            else np.tile(np.arange(k), (len(block), 1))
        )
        near = np.take_along_axis(block, found, axis=1)
        order = np.lexsort((found, -near), axis=1)
        places.append(np.take_along_axis(found, order, axis=1))
        values.append(np.take_along_axis(near, order, axis=1))
    return np.concatenate(places), np.concatenate(values)


def voted(labels: np.ndarray, classes: int) -> np.ndarray:
    """(M,) int64: the most frequent of the labels (M, K) in each row; of several, the first class, as scikit-learn has it."""
    counts = np.zeros((len(labels), classes), np.int64)
    np.add.at(counts, (np.arange(len(labels))[:, None], labels), 1)
    return counts.argmax(axis=1)


@dataclass(frozen=True)
class Pair:
    """Two images, by position, and the cosine of their vectors."""

    one: int
    other: int
    cosine: float


def near_duplicates(vectors: np.ndarray, alike: float = ALIKE, most: int = 1000) -> list[Pair]:
    """Pairs of images whose cosine is at least `alike`, the most alike first; at most `most` of them."""
    found: list[Pair] = []
    for start, block in cosines(vectors, vectors):
        rows, columns = np.nonzero(block >= alike)
        pairs = [(start + int(i), int(j)) for i, j in zip(rows, columns, strict=True) if start + i < j]
        found += [Pair(i, j, float(block[i - start, j])) for i, j in pairs]
        found = sorted(found, key=lambda pair: (-pair.cosine, pair.one, pair.other))[:most]
    return found


def outliers(vectors: np.ndarray, labels: Sequence[Sequence[str]], count: int = 20) -> list[tuple[int, float, float]]:
    """Images that look least like others: (position, share of its nearest with one of its labels, mean cosine to them).

    The `NEAREST` nearest images count, itself left out. Those whose neighbours have other labels come first, among them the
    ones whose neighbours are near: these are most likely labelled wrongly. An image that is like no other comes first where
    its neighbours disagree as well.
    """
    places, values = nearest(vectors, vectors, NEAREST + 1)
    rows = []
    for i, (near, cosine) in enumerate(zip(places, values, strict=True)):
        others = near != i
        near, cosine = near[others][:NEAREST], cosine[others][:NEAREST]
        own = set(labels[i])
        agreeing = float(np.mean([bool(own.intersection(labels[j])) for j in near])) if len(near) else 1.0
        rows.append((i, agreeing, float(cosine.mean()) if len(near) else 0.0))
    return sorted(rows, key=lambda row: (row[1], -row[2], row[0]))[:count]

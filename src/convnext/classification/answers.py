"""Answers to single images in an evaluation, kept for reports and for people: `predictions.parquet`.

Legend: N images, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from convnext.classification.dataset import ImageDataset
from convnext.classification.label_metrics import LabelScores
from convnext.files import replace_table
from convnext.runtime.world import World
from convnext.task.examples import utf8


class Answers:
    """The answer to each of N images: most likely class, its probability, that of the true class. Filled batch by batch."""

    def __init__(self, images: int, device: torch.device):
        self.said = torch.zeros(images, dtype=torch.int64, device=device)
        self.confidence = torch.zeros(images, dtype=torch.float64)
        self.truth = torch.zeros(images, dtype=torch.float64)

    def add(self, indices: list[int], logits: Tensor, labels: Tensor) -> None:
        """logits (B, K), labels (B,) of the images at `indices`."""
        probabilities = logits.cpu().double().softmax(1)
        self.confidence[indices], said = probabilities.max(1)
        self.said[indices] = said.to(self.said.device)
        self.truth[indices] = probabilities.gather(1, labels.cpu()[:, None])[:, 0]

    def gathered(self, world: World) -> "Kept":
        """Of all images, on every process; each is of one process, so that sums put them together."""
        sums = [world.sum(each).cpu().numpy() for each in (self.said, self.confidence, self.truth)]
        return Kept(*sums)


@dataclass(frozen=True)
class Kept:
    """said (N,) int64; confidence, truth (N,) float64: probabilities of the class that was said and of the true one."""

    said: np.ndarray
    confidence: np.ndarray
    truth: np.ndarray


def write_answers(kept: Kept, samples: ImageDataset, names: list[str], path: Path) -> None:
    """Write a row for each image: `image`, `truth`, `said`, `confidence`, `truth_probability`."""
    columns = {
        "image": _images(samples),
        "truth": [utf8(names[k]) for k in samples.labels],
        "said": [utf8(names[k]) for k in kept.said],
        "confidence": kept.confidence,
        "truth_probability": kept.truth,
    }
    replace_table(path, pa.table(columns))


def write_labels(scores: LabelScores, samples: ImageDataset, names: list[str], path: Path) -> None:
    """Write a row for each image: `image`, the lists `truth` and `said` of its labels, and `probability` of those said."""
    said, written = scores.said(), [utf8(name) for name in names]
    columns = {
        "image": _images(samples),
        "truth": pa.array([_chosen(written, row) for row in scores.truth], pa.list_(pa.string())),
        "said": pa.array([_chosen(written, row) for row in said], pa.list_(pa.string())),
        "probability": pa.array(
            [p[row].tolist() for p, row in zip(scores.probabilities(), said, strict=True)], pa.list_(pa.float64())
        ),
    }
    replace_table(path, pa.table(columns))


def _images(samples: ImageDataset) -> list[str]:
    return [utf8(samples.name(i)) for i in range(len(samples))]


def _chosen(names: list[str], row: np.ndarray) -> list[str]:
    """The names where a row (K,) is true."""
    return [names[k] for k in np.flatnonzero(row)]

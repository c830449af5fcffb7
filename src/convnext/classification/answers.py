"""Answers to single images in an evaluation, kept for reports: `predictions.parquet`, with small pictures of the telling ones.

Legend: N images, K classes.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from convnext.classification.dataset import ImageDataset
from convnext.files import replace
from convnext.runtime.world import World

SHOWN = 12
"""Surest mistakes, and least sure hits, that get a picture."""
SIDE = 128
"""Pixels of a picture's longer side."""


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
    """Write a row for each image: `image`, `truth`, `said`, `confidence`, `truth_probability`, and `picture`, a JPEG, for the
    surest mistakes and the least sure hits."""
    hit = kept.said == samples.labels
    order = np.argsort(-kept.confidence, kind="stable")
    telling = [*order[~hit[order]][:SHOWN], *order[hit[order]][::-1][:SHOWN]]
    pictures: list[bytes | None] = [None] * len(samples)
    for i in telling:
        pictures[i] = picture(samples.image(int(i)))
    columns = {
        "image": [samples.name(i) for i in range(len(samples))],
        "truth": [names[k] for k in samples.labels],
        "said": [names[k] for k in kept.said],
        "confidence": kept.confidence,
        "truth_probability": kept.truth,
        "picture": pa.array(pictures, pa.binary()),
    }
    replace(path, lambda aside: pq.write_table(pa.table(columns), aside))


def picture(image: Image.Image) -> bytes:
    """A small JPEG; tiny images are enlarged pixel by pixel."""
    scale = SIDE / max(image.size)
    how = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)
    stream = BytesIO()
    small.save(stream, "JPEG", quality=85)
    return stream.getvalue()

"""Accuracy of a classifier over a dataset: every image once, whatever the number of processes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.classification.answers import Answers, Kept
from convnext.data.images import unreadable
from convnext.data.loader import Batch
from convnext.runtime.evaluation import evaluate_batches
from convnext.runtime.precision import autocast
from convnext.runtime.world import World

MAX_CONFUSION = 2000  # classes up to which the full matrix is kept


@dataclass
class Result:
    """loss: mean cross-entropy; correct1, correct5, count: images per class (K,) int64; confusion: (K,K) true x predicted;
    answers: to each image, where they were asked for."""

    loss: float
    correct1: np.ndarray
    correct5: np.ndarray
    count: np.ndarray
    confusion: np.ndarray | None
    answers: Kept | None = None

    @property
    def top1(self) -> float:
        """Percent."""
        return 100.0 * float(self.correct1.sum() / self.count.sum())

    @property
    def top5(self) -> float:
        """Percent."""
        return 100.0 * float(self.correct5.sum() / self.count.sum())

    @property
    def balanced(self) -> float:
        """Percent: the mean over the classes, where there are images, of each class's top-1; called macro or balanced
        accuracy, and the same as top-1 where all classes have as many images."""
        seen = self.count > 0
        return 100.0 * float((self.correct1[seen] / self.count[seen]).mean())

    def metrics(self) -> dict[str, float]:
        """Without top-5 of five classes or fewer, which is always right."""
        top5 = {"top5": self.top5} if len(self.count) > 5 else {}
        return {"loss": self.loss, "top1": self.top1, **top5, "balanced": self.balanced}


class Tally:
    """Running sums of one model over labelled images."""

    def __init__(self, num_classes: int, device: torch.device):
        self.num_classes = num_classes
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)  # images, top-1 hits, top-5 hits
        self.loss = torch.zeros((), dtype=torch.float64)
        self.confusion = None
        if num_classes <= MAX_CONFUSION:
            self.confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """logits (B, K), labels (B,) int64."""
        top5 = logits.topk(min(5, self.num_classes), dim=1).indices
        hits = top5 == labels[:, None]
        ones = torch.ones_like(labels)
        for row, weight in enumerate((ones, hits[:, 0].long(), hits.any(1).long())):
            self.counts[row].scatter_add_(0, labels, weight)
        if self.confusion is not None:
            self.confusion.scatter_add_(0, labels * self.num_classes + top5[:, 0], ones)
        # in double precision, so that the mean does not depend on how images were dealt out to batches and processes
        self.loss += F.cross_entropy(logits.cpu().double(), labels.cpu(), reduction="sum")

    def result(self, world: World) -> Result:
        """Sum over all processes."""
        counts, loss = world.sum(self.counts).cpu().numpy(), world.sum(self.loss)
        matrix = None
        if self.confusion is not None:
            matrix = world.sum(self.confusion).view(self.num_classes, -1).cpu().numpy()
        return Result(float(loss / counts[0].sum()), counts[1], counts[2], counts[0], matrix)


class Sliced(nn.Module):
    """A classifier that may only answer some of its classes: (B, K) logits -> (B, len(indices))."""

    def __init__(self, model: nn.Module, indices: Sequence[int]):
        super().__init__()
        self.model, self.indices = model, list(indices)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, self.indices]


@torch.inference_mode()
def evaluate(
    models: dict[str, nn.Module],
    batches: Iterable[Batch],
    num_classes: int,
    world: World,
    precision: str = "fp32",
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
    images: int | None = None,
) -> dict[str, Result]:
    """Run several models (the raw and the averaged weights) over this process's batches, adding up over all processes.

    Args:
        batches: each image of the dataset is in one batch of one process; every process has equally many batches, of
            which the last may be empty.
        precision: fp32, bf16 or fp16.
        interrupted, progress: see `evaluate_batches`.
        images: how many there are, to keep the answer to each; None to keep none.

    Raises:
        Interrupted: `interrupted()` returned True.
        ImageError: an image of any process cannot be read; evaluation never leaves one out.
    """
    tallies = {label: Tally(num_classes, world.device) for label in models}
    answers = {label: Answers(images, world.device) for label in models if images is not None}

    def step(batch: Batch) -> int:
        if batch.unreadable:
            raise unreadable(batch.unreadable[0])
        if batch.indices:
            batch = batch.to(world.device)
            assert isinstance(batch.targets, Tensor)
            for label, model in models.items():
                with autocast(precision, world.device):
                    logits = model(batch.images)
                tallies[label].add(logits.float(), batch.targets)
                if answers:
                    answers[label].add(batch.indices, logits.float(), batch.targets)
        return len(batch.indices)

    evaluate_batches(models, batches, step, world, interrupted, progress)
    found = {label: tally.result(world) for label, tally in tallies.items()}
    for label, each in answers.items():
        found[label].answers = each.gathered(world)
    return found

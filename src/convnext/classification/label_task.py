"""Training of a classifier that gives an image several labels, as the engine sees it.

Legend: B batch, N images, K classes.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from convnext.classification.dataset import ImageDataset, rarest
from convnext.classification.label_loss import LOSSES, mixed, smoothed
from convnext.classification.label_metrics import LabelScores, best_thresholds
from convnext.classification.task import ClassificationTask
from convnext.classification.weights import positive_weights
from convnext.data.images import unreadable
from convnext.data.loader import Batch
from convnext.files import replace_text, to_json
from convnext.recipes.schema import Classification
from convnext.runtime.evaluation import evaluate_batches
from convnext.runtime.precision import autocast
from convnext.runtime.world import World

THRESHOLDS = "thresholds.json"
"""The run's file of thresholds by weights ("raw", "ema"), of the last evaluation."""


class LabelTask(ClassificationTask):
    """Sigmoid outputs; the thresholds are those that the last evaluation chose, and go with the weights."""

    metric = "map"
    columns = (
        ("map", "mAP %", 2),
        ("map_micro", "micro mAP %", 2),
        ("f1", "F1 %", 2),
        ("f1_micro", "micro F1 %", 2),
        ("loss", "loss", 4),
    )
    counted = False
    folder: Path

    @classmethod
    def groups(cls, train: ImageDataset) -> np.ndarray:
        """An image counts for its rarest class; one without any for a class of its own."""
        return rarest(train.labels)

    @classmethod
    def weights_of(cls, recipe: Classification, train: ImageDataset) -> np.ndarray | None:
        if not recipe.class_weights:
            return None
        return positive_weights(recipe.class_weights, train.counts(), len(train), list(train.classes))

    def mix(self, batch: Batch) -> Batch:
        assert isinstance(batch.targets, Tensor)  # (B, K)
        images, targets = mixed(self.recipe.augment, batch.images, batch.targets)
        return replace(batch, images=images, targets=targets)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch.targets, Tensor)  # (B, K)
        logits = model(batch.images).float()
        targets = smoothed(batch.targets, self.recipe.augment.label_smoothing)
        loss = LOSSES[self.recipe.multi_label_loss](logits, targets, self.weights)
        return {"loss": loss}

    def evaluate(
        self, models: dict[str, nn.Module], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        found = label_logits(models, self.held_out(), self.val.labels, self.world, self.precision, interrupted)
        chosen = {which: best_thresholds(logits, self.val.labels) for which, logits in found.items()}
        if self.world.is_main:
            values = {which: thresholds.tolist() for which, thresholds in chosen.items()}
            replace_text(self.folder / THRESHOLDS, to_json(values) + "\n")
        return {which: LabelScores(logits, self.val.labels, chosen[which]).metrics() for which, logits in found.items()}

    def save_weights(self, model: nn.Module, path: Path, facts: dict) -> None:
        file, thresholds = self.folder / THRESHOLDS, [0.5] * len(self.classes)
        if file.exists():  # nothing may be held out; on disk, since a run that is continued may not evaluate again
            thresholds = json.loads(file.read_text(encoding="utf-8"))[facts["weights"]]
        super().save_weights(model, path, {**facts, "thresholds": thresholds})


@torch.inference_mode()
def label_logits(
    models: dict[str, nn.Module],
    batches: Iterable[Batch],
    truth: np.ndarray,
    world: World,
    precision: str = "fp32",
    interrupted: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
    """Logits (N, K) float32 of several models for all images, on every process.

    Args:
        batches: each image is in one batch of one process; every process has equally many batches.
        truth: (N, K).
        interrupted, progress: see `evaluate_batches`.

    Raises:
        Interrupted: `interrupted()` returned True.
        ImageError: an image of any process cannot be read.
    """
    found = {which: torch.zeros(truth.shape, device=world.device) for which in models}

    def step(batch: Batch) -> int:
        if batch.unreadable:
            raise unreadable(batch.unreadable[0])
        if batch.indices:
            batch = batch.to(world.device)
            for which, model in models.items():
                with autocast(precision, world.device):
                    logits = model(batch.images)
                found[which][batch.indices] = logits.float()
        return len(batch.indices)

    evaluate_batches(models, batches, step, world, interrupted, progress)
    return {which: world.sum(logits).cpu().numpy() for which, logits in found.items()}

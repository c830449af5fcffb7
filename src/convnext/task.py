"""What the tasks have in common towards the engine: the stream of batches, unreadable images, what goes into a file.

Below the task folders and above `weights`: it knows data and engine, and no model.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from convnext.data.loader import Batch, Samples, TrainSamples, collate, default_workers, train_loader
from convnext.data.sampler import TrainBatches
from convnext.errors import ConvNextError
from convnext.recipes.plan import Plan
from convnext.recipes.schema import DenseModel, Recipe
from convnext.runtime.precision import resolve_precision
from convnext.runtime.world import World
from convnext.seeding import seed_all
from convnext.weights.infer import meta_architecture
from convnext.weights.load import fill, read_checkpoint
from convnext.weights.save import save_weights


class DataTask(ABC):
    """A `convnext.train.loop.Task` on a dataset. Subclasses build `model` and say how to transform, lose and evaluate.

    Attributes:
        metric: the evaluation metric that "best" is about.
        columns: (metric, title, digits) of the table at the end of a run.
        preprocess: what evaluation does to a picture; saved with the weights.
        classes: names in the order of the model's outputs.
    """

    metric: ClassVar[str]
    columns: ClassVar[tuple[tuple[str, str, int], ...]]
    collate: Callable[[list], Batch] = staticmethod(collate)
    sort_by: np.ndarray | None = None
    model: nn.Module
    preprocess: object
    classes: list[str]

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        train: Samples,
        val: Samples,
        fingerprint: str,
        world: World,
        folder: Path,
        say: Callable[[str], None],
    ):
        """`folder` receives the list of unreadable images; `say` shows a line to a person."""
        self.plan, self.train, self.val, self.world, self.say = plan, train, val, world, say
        self._recipe = recipe
        self.fingerprint = fingerprint
        self.precision = resolve_precision(recipe.precision, world.device)
        workers = recipe.runtime.workers
        self.workers = default_workers(world.device, world.local_size) if workers is None else workers
        self.pin = world.device.type == "cuda"
        suffix = f"-rank{world.rank}" if world.size > 1 else ""
        self._unreadable_log = folder / f"unreadable{suffix}.jsonl"
        log = self._unreadable_log
        self._unreadable = {json.loads(line) for line in (log.read_text().splitlines() if log.exists() else [])}

    @abstractmethod
    def train_transform(self) -> Callable:
        """(image, target) -> (tensor, target), drawing from the global generators."""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named losses whose sum is trained on; a dense model computes its own from the targets."""
        return model(batch.images, batch.targets)

    def batches(self, start: int) -> Iterator[Batch]:
        plan, world = self.plan, self.world
        samples = TrainSamples(self.train, self.train_transform(), self._recipe.seed)
        order = TrainBatches(
            len(self.train), self._recipe.seed, plan.total_batch, plan.accumulation, plan.total_steps, start, world.rank,
            world.size, self.sort_by,
        )  # fmt: skip
        for batch in train_loader(samples, order, self.workers, self.pin, self.collate):
            if batch.unreadable:
                self._note_unreadable(batch.unreadable)
            yield batch.to(world.device)

    def sample_names(self, batch: Batch) -> list[str]:
        return [self.train.name(i) for i in batch.indices]

    def save_weights(self, model: nn.Module, path: Path, facts: dict) -> None:
        metadata = {
            "task": self._recipe.task,
            "classes": self.classes,
            "preprocess": asdict(self.preprocess),
            "data": self._recipe.data,
            "recipe": self._recipe.source,
            **facts,
        }
        save_weights(model, path, metadata=metadata)

    def _note_unreadable(self, messages: list[str]) -> None:
        for message in messages:
            if message not in self._unreadable:
                self._unreadable.add(message)
                self.say(f"[yellow]Left out: {message}[/]")
                with open(self._unreadable_log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(message) + "\n")
        if len(self._unreadable) > self._recipe.max_corrupt_share * len(self.train):
            raise ConvNextError(
                f"{len(self._unreadable)} of {len(self.train)} training images could not be read, more than the share of "
                f"{self._recipe.max_corrupt_share:g} that --max-corrupt-share allows. They are listed in "
                f"{self._unreadable_log}; `convnext data check {self._recipe.data}` examines all of them."
            )


def build_dense(
    build: Callable[..., nn.Module], options: DenseModel, num_classes: int, seed: int, say: Callable[[str], None]
) -> nn.Module:
    """A detector or segmenter as its recipe says: from random weights, those of a classifier for the backbone, or those of
    a whole model of the task, whose outputs are drawn anew where the classes are not as many."""
    seed_all(seed, "init")
    given = {key: value for key, value in asdict(options).items() if key != "weights"}
    model = build(given.pop("name"), num_classes=num_classes, **given)
    if options.weights:
        checkpoint = read_checkpoint(options.weights)
        whole = meta_architecture(checkpoint.tensors) is not None
        report = fill(model if whole else model.backbone, checkpoint, new_head=True)
        what = "" if whole else " for the backbone"
        say(
            f"Weights from {options.weights}{what}"
            + (", with new outputs for these classes." if report.new_head else ".")
        )
    return model


def on_device(model: nn.Module, world: World) -> nn.Module:
    """The model on this process's device; BatchNorm's statistics are those of all processes where there are several."""
    if world.size > 1 and world.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(world.device, memory_format=torch.channels_last)

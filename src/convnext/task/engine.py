"""The part of a training task that all tasks share: the stream of batches, unreadable images, the metadata of weights.

Below the task folders and above `weights`: it knows data and engine, and no model.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from convnext.data.balance import Resampled
from convnext.data.blocks import Blocks
from convnext.data.cache import ImageCache
from convnext.data.device import ToDevice
from convnext.data.loader import Batch, TrainSamples, collate, default_workers, train_loader
from convnext.data.regions import RegionTransform
from convnext.data.sampler import TrainBatches
from convnext.errors import ConvNextError, nearest
from convnext.files import cache_folder, replace_text
from convnext.recipes.plan import Plan
from convnext.recipes.schema import DenseModel, Recipe
from convnext.runtime.precision import resolve_precision
from convnext.runtime.world import World
from convnext.seeding import seed_all
from convnext.task.cache import open_cache, plan_cache
from convnext.weights.load import fill, read_checkpoint
from convnext.weights.save import save_weights


class DataTask(ABC):
    """A `convnext.engine.task.Task` on a dataset. Subclasses build `model` and define the transform, losses and evaluation.

    Attributes:
        metric: the evaluation metric that "best" is about: the class's, or the recipe's `best_by`.
        columns: (metric, title, digits) of the table at the end of a run.
        counted: True if the metric is a share of the images, which has a confidence interval.
        split_fields: fields of the recipe that decide which images are held out; saved with the weights.
        drawn: order of an epoch, where it is not a permutation of all images.
        preprocess: preprocessing of an image in evaluation; saved with the weights.
        classes: names in the order of the model's outputs.
    """

    metric: str
    columns: ClassVar[tuple[tuple[str, str, int], ...]]
    counted: ClassVar[bool] = False
    split_fields: ClassVar[tuple[str, ...]] = ("data", "val_share", "seed", "read")
    collate: Callable[[list], Batch] = staticmethod(collate)
    sort_by: np.ndarray | None = None
    drawn: Resampled | Blocks | None = None
    model: nn.Module
    preprocess: Any
    classes: list[str]

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        train: Any,
        val: Any,
        fingerprint: str,
        world: World,
        folder: Path,
        say: Callable[..., None],
    ):
        """`train` and `val` are datasets (`data.loader.Samples` at least); `folder` receives the list of unreadable images;
        `say(text, style=...)` prints a line."""
        self.plan, self.train, self.val, self.world, self.say = plan, train, val, world, say
        self._recipe = recipe
        if recipe.best_by is not None:
            self.metric = self._named_metric(recipe.best_by)
        self.fingerprint = fingerprint
        self.cache: ImageCache | None = None
        self.precision = resolve_precision(recipe.precision, world.device)
        workers = recipe.runtime.workers
        self.workers = default_workers(world.device, world.local_size) if workers is None else workers
        self.pin = world.device.type == "cuda"
        suffix = f"-rank{world.rank}" if world.size > 1 else ""
        self._unreadable_log = folder / f"unreadable{suffix}.jsonl"
        self._unreadable = _noted(self._unreadable_log)

    @property
    def validates(self) -> bool:
        """True if there are images to evaluate on."""
        return len(self.val) > 0

    @abstractmethod
    def train_transform(self) -> Callable | RegionTransform:
        """(image, target) -> (tensor, target), or a transform of part of an image; it draws from the global generators."""

    @abstractmethod
    def evaluate(
        self, models: dict[str, nn.Module], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        """Metrics of each model over the validation images; raises Interrupted when `interrupted()`."""

    @classmethod
    def check(cls, recipe: Any, train: Any) -> None:
        """Raise ConvNextError for options that these training images contradict; nothing is built or written."""
        if recipe.best_by is not None:
            cls._named_metric(recipe.best_by)

    @classmethod
    def warnings(cls, recipe: Any, train: Any) -> list[str]:
        """Sentences on what these training images make slow or poor, for before the run."""
        return []

    @classmethod
    def _named_metric(cls, name: str) -> str:
        known = [column for column, *_ in cls.columns]
        if name not in known:
            raise ConvNextError(
                f"There is no metric {name!r}.{nearest(name, known)} --best-by can be: {', '.join(known)}."
            )
        return name

    def mix(self, batch: Batch) -> Batch:
        """A batch after all that the host draws at random for it."""
        return batch

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named losses whose sum is trained on; a dense model computes its own from the targets."""
        return model(batch.images, batch.targets)

    def finish(self, batch: Batch) -> Batch:
        """Finish a training batch on the device; draws from no global generator."""
        return batch

    def batches(self, start: int) -> Iterator[Batch]:
        plan, world = self.plan, self.world
        samples = TrainSamples(self._images(), self.train_transform(), self._recipe.seed)
        order = TrainBatches(
            len(self.train), self._recipe.seed, plan.total_batch, plan.accumulation, plan.total_steps, start, world.rank,
            world.size, self.sort_by, self.drawn,
        )  # fmt: skip
        to_device = ToDevice(world.device, self.finish)
        for batch in train_loader(samples, order, self.workers, self.pin, self.collate):
            if batch.unreadable:
                self._note_unreadable(batch.unreadable)
            if self.cache and self.cache.full:
                self.say("No more images fit into the cache; the run goes on and decodes the others.", style="yellow")
                self.cache = None
            yield to_device(batch)

    def _images(self) -> Any:
        """The training images, through their cache where there is one."""
        if self._recipe.runtime.cache == "off":
            return self.train
        plan = plan_cache(self._recipe.runtime, self.train, self.fingerprint)
        images, self.cache = open_cache(plan, self.train, self.world)
        if self.cache is None:
            self.say(
                f"There is no room for the cache of images on the disk of {cache_folder()}: the run goes on without it, and "
                "decodes every image each time.",
                style="yellow",
            )
        return images

    def sample_names(self, batch: Batch) -> list[str]:
        return [self.train.name(i) for i in batch.indices]

    def save_weights(self, model: nn.Module, path: Path, facts: dict) -> None:
        metadata = {
            "task": self._recipe.task,
            "classes": self.classes,
            "preprocess": asdict(self.preprocess),
            "data": self._recipe.data,
            "split": {name: plain(getattr(self._recipe, name)) for name in self.split_fields}
            | {"fingerprint": self.fingerprint},
            "recipe": self._recipe.source,
            **facts,
        }
        save_weights(model, path, metadata=metadata)

    def _note_unreadable(self, messages: list[str]) -> None:
        for message in messages:
            if message not in self._unreadable:
                self._unreadable.add(message)
                self.say(f"Left out: {message}", style="yellow")
                with open(self._unreadable_log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(message) + "\n")
        if len(self._unreadable) > self._recipe.max_corrupt_share * len(self.train):
            raise ConvNextError(
                f"{len(self._unreadable)} of {len(self.train)} training images could not be read, more than the share of "
                f"{self._recipe.max_corrupt_share:g} that --max-corrupt-share allows. They are listed in "
                f"{self._unreadable_log}; `convnext data check {self._recipe.data}` examines all of them."
            )


def plain(value: Any) -> Any:
    """A field of a recipe as JSON values: of a group of options, those that are not the standard."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    standard = type(value)()
    return {key: each for key, each in asdict(value).items() if each != getattr(standard, key)}


def _noted(log: Path) -> set[str]:
    """Messages of earlier starts; a last line that a kill cut short is taken out of the file, its image comes again."""
    if not log.exists():
        return set()
    kept = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            kept.append(str(json.loads(line)))
    replace_text(log, "".join(f"{json.dumps(message)}\n" for message in kept))
    return set(kept)


def build_dense(
    build: Callable[..., nn.Module],
    identify: Callable[[Mapping[str, Tensor]], dict | None],
    options: DenseModel,
    num_classes: int,
    seed: int,
    say: Callable[..., None],
    **more: Any,
) -> nn.Module:
    """A model around a backbone as its recipe says: from random weights, those of a classifier for the backbone, or those
    of a whole model of the task, whose output layers are re-initialised if the number of classes differs."""
    seed_all(seed, "init")
    given = {key: value for key, value in asdict(options).items() if key != "weights"}
    model: Any = build(given.pop("name"), num_classes=num_classes, **given, **more)
    if options.weights:
        checkpoint = read_checkpoint(options.weights)
        whole = identify(checkpoint.tensors) is not None
        report = fill(model if whole else model.backbone, checkpoint, new_head=True)
        what = "" if whole else " for the backbone"
        say(
            f"Weights from {options.weights}{what}"
            + (": the number of classes differs, so the output layers are new." if report.new_head else ".")
            + (f" {report.adapted}" if report.adapted else "")
        )
    return model


def on_device(model: nn.Module, world: World) -> nn.Module:
    """The model on this process's device; BatchNorm's statistics are those of all processes where there are several."""
    if world.size > 1 and world.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(memory_format=torch.channels_last)
    return model.to(world.device)

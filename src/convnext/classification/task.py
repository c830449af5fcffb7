"""The classification task as the engine sees it: model, batches, loss, evaluation, weights with all that they need."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from convnext.classification.evaluate import evaluate
from convnext.data.dataset import ImageDataset
from convnext.data.loader import Batch, EvalSamples, TrainSamples, default_workers, eval_loader, train_loader
from convnext.data.mixup import make_mixup
from convnext.data.open import fingerprint, open_dataset
from convnext.data.sampler import TrainBatches
from convnext.data.transforms import Preprocess, eval_transform, train_transform
from convnext.errors import ConvNextError
from convnext.models import build, options
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Recipe
from convnext.seeding import seed_all
from convnext.train.distributed import World
from convnext.train.step import resolve_precision
from convnext.weights.load import load_weights
from convnext.weights.save import save_weights


def open_data(recipe: Recipe) -> tuple[ImageDataset, ImageDataset]:
    """Training and validation images of a recipe."""
    if not recipe.data:
        raise ConvNextError(
            "This recipe needs images: give --data with a folder of images (train/ and val/, or one folder per class), a "
            "folder of parquet files, `digits`, or `torchvision:NAME`."
        )
    return open_dataset(recipe.data, recipe.val_share, recipe.seed)


class ClassificationTask:
    """See `convnext.train.loop.Task`. `folder` receives the list of unreadable images."""

    metric = "top1"

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        train: ImageDataset,
        val: ImageDataset,
        world: World,
        folder: Path,
        say: Callable[[str], None],
    ):
        self.recipe, self.plan, self.train, self.val, self.world, self.say = recipe, plan, train, val, world, say
        self.fingerprint = fingerprint(train)
        self.preprocess = Preprocess.for_size(recipe.image_size)
        self.classes = list(train.classes)
        self.mixup = make_mixup(recipe.augment, len(self.classes))
        self.model = self._build().to(world.device)
        workers = recipe.runtime.workers
        self.workers = default_workers(world.device, world.local_size) if workers is None else workers
        self.pin = world.device.type == "cuda"
        suffix = f"-rank{world.rank}" if world.size > 1 else ""
        self.unreadable_log = folder / f"unreadable{suffix}.jsonl"
        self.unreadable = {json.loads(line) for line in self._logged_lines()}

    def _build(self) -> nn.Module:
        recipe = self.recipe
        known = options(recipe.model.name)
        wanted = asdict(replace(recipe.model, drop_path_rate=self.plan.drop_path_rate))
        for key, standard in (("stem_stride", 4), ("width_mult", 1.0), ("depth_mult", 1.0)):
            if key not in known and wanted[key] != standard:
                raise ConvNextError(
                    f"{recipe.model.name} has no option --model.{key.replace('_', '-')}: leave it at {standard}."
                )
        given = {key: value for key, value in wanted.items() if key in known}
        seed_all(recipe.seed, "init")
        model = build(recipe.model.name, num_classes=len(self.classes), **given)
        if recipe.model.weights:
            report = load_weights(model, recipe.model.weights, new_head=True)
            self.say(f"Weights from {recipe.model.weights}" + (": with a new classifier." if report.new_head else "."))
        return model

    def _logged_lines(self) -> list[str]:
        return self.unreadable_log.read_text().splitlines() if self.unreadable_log.exists() else []

    # -- what the engine calls

    def batches(self, start: int) -> Iterator[Batch]:
        plan, recipe, world = self.plan, self.recipe, self.world
        samples = TrainSamples(self.train, train_transform(self.preprocess, recipe.augment), recipe.seed)
        order = TrainBatches(
            len(self.train), recipe.seed, plan.total_batch, plan.accumulation, plan.total_steps, start, world.rank, world.size
        )  # fmt: skip
        for batch in train_loader(samples, order, self.workers, self.pin):
            if batch.unreadable:
                self._note_unreadable(batch.unreadable)
            yield batch.to(world.device)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.mixup:
            images, targets = self.mixup(batch.images, batch.labels)
            return F.cross_entropy(model(images), targets)
        return F.cross_entropy(model(batch.images), batch.labels, label_smoothing=self.recipe.augment.label_smoothing)

    def sample_names(self, batch: Batch) -> list[str]:
        return [self.train.name(i) for i in batch.indices]

    def evaluate(
        self, models: dict[str, nn.Module], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        samples = EvalSamples(self.val, eval_transform(self.preprocess))
        batch = self.recipe.runtime.eval_batch or 2 * self.plan.device_batch
        world = self.world
        loader = eval_loader(samples, batch, self.workers, self.pin, world.rank, world.size)
        precision = resolve_precision(self.recipe.precision, world.device)
        results = evaluate(models, loader, len(self.classes), world, precision, interrupted)
        return {label: result.metrics() for label, result in results.items()}

    def save_weights(self, model: nn.Module, path: Path, facts: dict) -> None:
        metadata = {
            "task": "classification",
            "classes": self.classes,
            "preprocess": self.preprocess.to_dict(),
            "data": self.recipe.data,
            "recipe": self.recipe.source,
            **facts,
        }
        save_weights(model, path, metadata=metadata)

    def _note_unreadable(self, messages: list[str]) -> None:
        for message in messages:
            if message not in self.unreadable:
                self.unreadable.add(message)
                self.say(f"[yellow]Left out: {message}[/]")
                with open(self.unreadable_log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(message) + "\n")
        if len(self.unreadable) > self.recipe.max_corrupt_share * len(self.train):
            raise ConvNextError(
                f"{len(self.unreadable)} of {len(self.train)} training images could not be read, more than the share of "
                f"{self.recipe.max_corrupt_share:g} that --max-corrupt-share allows. They are listed in {self.unreadable_log}; "
                f"`convnext data check {self.recipe.data}` examines all of them."
            )

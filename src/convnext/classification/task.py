"""The classification task as the engine sees it: model, batches, losses, evaluation."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.classification.augment import Finish, TrainTransform, collate_augmented
from convnext.classification.dataset import ImageDataset
from convnext.classification.evaluate import evaluate
from convnext.classification.mixup import make_mixup
from convnext.classification.open import fingerprint
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.classification.weights import class_weights
from convnext.data.balance import POWERS, Resampled
from convnext.data.blocks import Blocks
from convnext.data.loader import Batch, EvalSamples, eval_loader
from convnext.data.sampler import epoch_generator
from convnext.errors import ConvNextError
from convnext.models import build, options
from convnext.models.recompute import recompute_hidden
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Classification
from convnext.runtime.world import World
from convnext.seeding import seed_all
from convnext.task.engine import DataTask
from convnext.weights.load import load_weights


class ClassificationTask(DataTask):
    metric = "top1"
    columns = (("top1", "top-1 %", 2), ("top5", "top-5 %", 2), ("balanced", "balanced %", 2), ("loss", "loss", 4))
    counted = True
    split_fields = ("data", "val", "val_share", "seed", "read", "upright")
    collate = staticmethod(collate_augmented)

    def __init__(
        self,
        recipe: Classification,
        plan: Plan,
        train: ImageDataset,
        val: ImageDataset,
        world: World,
        folder: Path,
        say: Callable[..., None],
    ):
        super().__init__(recipe, plan, train, val, fingerprint(train), world, folder, say)
        self.recipe, self.folder = recipe, folder
        self.preprocess = Preprocess.for_size(recipe.image_size)
        self.classes = list(train.classes)
        weights = self.weights_of(recipe, train)
        self.weights = None if weights is None else torch.from_numpy(weights).to(world.device)
        self.drawn = _drawn(recipe, train, self.groups)
        self.mixup = make_mixup(recipe.augment, len(self.classes))
        self.model = self._build().to(world.device)
        recompute_hidden(self.model, recipe.runtime.recompute_stages)

    @classmethod
    def check(cls, recipe: Classification, train: ImageDataset) -> None:
        super().check(recipe, train)
        cls.weights_of(recipe, train)
        _drawn(recipe, train, cls.groups)

    @classmethod
    def warnings(cls, recipe: Classification, train: ImageDataset) -> list[str]:
        advice = train.reading_advice(recipe.data) if recipe.order == "full" else ""
        return [*super().warnings(recipe, train), *filter(None, [advice])]

    @classmethod
    def groups(cls, train: ImageDataset) -> np.ndarray:
        """The class (N,) that each image counts for in `--sampling`."""
        return train.labels

    @classmethod
    def weights_of(cls, recipe: Classification, train: ImageDataset) -> np.ndarray | None:
        """Weights (K,) of the classes in the loss, float32; None for equal ones."""
        if not recipe.class_weights:
            return None
        return class_weights(recipe.class_weights, train.counts(), list(train.classes))

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
            self.say(
                f"Weights from {recipe.model.weights}"
                + (": the number of classes differs, so the classifier is new." if report.new_head else ".")
                + (f" {report.adapted}" if report.adapted else "")
            )
        return model

    def batches(self, start: int) -> Iterator[Batch]:
        ahead = None
        if (starts := self.train.blocks()) is not None:
            shards = np.arange(len(starts) - 1)
            if isinstance(self.drawn, Blocks):
                epoch = start // self.plan.steps_per_epoch
                shards = np.concatenate(list(self.drawn.windows(epoch_generator(self.recipe.seed, epoch))))
            ahead = self.train.read_ahead(shards)
        try:
            yield from super().batches(start)
        finally:
            if ahead:
                ahead.kill()
                ahead.communicate()

    def train_transform(self) -> TrainTransform:
        return TrainTransform(self.preprocess, self.recipe.augment)

    def finish(self, batch: Batch) -> Batch:
        assert batch.erase is not None
        return replace(batch, images=Finish(self.preprocess)(batch.images, batch.erase), erase=None)

    def mix(self, batch: Batch) -> Batch:
        if not self.mixup:
            return batch
        assert isinstance(batch.targets, Tensor)  # labels (B,)
        images, targets = self.mixup(batch.images, batch.targets)
        return replace(batch, images=images, targets=targets)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(batch.targets, Tensor)  # labels (B,), or (B, K) that were mixed
        targets = batch.targets
        smoothing = 0.0 if self.mixup else self.recipe.augment.label_smoothing  # it is in mixed targets
        logits = model(batch.images)
        if self.weights is None:
            return {"loss": F.cross_entropy(logits, targets, label_smoothing=smoothing)}
        # over the number of images, not over the sum of their weights, so that micro-batches and processes add up
        total = F.cross_entropy(logits, targets, self.weights, reduction="sum", label_smoothing=smoothing)
        return {"loss": total / len(targets)}

    def evaluate(
        self, models: dict[str, nn.Module], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        results = evaluate(models, self.held_out(), len(self.classes), self.world, self.precision, interrupted)
        return {label: result.metrics() for label, result in results.items()}

    def held_out(self) -> Iterable[Batch]:
        """This process's batches of the held-out images."""
        samples = EvalSamples(self.val, eval_transform(self.preprocess))
        batch = self.recipe.runtime.eval_batch or 2 * self.plan.device_batch
        return eval_loader(samples, batch, self.workers, self.pin, self.world.rank, self.world.size)


def _drawn(recipe: Classification, train: ImageDataset, groups: Callable) -> Resampled | Blocks | None:
    """The order of an epoch, where it is not a permutation of all images, of which each counts for one of its `groups`.

    Raises:
        ConvNextError: the images are not stored in blocks, or are to be repeated as well.
    """
    if recipe.order == "full":
        return None if recipe.sampling == "natural" else Resampled(groups(train), POWERS[recipe.sampling])
    if recipe.sampling != "natural":
        raise ConvNextError("--order block reads every image once, and --sampling repeats some. Leave one of them out.")
    starts = train.blocks()
    if starts is None:
        raise ConvNextError(
            f"--order block is for images in shards or parquet files, and those of {recipe.data} are not. Leave it out, or "
            f"write shards: convnext data shard {recipe.data} OUT"
        )
    return Blocks(starts, recipe.order_window)

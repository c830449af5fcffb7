"""The segmentation task as the engine sees it: model, batches, losses, evaluation."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from convnext.data.pixels import DensePreprocess
from convnext.models.recompute import recompute_hidden
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Segmentation
from convnext.runtime.world import World
from convnext.segmentation import names
from convnext.segmentation.masks import MaskImages
from convnext.segmentation.miou import evaluate
from convnext.segmentation.segmenter import build
from convnext.segmentation.transforms import TrainTransform
from convnext.task.engine import DataTask, build_dense, on_device


class SegmentationTask(DataTask):
    metric = "miou"
    split_fields = ("data", "val_share", "seed", "read", "reduce_zero_label")
    columns = (("miou", "mIoU %", 2), ("macc", "class accuracy %", 2), ("aacc", "pixel accuracy %", 2))

    def __init__(
        self,
        recipe: Segmentation,
        plan: Plan,
        train: MaskImages,
        val: MaskImages,
        world: World,
        folder: Path,
        say: Callable[..., None],
    ):
        super().__init__(recipe, plan, train, val, train.fingerprint(), world, folder, say)
        self.recipe = recipe
        augment = recipe.augment
        self.preprocess = DensePreprocess(augment.short, augment.long, crop=augment.crop)
        self.classes = list(train.classes)
        self.model = on_device(
            build_dense(build, names.identify, recipe.model, len(self.classes), recipe.seed, say), world
        )
        recompute_hidden(self.model, recipe.runtime.recompute_stages)

    def train_transform(self) -> TrainTransform:
        return TrainTransform.of(self.recipe.augment)

    def evaluate(
        self, models: dict[str, nn.Module], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        results = evaluate(
            models,
            self.val,
            self.preprocess,
            self.world,
            self.precision,
            self.recipe.test_mode,
            interrupted,
            crop=self.preprocess.crop,
        )
        return {label: result.metrics() for label, result in results.items()}

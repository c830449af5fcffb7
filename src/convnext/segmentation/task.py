"""The segmentation task as the engine sees it: model, batches, losses, evaluation."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from convnext.data.pixels import DensePreprocess
from convnext.errors import ConvNextError
from convnext.models.recompute import recompute_hidden
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Segmentation
from convnext.runtime.world import World
from convnext.segmentation.masks import MaskImages, open_masks
from convnext.segmentation.miou import evaluate
from convnext.segmentation.segmenter import build
from convnext.segmentation.transforms import TrainTransform
from convnext.task import DataTask, build_dense, on_device


def open_data(recipe: Segmentation) -> tuple[MaskImages, MaskImages]:
    """Training and validation images of a recipe."""
    if not recipe.data:
        raise ConvNextError(
            "This recipe needs images with a label for each pixel: give --data with a folder in ADE20K's layout, or one "
            "with `images` and `masks` (label PNGs of the same names) and a `classes.txt`."
        )
    return open_masks(recipe.data, recipe.val_share, recipe.seed, recipe.reduce_zero_label)


class SegmentationTask(DataTask):
    metric = "miou"
    columns = (("miou", "mIoU %", 2), ("macc", "class accuracy %", 2), ("aacc", "pixel accuracy %", 2))

    def __init__(
        self,
        recipe: Segmentation,
        plan: Plan,
        train: MaskImages,
        val: MaskImages,
        world: World,
        folder: Path,
        say: Callable[[str], None],
    ):
        super().__init__(recipe, plan, train, val, train.fingerprint(), world, folder, say)
        self.recipe = recipe
        augment = recipe.augment
        self.preprocess = DensePreprocess(augment.short, augment.long, crop=augment.crop)
        self.classes = list(train.classes)
        self.model = on_device(build_dense(build, recipe.model, len(self.classes), recipe.seed, say), world)
        recompute_hidden(self.model, recipe.runtime.recompute_stages)

    def train_transform(self) -> TrainTransform:
        a = self.recipe.augment
        return TrainTransform(a.short, a.long, a.scale, a.crop, a.max_share, a.hflip, a.photometric)

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

"""The detection task as the engine sees it: model, batches, losses, evaluation."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from convnext.data.loader import collate_padded
from convnext.data.pixels import DensePreprocess
from convnext.detection.coco import CocoImages, open_coco
from convnext.detection.detector import build
from convnext.detection.evaluate import evaluate
from convnext.detection.transforms import TrainTransform
from convnext.errors import ConvNextError
from convnext.models.recompute import recompute_hidden
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Detection
from convnext.runtime.world import World
from convnext.task import DataTask, build_dense, on_device


def open_data(recipe: Detection) -> tuple[CocoImages, CocoImages]:
    """Training and validation images of a recipe."""
    if not recipe.data:
        raise ConvNextError(
            "This recipe needs images with boxes and masks: give --data with a folder in COCO's layout (`annotations/*.json` "
            "and the images)."
        )
    return open_coco(recipe.data, recipe.val_share, recipe.seed)


class DetectionTask(DataTask):
    metric = "box_ap"
    columns = (
        ("box_ap", "box AP", 2),
        ("box_ap50", "box AP50", 2),
        ("mask_ap", "mask AP", 2),
        ("mask_ap50", "mask AP50", 2),
    )
    collate = staticmethod(collate_padded)

    def __init__(
        self,
        recipe: Detection,
        plan: Plan,
        train: CocoImages,
        val: CocoImages,
        world: World,
        folder: Path,
        say: Callable[[str], None],
    ):
        super().__init__(recipe, plan, train, val, train.fingerprint(), world, folder, say)
        self.recipe = recipe
        self.preprocess = DensePreprocess(recipe.test_short, recipe.test_long)
        self.classes = list(train.classes)
        self.sort_by = train.aspect_groups()
        model = build_dense(build, recipe.model, len(self.classes), recipe.seed, say)
        model.rpn_samples, model.roi_samples = recipe.rpn_samples, recipe.roi_samples
        self.model = on_device(model, world)
        recompute_hidden(self.model, recipe.runtime.recompute_stages)

    def train_transform(self) -> TrainTransform:
        a = self.recipe.augment
        return TrainTransform(short_sides=a.short_sides, long=a.long, hflip=a.hflip, crop=a.random_crop)

    def evaluate(
        self, models: dict[str, nn.Module], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        """By the faster evaluator; `convnext evaluate` gives the number to report, by pycocotools."""
        results = evaluate(
            models,
            self.val,
            self.preprocess,
            self.world,
            self.precision,
            batch=self.recipe.runtime.eval_batch or 1,
            workers=self.workers,
            interrupted=interrupted,
            reference=False,
        )
        return {label: result.metrics() for label, result in results.items()}

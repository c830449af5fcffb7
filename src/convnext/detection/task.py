"""The detection task as the engine sees it: model, batches, losses, evaluation."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from convnext.data.loader import collate_padded
from convnext.data.pixels import DensePreprocess
from convnext.detection import names
from convnext.detection.coco import CocoImages
from convnext.detection.detector import build
from convnext.detection.evaluate import evaluate
from convnext.detection.transforms import TrainTransform
from convnext.models.recompute import recompute_hidden
from convnext.recipes.plan import Plan
from convnext.recipes.schema import Detection
from convnext.runtime.world import World
from convnext.task.engine import DataTask, build_dense, on_device


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
        say: Callable[..., None],
    ):
        super().__init__(recipe, plan, train, val, train.fingerprint(), world, folder, say)
        self.recipe = recipe
        self.preprocess = DensePreprocess(recipe.test_short, recipe.test_long)
        self.classes = list(train.classes)
        self.sort_by = train.aspect_groups()
        samples = {"rpn_samples": recipe.rpn_samples, "roi_samples": recipe.roi_samples}
        model = build_dense(build, names.identify, recipe.model, len(self.classes), recipe.seed, say, **samples)
        self.model = on_device(model, world)
        recompute_hidden(self.model, recipe.runtime.recompute_stages)

    def train_transform(self) -> TrainTransform:
        return TrainTransform.of(self.recipe.augment)

    def evaluate(
        self, models: dict[str, nn.Module], interrupted: Callable[[], bool] = lambda: False
    ) -> dict[str, dict[str, float]]:
        """AP by the faster evaluator; `convnext evaluate` gives the number to report, by pycocotools."""
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

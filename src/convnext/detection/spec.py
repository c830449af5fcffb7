"""Object detection and instance segmentation: the place that knows model, data and engine together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext.data.conventions import PAD_MULTIPLE
from convnext.errors import ConvNextError
from convnext.recipes.ranges import SHARE, ranged
from convnext.recipes.schema import Detection as Recipe
from convnext.task.spec import NOT_FINITE, Loaded, Prepared, Printed, TaskSpec, failure

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from convnext.detection.coco import CocoImages
    from convnext.detection.results import Detection
    from convnext.detection.task import DetectionTask
    from convnext.runtime.world import World
    from convnext.task.compare import Compared, Tolerance
    from convnext.task.examples import TrainingViews
    from convnext.task.exported import Exported, Metadata
    from convnext.task.inputs import Input
    from convnext.task.results import Evaluation, Failure, Prediction

PRECISIONS = {
    "onnx": ("fp32", "fp16"),
    "openvino": ("fp32", "fp16", "bf16"),
    "torch-export": ("fp32",),
    "convnext-int8": ("int8",),
}
"""Formats and precisions in which detectors are exported."""
RESULTS = "detections.json"
SLACK = 0.002  # by which counted MACs differ from Table 3


@dataclass(frozen=True)
class EvaluateOptions:
    """Detectors."""

    fast: bool = False
    """AP by faster-coco-eval (equal within 1e-3) in place of pycocotools, the number to report."""


@dataclass(frozen=True)
class PredictOptions:
    """Detectors."""

    threshold: float = ranged(0.3, **SHARE)
    """Least score of the objects that are drawn and counted; the JSON has all from 0.05."""
    masks: bool = True
    """Draw the masks."""


class DetectionSpec(TaskSpec):
    """Images with boxes and masks."""

    name = "detection"
    noun = "detector"
    doing = "detecting"
    recipe = Recipe
    evaluate_options = EvaluateOptions
    predict_options = PredictOptions
    batch = 1
    inputs = ("images", "size")
    outputs = ("boxes", "scores", "labels", "masks")
    pads = True
    size_multiple = PAD_MULTIPLE
    compared_images = 10
    other_sizes = "Export without --image-size for images of any size."
    pipeline_tag = "object-detection"
    counting = "Detectors are counted with 1000 boxes and 100 masks, without RoIAlign and suppression (Table 3)."
    default_out = "predictions"

    # -- models

    def models(self) -> Sequence[str]:
        from convnext.detection import names

        return list(names.SIZES)

    def build(self, name: str, **options: Any) -> nn.Module:
        from convnext.detection import detector  # torchvision takes seconds

        return detector.build(name, **options)

    def identify(self, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        from convnext.detection import names

        return names.identify(tensors)

    def pixels(self, name: str) -> tuple[tuple[int, int], ...]:
        return ((800, 1280),)

    def macs_forward(self, model: Any, x: Tensor) -> None:
        model.macs_forward(x)

    def printed(self, name: str, height: int) -> Printed | None:
        from convnext import paper

        architecture, _, size = name.partition("_convnext_")
        method = architecture.partition("_mask")[0].removesuffix("_rcnn")
        row = paper.lookup(paper.TABLE3, backbone=f"convnext_{size}", method=method)
        return Printed(gmacs=row.gflops, slack=SLACK, fps=row.fps) if row else None

    def primed(self, module: nn.Module) -> nn.Module:
        """With a sure class for every proposal, so that a hundred objects are suppressed, masked and pasted."""
        from convnext.detection.priming import prime

        return prime(module)

    def example_targets(self, x: Tensor) -> list[dict[str, Tensor]]:
        from convnext.detection.priming import example_targets

        return example_targets(x)

    # -- data and training

    def open_data(self, recipe: Recipe) -> tuple[CocoImages, CocoImages]:
        from convnext.detection.open import open_objects

        if not recipe.data:
            raise ConvNextError(
                "This recipe needs images with boxes: give --data with a folder in COCO's layout (`annotations/*.json` and the "
                "images), YOLO's (`data.yaml`), Pascal VOC's or LabelMe's, or Hugging Face datasets with a column of objects."
            )
        return open_objects(recipe.data, recipe.val_share, recipe.seed, recipe.read)

    def open_split(self, recipe: Recipe, split: str) -> CocoImages:
        from convnext.detection.open import open_objects_split

        if split == "all":
            return super().open_split(recipe, split)
        part = "train" if split == "train" else "val"
        return open_objects_split(recipe.data, part, recipe.val_share, recipe.seed, recipe.read)

    def open_foreign(self, recipe: Recipe, loaded: Loaded) -> CocoImages:
        from convnext.detection.open import open_objects_for_evaluation

        images = open_objects_for_evaluation(recipe.data, loaded.classes, recipe.read) or self.open_split(recipe, "val")
        if list(images.classes) != loaded.classes:
            raise ConvNextError(
                f"{recipe.data} has {len(images.classes)} classes ({', '.join(images.classes[:3])}, ..) and the model "
                f"{len(loaded.classes)} ({', '.join(loaded.classes[:3])}, ..); they must be the same, in the same order."
            )
        return images

    def file(self, samples: CocoImages, i: int) -> Path | None:
        return samples.file(i)

    def recognises(self, data: str) -> bool:
        from convnext.data.formats import find_format
        from convnext.recipes.reading import Reading

        root = Path(data).expanduser()
        return root.exists() and find_format(root, Reading()).has_objects(root)

    def check_data(self, data: str, recipe: Recipe, out: Path) -> int:
        from convnext.detection.check_report import report_check

        return report_check(data, recipe, out)

    def engine(self, train: CocoImages) -> type[DetectionTask]:
        from convnext.detection.task import DetectionTask

        return DetectionTask

    def training_views(self, recipe: Recipe, train: CocoImages) -> TrainingViews:
        from convnext.detection.examples import training_views

        return training_views(recipe, train)

    def geometry(self, recipe: Recipe) -> tuple[str, str]:
        sides, test = recipe.augment.short_sides, recipe.test_short
        trained = f"{min(sides)} to {max(sides)}" if len(set(sides)) > 1 else f"{sides[0]}"
        return f"{test}", f"short side {trained} px" + (f", {test} in evaluation" if trained != f"{test}" else "")

    # -- a trained model

    def load(self, module: nn.Module, metadata: Mapping[str, Any], source: str) -> Loaded:
        from convnext.data.pixels import DensePreprocess
        from convnext.detection.categories import class_names

        stated = metadata.get("preprocess")
        standard = Recipe()
        preprocess = (
            DensePreprocess.from_dict(stated) if stated else DensePreprocess(standard.test_short, standard.test_long)
        )
        k: Any = module.num_classes
        classes = class_names(metadata.get("classes"), k, source)
        return Loaded(module, classes, classes, preprocess, source, metadata)

    def resized(self, loaded: Loaded, image_size: int) -> Loaded:
        if image_size % PAD_MULTIPLE or image_size < 2 * PAD_MULTIPLE:
            raise ConvNextError(
                f"--image-size is {image_size}; a detector's is a multiple of {PAD_MULTIPLE}, from {2 * PAD_MULTIPLE}."
            )
        return replace(loaded, preprocess=replace(loaded.preprocess, short=image_size, long=image_size))

    def size_text(self, loaded: Loaded) -> str:
        return f"short side {loaded.preprocess.short} px"

    def prepare(self, loaded: Loaded, source: Input, options: Any) -> Prepared:
        """Images are alike that have the same size after padding."""
        from convnext.data.pixels import padded_size

        image = source.image()
        x = loaded.preprocess(image)
        return Prepared(source, options, x, (image.height, image.width), padded_size(x.shape[-2:]))

    def compute(self, loaded: Loaded, batch: Sequence[Prepared], precision: str) -> Sequence[dict[str, Tensor]]:
        """Boxes, scores, labels and masks at each image's own size."""
        import torch

        from convnext.data.pixels import pad_to_multiple
        from convnext.runtime.precision import autocast

        device = next(loaded.module.parameters()).device
        predict: Any = loaded.module.predict
        with torch.inference_mode(), autocast(precision, device):
            return predict(
                pad_to_multiple([each.x for each in batch]).to(device),
                image_sizes=[tuple(each.x.shape[-2:]) for each in batch],
                output_sizes=[each.size for each in batch],
            )

    def finish(self, loaded: Loaded, prepared: Prepared, output: dict[str, Tensor]) -> Detection | Failure:
        import numpy as np
        import torch

        from convnext.detection.categories import category_ids
        from convnext.detection.evaluate import to_coco
        from convnext.detection.results import Detection
        from convnext.extras import require

        if not all(bool(torch.isfinite(output[key]).all()) for key in ("boxes", "scores")):
            return failure(prepared.source, NOT_FINITE)
        options: PredictOptions = prepared.options
        encode = require("pycocotools.mask", "detection").encode
        coco = to_coco(output, 0, np.asarray(category_ids(loaded.classes)), encode)
        arrays = {key: value.cpu().numpy() for key, value in output.items()}
        parts = (arrays["boxes"], arrays["scores"], arrays["labels"], arrays["masks"])
        return Detection(prepared.source, *parts, coco, loaded.classes, options.threshold, options.masks)

    def collected(self) -> tuple[str, ...]:
        return (RESULTS,)

    def write(self, answers: Sequence[Prediction | Failure], loaded: Loaded, folder: Path) -> list[Path]:
        from convnext.detection.results import Detection
        from convnext.files import replace_text

        found = [
            {"file_name": answer.name, **each, "image_id": number}
            for number, answer in enumerate(answers)
            if isinstance(answer, Detection)
            for each in answer.coco
        ]
        replace_text(folder / RESULTS, json.dumps(found))
        return [folder / RESULTS]

    def evaluate(
        self,
        models: dict[str, Loaded],
        samples: CocoImages,
        data: str,
        world: World,
        options: EvaluateOptions,
        precision: str,
        batch: int | None = None,
        workers: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Evaluation:
        from convnext.detection.evaluate import evaluate
        from convnext.detection.tables import evaluation
        from convnext.runtime.precision import described

        first = next(iter(models.values()))
        modules = {which: loaded.module for which, loaded in models.items()}
        results = evaluate(
            modules,
            samples,
            first.preprocess,
            world,
            precision,
            batch or self.batch,
            workers,
            progress=progress,
            reference=not options.fast,
        )
        tool = "faster-coco-eval" if options.fast else "pycocotools"
        return evaluation(models, results, data, described(precision, world.device), samples, tool)

    # -- export

    def precisions(self, format: str) -> tuple[str, ...]:
        return PRECISIONS.get(format, ())

    def axes(self, free: set[str] | None, batch: int, image_size: int | None) -> tuple[int | None, bool]:
        square = image_size is not None
        if batch != 1 or free not in (None, set() if square else {"size"}):
            raise ConvNextError(
                "A detector is exported for one image a call, of any size, or with --image-size for one that is padded to a "
                "square of that side: leave out --dynamic and --batch."
            )
        return 1, not square

    def side(self, loaded: Loaded) -> int:
        return loaded.preprocess.short

    def smallest_side(self, module: nn.Module) -> int:
        return 3 * PAD_MULTIPLE  # two positions of the coarsest level

    def graph(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        from convnext.detection.graph import DetectorGraph
        from convnext.task.graph import folded_around

        plain: Any = folded_around(module)
        return DetectorGraph(plain).eval()

    def finished(self, program: ExportedProgram) -> ExportedProgram:
        """Without torchvision's assertion that suppression leaves at least two boxes."""
        import torch

        for node in list(program.graph.nodes):
            if node.target is torch.ops.aten._assert_scalar.default:
                program.graph.erase_node(node)
        return program

    def exported(self, file: Path, metadata: Metadata, run: Callable[..., Sequence[Tensor]]) -> Exported:
        from convnext.detection.exported import ExportedDetector

        return ExportedDetector(file, metadata, run, self.other_sizes)

    def views(self, loaded: Loaded, metadata: Metadata) -> list[Callable[[Image], Tensor]]:
        return [loaded.preprocess]

    def tolerance(self, precision: str) -> Tolerance:
        """99.5 % of the objects that either finds, scores within 1e-3; 90 % in precisions below fp32."""
        from convnext.task.compare import Tolerance

        return Tolerance(1e-3, 99.5) if precision == "fp32" else Tolerance(None, 90.0)

    def compare(
        self,
        loaded: Loaded,
        exported: Exported,
        names: Sequence[str],
        views: Sequence[Callable[[int], Tensor]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Compared:
        from convnext.detection.compare import compare_detectors

        size = exported.metadata.size
        multiple = size[0] if size else PAD_MULTIPLE
        return compare_detectors(loaded.module, exported, names, views[0], loaded.classes, multiple, progress)


SPEC = DetectionSpec()

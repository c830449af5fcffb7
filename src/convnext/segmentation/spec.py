"""Semantic segmentation: the place that knows model, data and engine together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convnext.errors import ConvNextError
from convnext.recipes.ranges import SHARE, ranged
from convnext.recipes.schema import Segmentation as Recipe
from convnext.task.spec import Loaded, Prepared, Printed, TaskSpec

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from convnext.runtime.world import World
    from convnext.segmentation.masks import MaskImages
    from convnext.segmentation.miou import Result
    from convnext.segmentation.results import Segmentation
    from convnext.segmentation.task import SegmentationTask
    from convnext.task.compare import Tolerance
    from convnext.task.examples import TrainingViews
    from convnext.task.exported import Metadata
    from convnext.task.inputs import Input
    from convnext.task.results import Evaluation

SLACK = 0.002  # by which counted MACs differ from Table 4
Mode = Literal["slide", "whole", "multi-scale"]


@dataclass(frozen=True)
class EvaluateOptions:
    """Segmenters."""

    mode: Mode = "slide"
    """slide: windows over the image (Table 7); whole: all of it at once; multi-scale: six scales and their mirror images
    (Table 4)."""
    reduce_zero_label: bool | None = None
    """True if label 0 means "no label" and the others count from 1; None: as in the run, or by the data's layout."""


@dataclass(frozen=True)
class PredictOptions:
    """Segmenters."""

    mode: Mode = "slide"
    """As for `evaluate`."""
    alpha: float = ranged(0.6, **SHARE)
    """Strength of the colours in the overlay, 0 to 1."""


class SegmentationSpec(TaskSpec):
    """Images with a label for each pixel."""

    name = "segmentation"
    noun = "segmenter"
    doing = "segmenting"
    recipe = Recipe
    evaluate_options = EvaluateOptions
    predict_options = PredictOptions
    batch = 1
    pads = True
    other_sizes = "Larger images are cut into windows of that size first."
    pipeline_tag = "image-segmentation"
    counting = "Segmenters are counted without the auxiliary head, which is in the parameters (Table 4)."
    default_out = "predictions"

    # -- models

    def models(self) -> Sequence[str]:
        from convnext.segmentation import names

        return list(names.SIZES)

    def build(self, name: str, **options: Any) -> nn.Module:
        from convnext.segmentation import segmenter

        return segmenter.build(name, **options)

    def identify(self, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        from convnext.segmentation import names

        return names.identify(tensors)

    def pixels(self, name: str) -> tuple[tuple[int, int], ...]:
        return ((512, 2048), (640, 2560))

    def example_targets(self, x: Tensor) -> Tensor:
        import torch

        generator = torch.Generator().manual_seed(0)
        return torch.randint(150, (len(x), *x.shape[2:]), generator=generator).to(x.device)

    def printed(self, name: str, height: int) -> Printed | None:
        from convnext import paper

        row = paper.lookup(paper.TABLE4, backbone=name.removeprefix("upernet_"), crop=height)
        return Printed(gmacs=row.gflops, slack=SLACK) if row else None

    # -- data and training

    def open_data(self, recipe: Recipe) -> tuple[Any, Any]:
        from convnext.data.formats.sequence import is_sequence
        from convnext.segmentation.masks import open_masks
        from convnext.segmentation.sequence import open_sequence

        if not recipe.data:
            raise ConvNextError(
                "This recipe needs images with a label for each pixel: give --data with a folder in ADE20K's layout, or one "
                "with `images` and `masks` (label PNGs of the same names) and a `classes.txt`."
            )
        if is_sequence(recipe.data):
            return open_sequence(recipe.data, recipe.val_share, recipe.seed)
        return open_masks(recipe.data, recipe.val_share, recipe.seed, recipe.reduce_zero_label)

    def open_split(self, recipe: Recipe, split: str) -> Any:
        from convnext.data.formats.sequence import is_sequence
        from convnext.segmentation.masks import open_masks_split

        if split == "all" or is_sequence(recipe.data):
            return super().open_split(recipe, split)
        part = "train" if split == "train" else "val"
        return open_masks_split(recipe.data, part, recipe.val_share, recipe.seed, recipe.reduce_zero_label)

    def open_foreign(self, recipe: Recipe, loaded: Loaded) -> Any:
        from convnext.data.formats.sequence import held, is_sequence
        from convnext.segmentation.sequence import SequenceMasks

        whole = SequenceMasks(held(recipe.data), loaded.classes) if is_sequence(recipe.data) else None
        images = whole or self.open_split(recipe, "val")
        if len(images.classes) != len(loaded.classes):
            raise ConvNextError(
                f"{recipe.data} has {len(images.classes)} classes and the model {len(loaded.classes)}: it cannot be evaluated "
                "on them. Give data with the model's classes, or --reduce-zero-label if the labels count from 1."
            )
        return images

    def file(self, samples: Any, i: int) -> Path | None:
        return samples.file(i)

    def recognises(self, data: str) -> bool:
        from convnext.segmentation.layout import is_masks

        return is_masks(data)

    def check_data(self, data: str, recipe: Recipe, out: Path) -> int:
        from convnext.segmentation.check_report import report_check

        return report_check(data, recipe, out)

    def engine(self, train: MaskImages) -> type[SegmentationTask]:
        from convnext.segmentation.task import SegmentationTask

        return SegmentationTask

    def training_views(self, recipe: Recipe, train: MaskImages) -> TrainingViews:
        from convnext.segmentation.examples import training_views

        return training_views(recipe, train)

    def geometry(self, recipe: Recipe) -> tuple[str, str]:
        augment = recipe.augment
        return f"{augment.crop}", f"short side {augment.short} px, crops of {augment.crop}"

    # -- a trained model

    def load(self, module: nn.Module, metadata: Mapping[str, Any], source: str) -> Loaded:
        from convnext.data.pixels import DensePreprocess
        from convnext.segmentation.ade20k import ADE20K_CLASSES

        stated, standard = metadata.get("preprocess"), Recipe().augment
        preprocess = (
            DensePreprocess.from_dict(stated)
            if stated
            else DensePreprocess(standard.short, standard.long, crop=standard.crop)
        )
        classes = metadata.get("classes")
        k: Any = module.num_classes
        if classes and len(classes) != k:
            raise ConvNextError(
                f"{source} names {len(classes)} classes, and its model has {k}. The file is damaged or was put together from "
                "two: get it again from where it was trained."
            )
        if not classes:
            classes = ADE20K_CLASSES if k == len(ADE20K_CLASSES) else [str(i) for i in range(k)]
        return Loaded(module, list(classes), list(classes), preprocess, source, metadata)

    def resized(self, loaded: Loaded, image_size: int) -> Loaded:
        raise ConvNextError("--image-size is not for segmenters: they are used and exported for their own windows.")

    def size_text(self, loaded: Loaded) -> str:
        return f"short side {loaded.preprocess.short} px"

    def prepare(self, loaded: Loaded, source: Input, options: PredictOptions) -> Prepared:
        """The scaled and normalised image, or for several scales its pixels."""
        from convnext.data.pixels import pixels
        from convnext.segmentation.sliding import prepared

        self._check_mode(loaded, options.mode)
        image = pixels(source.image())
        height, width = image.shape[-2:]
        x = image if options.mode == "multi-scale" else prepared(image, loaded.preprocess)
        return Prepared(source, options, x, (height, width), (options.mode, *x.shape))

    def compute(self, loaded: Loaded, batch: Sequence[Prepared], precision: str) -> Sequence[Tensor]:
        """The labels (H, W) of each image at its own size."""
        from convnext.segmentation.sliding import labels_of_batch, predict_labels

        module, pre, mode = loaded.module, loaded.preprocess, batch[0].options.mode
        if mode == "multi-scale":
            return [predict_labels(module, each.x, pre, mode, precision=precision) for each in batch]
        sizes = [each.size for each in batch]
        return labels_of_batch(module, [each.x for each in batch], sizes, pre, mode, precision=precision)

    def finish(self, loaded: Loaded, prepared: Prepared, output: Tensor) -> Segmentation:
        from convnext.segmentation.results import Segmentation

        return Segmentation(prepared.source, output.cpu().numpy(), loaded.classes, prepared.options.alpha)

    def _check_mode(self, loaded: Loaded, mode: str) -> None:
        from convnext.task.exported import Exported

        if isinstance(loaded.module, Exported) and mode != "slide":
            raise ConvNextError(
                f"{loaded.source} is exported for windows of one size, so its --mode is slide, not {mode}."
            )

    def evaluate(
        self,
        models: dict[str, Loaded],
        samples: MaskImages,
        data: str,
        world: World,
        options: EvaluateOptions,
        precision: str,
        batch: int | None = None,
        workers: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Evaluation:
        from functools import partial

        from convnext.runtime.names import EXAMPLES
        from convnext.runtime.precision import described
        from convnext.segmentation.examples import telling
        from convnext.segmentation.miou import evaluate
        from convnext.task.examples import write_examples

        first = next(iter(models.values()))
        self._check_mode(first, options.mode)
        results = evaluate(
            {which: loaded.module for which, loaded in models.items()},
            samples,
            first.preprocess,
            world,
            precision,
            options.mode,
            progress=progress,
            crop=first.preprocess.crop,
        )
        found = evaluation(models, results, data, described(precision, world.device), len(samples), options.mode)
        drawn = partial(telling, first, samples, options.mode, precision)
        found.files[EXAMPLES] = partial(write_examples, drawn)
        return found

    # -- export

    def axes(self, free: set[str] | None, batch: int, image_size: int | None) -> tuple[int | None, bool]:
        if free and "size" in free:
            raise ConvNextError("A segmenter is exported for windows of one size: give --dynamic batch or none.")
        return super().axes(free, batch, image_size)

    def side(self, loaded: Loaded) -> int:
        return loaded.preprocess.crop or loaded.preprocess.short

    def graph(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Without the auxiliary head, which only training uses."""
        from convnext.task.graph import Graph, folded_around

        plain: Any = folded_around(module)
        plain.auxiliary_head = None
        return Graph(plain.to(dtype), dtype).eval()

    def views(self, loaded: Loaded, metadata: Metadata) -> list[Callable[[Image], Tensor]]:
        """The middle of the scaled image, at the size of a window."""
        pre = loaded.preprocess
        height, width = metadata.size or (pre.short, pre.short)

        def window(image: Image) -> Tensor:
            x = pre(image)
            top, left = (max(side - crop, 0) // 2 for side, crop in zip(x.shape[1:], (height, width), strict=True))
            x = x[:, top : top + height, left : left + width]
            whole = x.new_zeros(len(x), height, width)
            whole[:, : x.shape[1], : x.shape[2]] = x
            return whole

        return [window]

    def tolerance(self, precision: str) -> Tolerance:
        """99.9 % of the pixels in fp32: at a border two classes can be as good as equal."""
        from convnext.task.compare import Tolerance

        return Tolerance(1e-4, 99.9) if precision == "fp32" else Tolerance(None, 99.0)


def evaluation(
    models: dict[str, Loaded], results: dict[str, Result], data: str, precision: str, images: int, mode: str
) -> Evaluation:
    """The results of the weights in `models` as tables and JSON."""
    import numpy as np

    from convnext.task.results import SHOWN, Evaluation, Table, worst_first

    metrics = {which: result.metrics() for which, result in results.items()}
    rows = [
        (which, Path(models[which].source).name, *(f"{values[key]:.2f}" for key in ("miou", "macc", "aacc")))
        for which, values in metrics.items()
    ]
    columns = ("weights", "file", "mIoU %", "class accuracy %", "pixel accuracy %")
    tables = [Table(columns, rows, f"{images:,} images of {data}, {mode}, {precision}", left=2)]
    first = next(iter(results))
    names, result = models[first].classes, results[first]
    seen = np.flatnonzero(~np.isnan(result.iou))
    if len(seen) > 1:
        worst = seen[np.argsort(result.iou[seen])][:SHOWN]
        rows = [(names[i], f"{result.confusion[i].sum():,}", f"{result.iou[i]:.2f}") for i in worst]
        tables.append(Table(("class", "pixels", "IoU %"), rows, worst_first(first, len(worst), len(seen))))
    per_class = {
        which: {names[i]: {"iou": float(r.iou[i]), "pixels": int(r.confusion[i].sum())} for i in seen}
        for which, r in results.items()
    }
    details = {"mode": mode, "per_class": per_class}
    return Evaluation(data, images, metrics, "miou", precision, tables, details)


SPEC = SegmentationSpec()

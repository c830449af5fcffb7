"""Image classification: the place that knows model, data and engine together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convnext.errors import ConvNextError
from convnext.recipes.ranges import ranged
from convnext.recipes.schema import Classification as Recipe
from convnext.task.spec import Loaded, Prepared, Printed, TaskSpec, failure

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from convnext.classification.dataset import ImageDataset
    from convnext.classification.results import Classification
    from convnext.classification.task import ClassificationTask
    from convnext.runtime.world import World
    from convnext.task.compare import Compared
    from convnext.task.examples import TrainingViews
    from convnext.task.exported import Exported, Metadata
    from convnext.task.inputs import Input
    from convnext.task.results import Evaluation, Failure, Prediction

NAMED_SETS = {1000: "imagenet-1k", 21841: "imagenet-22k"}
"""Label sets that a checkpoint without class names is taken to have, by the number of its classes."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Classifiers."""

    upright: bool | None = None
    """Turn images as their EXIF orientation says; by default as in training. The reference never does."""
    among: Literal["auto", "model", "data"] = "auto"
    """Classes that an answer is chosen among: all of the model's, or those that the images have. auto: the images' for a
    model of ImageNet-22K's classes, as in `robustness`, else all."""


@dataclass(frozen=True)
class PredictOptions:
    """Classifiers."""

    top_k: int = ranged(5, at_least=1)
    """Classes shown for each image."""
    explain: bool = False
    """Write beside each drawn image what in it speaks for its likeliest class: LayerCAM maps of the stages' outputs."""


class ClassificationSpec(TaskSpec):
    """Images with one label each, or several."""

    name = "classification"
    noun = "classifier"
    doing = "classifying"
    recipe = Recipe
    evaluate_options = EvaluateOptions
    predict_options = PredictOptions
    answer_options = ("top_k",)
    batch = 64
    caches = True
    pipeline_tag = "image-classification"
    counting = "Classifiers are counted for 1,000 classes (Tables 1 and 2)."

    # -- models

    def models(self) -> Sequence[str]:
        from convnext import models

        return models.names()

    def build(self, name: str, **options: Any) -> nn.Module:
        from convnext import models

        return models.build(name, **options)

    def identify(self, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        from convnext import models

        return models.identify(tensors)

    def pixels(self, name: str) -> tuple[tuple[int, int], ...]:
        return ((224, 224), (384, 384))

    def printed(self, name: str, height: int) -> Printed | None:
        from convnext import paper

        if name not in paper.NAMES:
            return None
        if "isotropic" in name:
            row = paper.isotropic(name)
            return Printed(row.params_m, row.gflops) if height == 224 else None
        row = paper.lookup(paper.TABLE1, model=name, size=height)
        return Printed(row.params_m, row.gflops) if row else None

    # -- data and training

    def open_data(self, recipe: Recipe) -> tuple[ImageDataset, ImageDataset]:
        from convnext.classification.dataset import fitting
        from convnext.classification.open import open_dataset, open_for_evaluation

        if not recipe.data:
            raise ConvNextError(
                "This recipe needs images: give --data with a folder of images (train/ and val/, or one folder per class), a "
                "table (.csv, .tsv, .jsonl), a folder of parquet files, `digits`, or `torchvision:NAME`."
            )
        train, val = open_dataset(recipe.data, 0.0 if recipe.val else recipe.val_share, recipe.seed, recipe.read)
        if recipe.val:
            val = open_for_evaluation(recipe.val, train.classes, 0.0, recipe.seed, recipe.read)
        val = fitting(val, train.multi_label, recipe.val or recipe.data)
        return (train, val) if recipe.upright else (train.as_stored(), val.as_stored())

    def open_split(self, recipe: Recipe, split: str) -> ImageDataset:
        from convnext.classification.dataset import joined

        train, val = self.open_data(recipe)
        return joined(train, val) if split == "all" else {"train": train, "val": val}[split]

    def open_foreign(self, recipe: Recipe, loaded: Loaded) -> ImageDataset:
        from convnext.classification.open import open_for_evaluation

        found = open_for_evaluation(recipe.data, loaded.classes, recipe.val_share, recipe.seed, recipe.read)
        return found if recipe.upright else found.as_stored()

    def fingerprint(self, samples: ImageDataset) -> str:
        from convnext.classification.open import fingerprint

        return fingerprint(samples)

    def file(self, samples: ImageDataset, i: int) -> Path | None:
        return samples.file(i)

    def recognises(self, data: str) -> bool:
        return True  # whatever no other task recognises

    def check_data(self, data: str, recipe: Recipe, out: Path) -> int:
        from convnext.classification.check_report import report_check

        return report_check(data, recipe, out)

    def at_size(self, recipe: Recipe, image_size: int) -> Recipe:
        return replace(recipe, image_size=image_size)

    def engine(self, train: ImageDataset) -> type[ClassificationTask]:
        from convnext.classification.label_task import LabelTask
        from convnext.classification.task import ClassificationTask

        return LabelTask if train.multi_label else ClassificationTask

    def training_views(self, recipe: Recipe, train: ImageDataset) -> TrainingViews:
        from convnext.classification.examples import training_views

        return training_views(recipe, train)

    def geometry(self, recipe: Recipe) -> tuple[str, str]:
        return f"{recipe.image_size}", f"{recipe.image_size} px"

    # -- a trained model

    def load(self, module: nn.Module, metadata: Mapping[str, Any], source: str) -> Loaded:
        from convnext.classification.transforms import Preprocess

        num_classes = getattr(module, "num_classes", None)
        if not num_classes:
            raise ConvNextError(f"{source} holds no classifier (it has no head), so it cannot name classes.")
        stated = metadata.get("preprocess")
        preprocess = Preprocess.from_dict(stated) if stated else Preprocess()
        classes, names = class_names(metadata, num_classes, source)
        if len(metadata.get("thresholds") or classes) != num_classes:
            raise ConvNextError(
                f"{source} has {len(metadata['thresholds'])} thresholds for {num_classes} classes. The file is damaged or was put "
                "together from two: get it again from where it was trained."
            )
        return Loaded(module, classes, names, preprocess, source, metadata)

    def resized(self, loaded: Loaded, image_size: int) -> Loaded:
        from convnext.classification.transforms import Preprocess
        from convnext.task.exported import Exported

        before = loaded.preprocess
        if image_size == before.size:
            return loaded
        if isinstance(loaded.module, Exported) and loaded.module.metadata.size is not None:
            raise ConvNextError(
                f"{loaded.source} is exported for {before.size} px. Export with --image-size {image_size}, or with "
                "--dynamic batch,size for any size."
            )
        preprocess = replace(Preprocess.for_size(image_size), mean=before.mean, std=before.std)
        return replace(loaded, preprocess=preprocess)

    def size_text(self, loaded: Loaded) -> str:
        return f"{loaded.preprocess.size} px"

    def transform(self, loaded: Loaded) -> Callable[[Image], Tensor]:
        from convnext.classification.transforms import eval_transform

        return eval_transform(loaded.preprocess)

    def differentiates(self, options: Any) -> bool:
        return options.explain

    def folder(self, options: Any) -> str | None:
        return "predictions" if options.explain else None

    def compute(self, loaded: Loaded, batch: Sequence[Prepared], precision: str) -> Sequence[Any]:
        if not batch[0].options.explain:
            return super().compute(loaded, batch, precision)
        import torch

        from convnext.classification.explain import stage_maps

        x = torch.stack([each.x for each in batch]).to(next(loaded.module.parameters()).device)
        logits, maps, classes = stage_maps(loaded.module, x)
        rows = zip(
            logits.float().cpu(),
            zip(*(each.cpu().numpy() for each in maps), strict=True),
            classes.tolist(),
            strict=True,
        )
        return list(rows)

    def finish(self, loaded: Loaded, prepared: Prepared, output: Any) -> Prediction | Failure:
        if not prepared.options.explain:
            return super().finish(loaded, prepared, output)
        from convnext.classification.results import Classification, Explanation

        logits, maps, index = output
        answer = super().finish(loaded, prepared, logits)
        if not isinstance(answer, Classification):
            return answer
        choice = answer.choice(index)
        seen = lambda: loaded.preprocess.resize_crop(prepared.source.image())  # noqa: E731
        return replace(answer, explanation=Explanation(choice, list(maps), seen))

    def answer(self, loaded: Loaded, source: Input, output: Tensor, options: Any) -> Classification | Failure:
        from convnext.classification.results import Classification, Labels

        if len(output) != len(loaded.classes):
            return failure(source, f"the model gives {len(output)} values for {len(loaded.classes)} classes.")
        classes, names, k = loaded.classes, loaded.names, options.top_k
        if (thresholds := loaded.metadata.get("thresholds")) is not None:
            return Labels(source, output.double().sigmoid().numpy(), classes, names, k, thresholds=list(thresholds))
        return Classification(source, output.softmax(0).numpy(), classes, names, k)

    def evaluate(
        self,
        models: dict[str, Loaded],
        samples: ImageDataset,
        data: str,
        world: World,
        options: Any,
        precision: str,
        batch: int | None = None,
        workers: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Evaluation:
        import numpy as np

        from convnext.classification.dataset import fitting
        from convnext.classification.evaluate import evaluate
        from convnext.classification.label_metrics import LabelScores
        from convnext.classification.label_task import label_logits
        from convnext.classification.tables import evaluation, label_evaluation
        from convnext.data.loader import EvalSamples, eval_loader
        from convnext.runtime.precision import described

        several = next(iter(models.values())).metadata.get("thresholds") is not None
        samples = fitting(samples, several, data)
        models, samples, limited = among(models, samples, options.among)
        first = next(iter(models.values()))
        loader = eval_loader(
            EvalSamples(samples, self.transform(first)),
            batch or self.batch,
            workers,
            world.device.type == "cuda",
            world.rank,
            world.size,
        )
        modules = {which: loaded.module for which, loaded in models.items()}
        if several:
            logits = label_logits(modules, loader, samples.labels, world, precision, progress=progress)
            scores = {
                which: LabelScores(logits[which], samples.labels, np.array(loaded.metadata["thresholds"]))
                for which, loaded in models.items()
            }
            return label_evaluation(models, scores, data, described(precision, world.device), samples)
        results = evaluate(
            modules, loader, len(first.classes), world, precision, progress=progress, images=len(samples)
        )
        return evaluation(models, results, data, described(precision, world.device), limited, samples)

    # -- export

    def compare(
        self,
        loaded: Loaded,
        exported: Exported,
        names: Sequence[str],
        views: Sequence[Callable[[int], Tensor]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Compared:
        from convnext.task.compare import compare

        thresholds = loaded.metadata.get("thresholds")
        if thresholds is None:
            return compare(loaded.module, exported, names, views, loaded.classes, progress)
        import torch

        least = torch.tensor(thresholds, dtype=torch.float64)

        def said(logits: Tensor) -> Tensor:
            return logits.double().sigmoid() >= least

        return compare(loaded.module, exported, names, views, loaded.classes, progress, said, "the labels")

    def views(self, loaded: Loaded, metadata: Metadata) -> list[Callable[[Image], Tensor]]:
        """The size that the file takes, and half as much again where it is free."""
        from convnext.classification.transforms import eval_transform

        side = max(loaded.preprocess.size, metadata.smallest)
        sizes = [side] if metadata.size else [side, side * 3 // 2]
        return [eval_transform(replace(loaded.preprocess, size=size)) for size in sizes]


def among(models: dict[str, Loaded], samples: ImageDataset, which: str) -> tuple[dict[str, Loaded], ImageDataset, bool]:
    """The models with the classes of the images alone, and the images labelled for them, if `which` says so.

    Args:
        which: "data" or "model"; "auto" is the first for models of ImageNet-22K's classes.

    Returns:
        Models, images, and whether anything was left out.
    """
    import numpy as np

    first = next(iter(models.values()))
    seen, labels = np.unique(samples.labels, return_inverse=True)
    of_data = which == "data" or (which == "auto" and NAMED_SETS.get(len(first.classes)) == "imagenet-22k")
    if not of_data or samples.multi_label or len(seen) == len(first.classes):
        return models, samples, False
    from convnext.classification.evaluate import Sliced

    classes, names = ([labelled[i] for i in seen] for labelled in (first.classes, first.names))
    sliced = {
        key: replace(loaded, module=Sliced(loaded.module, seen.tolist()), classes=classes, names=names)
        for key, loaded in models.items()
    }
    return sliced, samples.relabeled(labels.astype(np.int64), classes), True


def class_names(metadata: Mapping[str, Any], num_classes: int, source: str) -> tuple[list[str], list[str]]:
    """Labels and readable names: the file's own, ImageNet's for 1,000 and 21,841 classes, else numbers.

    Raises:
        ConvNextError: the file names more or fewer classes than the model has.
    """
    if stated := metadata.get("classes"):
        if len(stated) != num_classes:
            raise ConvNextError(
                f"{source} names {len(stated)} classes, and its model has {num_classes} outputs. The file is damaged or was "
                "put together from two: get it again from where it was trained."
            )
        return list(stated), list(metadata.get("names") or stated)
    if num_classes in NAMED_SETS:
        from timm.data import ImageNetInfo

        info = ImageNetInfo(NAMED_SETS[num_classes])
        labels = [info.index_to_label_name(i) for i in range(num_classes)]
        return labels, [info.index_to_description(i) for i in range(num_classes)]
    numbers = [str(i) for i in range(num_classes)]
    return numbers, numbers


SPEC = ClassificationSpec()

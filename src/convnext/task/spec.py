"""A task as one thing: everything that training, evaluation, prediction and export ask of it, in one class.

Each task folder publishes one `TaskSpec` in its spec.py, which `convnext.tasks` registers; nobody else knows a task by name.
A specification is cheap to import: torch and the task's own modules are imported inside its methods.

Legend: B batch, H W height and width, K classes or outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from convnext.errors import ConvNextError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from convnext.recipes.schema import Recipe
    from convnext.runtime.world import World
    from convnext.task.compare import Compared, Tolerance
    from convnext.task.engine import DataTask
    from convnext.task.examples import TrainingViews
    from convnext.task.exported import Exported, Metadata
    from convnext.task.inputs import Input
    from convnext.task.results import Evaluation, Failure, Prediction


@dataclass
class Loaded:
    """A model and what its use needs.

    Attributes:
        module: the network, in evaluation mode; or an exported file that is called like it.
        classes: labels as the training data spells them; `names` for people (ImageNet's are words).
        preprocess: the task's preprocessing of an image.
        source: file, folder or name that it was read from.
        metadata: all that its file says.
    """

    module: nn.Module
    classes: list[str]
    names: list[str]
    preprocess: Any
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """One image as the model takes it.

    Attributes:
        source, options: of the request for it.
        x: (3, H, W); size: (height, width) of the image that it was made of.
        alike: what has to be equal among the images of one batch.
    """

    source: Input
    options: Any
    x: Tensor
    size: tuple[int, int]
    alike: tuple


@dataclass(frozen=True)
class NoOptions:
    """No options beyond those of every task."""


@dataclass(frozen=True)
class Printed:
    """Numbers that the paper prints of a model; `slack`: share by which counted MACs may differ, 0 for rounding alone."""

    params_m: float | None = None
    gmacs: float | None = None
    slack: float = 0.0
    fps: float | None = None
    """Images per second on an A100, one at a time (Table 3)."""


class TaskSpec(ABC):
    """Specification of a task. The defaults suit a network that gives one row of outputs for an image of one size.

    Attributes:
        name: of the task, in configs and files; `noun` for people: "classifier"; `doing` for progress bars: "classifying".
        recipe: the class of its recipes; `recipes` are named ones beyond those of `convnext.recipes`.
        evaluate_options, predict_options: dataclasses of the options that only this task has, for the command line and the
            Python API alike; the docstring under a field is its help.
        answer_options: predict options that change the answer itself and cost nothing: each request to a server may have its own.
        batch: images at once in evaluation and prediction, unless said otherwise.
        inputs, outputs: names in exported graphs.
        pads: True if an exported file takes smaller images, padded with zeros.
        size_multiple: free sides of an exported graph are multiples of it, in pixels.
        compared_images: how many images an export is compared on, unless said otherwise.
        other_sizes: tells people how an exported file can be used with images of another size.
        counting: explains how `info models` counts.
        caches: True if training can take its images from a cache of scaled ones.
        pipeline_tag: the task's name on the Hugging Face Hub.
        default_out: folder of `predict`'s files; None: files are written only where --out is given.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    doing: ClassVar[str]
    recipe: ClassVar[type[Recipe]]
    recipes: ClassVar[Mapping[str, Recipe]] = {}
    evaluate_options: ClassVar[type] = NoOptions
    predict_options: ClassVar[type] = NoOptions
    answer_options: ClassVar[tuple[str, ...]] = ()
    batch: ClassVar[int] = 32
    inputs: ClassVar[tuple[str, ...]] = ("images",)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    pads: ClassVar[bool] = False
    size_multiple: ClassVar[int] = 1
    compared_images: ClassVar[int] = 100
    other_sizes: ClassVar[str] = "Export with --dynamic batch,size for other sizes."
    counting: ClassVar[str] = ""
    caches: ClassVar[bool] = False
    pipeline_tag: ClassVar[str | None] = None
    default_out: ClassVar[str | None] = None

    # -- models

    def models(self) -> Sequence[str]:
        """Names of the models that belong to this task alone."""
        return ()

    @abstractmethod
    def build(self, name: str, **options: Any) -> nn.Module:
        """A randomly initialised model; raises ConvNextError for an unknown name or option."""

    def identify(self, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """`name` and options of the model that these tensors belong to; None if they are not of this task."""
        return None

    def pixels(self, name: str) -> tuple[tuple[int, int], ...]:
        """(height, width) of the inputs for which `info models` counts a model's MACs."""
        return ((224, 224),)

    def macs_forward(self, model: Any, x: Tensor) -> None:
        """Run the part of a model on x (1, 3, H, W) whose multiply-accumulates are counted."""
        model(x)

    def primed(self, module: nn.Module) -> nn.Module:
        """The model made to work as a trained one does where random weights would leave work out; for timing alone."""
        return module

    def example_targets(self, x: Tensor) -> Any:
        """Targets that suit images x (B, 3, H, W) and `module(x, targets)`, which gives losses; for timing alone."""
        raise NotImplementedError(f"{self.name} is not trained on targets beside images")

    def printed(self, name: str, height: int) -> Printed | None:
        """The paper's numbers for a model at an input height; None where it has no row."""
        return None

    # -- data and training

    @abstractmethod
    def open_data(self, recipe: Any) -> tuple[Any, Any]:
        """Training and validation images of a recipe (`data.loader.Samples` with `classes`).

        Raises:
            ConvNextError: the data is not there, or not laid out as expected.
        """

    def open_split(self, recipe: Any, split: str) -> Any:
        """The part "train", "val" or "all" of the recipe's own data."""
        train, val = self.open_data(recipe)
        if split == "all":
            raise ConvNextError(f"The parts of {recipe.data} cannot be joined: evaluate --split train and --split val.")
        return {"train": train, "val": val}[split]

    def open_foreign(self, recipe: Any, loaded: Loaded) -> Any:
        """Labelled images that are not the model's own data: the validation part, in the model's classes."""
        return self.open_split(recipe, "val")

    def fingerprint(self, samples: Any) -> str:
        """Digest of names, labels and classes, which tells whether data is still the same."""
        return samples.fingerprint()

    def file(self, samples: Any, i: int) -> Path | None:
        """The file of image i; None where images are not files."""
        return None

    def recognises(self, data: str) -> bool:
        """True if a folder is laid out for this task, judged by the names in it."""
        return False

    def check_data(self, data: str, recipe: Any, out: Path) -> int:
        """Examine a dataset, print what is in it and wrong with it, draw a sample into `out`; 1 if there are errors."""
        raise ConvNextError(f"`convnext data check` does not examine data of the task {self.name}.")

    def at_size(self, recipe: Any, image_size: int) -> Any:
        """The recipe for images of another size; raises ConvNextError where it has none to choose."""
        raise ConvNextError(f"A recipe for a {self.noun} has no single image size to change.")

    @abstractmethod
    def engine(self, train: Any) -> type[DataTask]:
        """The class of the task as the training loop sees it, for training images like these."""

    def training_views(self, recipe: Any, train: Any) -> TrainingViews | None:
        """Transform and drawing of the training images, for people; None where a task does not tell."""
        return None

    def geometry(self, recipe: Any) -> tuple[str, str]:
        """Size of the images in a run, briefly for tables ("224") and in words ("224 px")."""
        return "", ""

    # -- a trained model

    @abstractmethod
    def load(self, module: nn.Module, metadata: Mapping[str, Any], source: str) -> Loaded:
        """A model with classes and preprocessing from its metadata, which may lack any of them.

        Raises:
            ConvNextError: it is no model of this task, or the metadata is damaged.
        """

    def resized(self, loaded: Loaded, image_size: int) -> Loaded:
        """The model at another image size; raises ConvNextError where it has none to choose."""
        raise ConvNextError(f"A {self.noun} has no --image-size: its preprocessing says the sizes.")

    def size_text(self, loaded: Loaded) -> str:
        """Size of its inputs, in words."""
        return ""

    def transform(self, loaded: Loaded) -> Callable[[Image], Tensor]:
        """RGB image of any size -> (3, H, W) float, all of one size."""
        raise NotImplementedError

    def answer(self, loaded: Loaded, source: Input, output: Tensor, options: Any) -> Prediction | Failure:
        """The prediction for one image from its row of outputs, fp32 on the CPU."""
        raise NotImplementedError

    def prepare(self, loaded: Loaded, source: Input, options: Any) -> Prepared:
        """Decode and preprocess one image; raises ImageError."""
        image = source.image()
        x = self.transform(loaded)(image)
        return Prepared(source, options, x, (image.height, image.width), tuple(x.shape))

    def compute(self, loaded: Loaded, batch: Sequence[Prepared], precision: str) -> Sequence[Any]:
        """The model's output for each of some images that are `alike`."""
        import torch

        from convnext.runtime.precision import autocast

        device = next(loaded.module.parameters()).device
        with torch.inference_mode(), autocast(precision, device):
            return list(loaded.module(torch.stack([each.x for each in batch]).to(device)).float().cpu())

    def differentiates(self, options: Any) -> bool:
        """True if answers with these options need gradients, and so the model as it was trained, not a faster form of it."""
        return False

    def folder(self, options: Any) -> str | None:
        """Folder of `predict`'s files where --out is not given; None: no files are written."""
        return self.default_out

    def finish(self, loaded: Loaded, prepared: Prepared, output: Any) -> Prediction | Failure:
        """The answer for one image from its output of `compute`."""
        import torch

        if not bool(torch.isfinite(output).all()):
            return failure(prepared.source, NOT_FINITE)
        return self.answer(loaded, prepared.source, output, prepared.options)

    def predict(
        self, loaded: Loaded, inputs: Iterable[Input], options: Any, precision: str = "fp32", batch: int | None = None
    ) -> Iterator[Prediction | Failure]:
        """Yield the answer for each image, in order; one that cannot be read yields its error and does not end the rest."""
        from convnext.data.images import ImageError

        remaining = iter(inputs)
        while group := list(islice(remaining, batch or self.batch)):
            steps: list[Prepared | Failure] = []
            for source in group:
                try:
                    steps.append(self.prepare(loaded, source, options))
                except ImageError as error:
                    steps.append(failure(source, str(error)))
            for alike, run in groupby(steps, lambda step: getattr(step, "alike", None)):
                members: list[Any] = list(run)
                if alike is None:
                    yield from members
                    continue
                for each, output in zip(members, self.compute(loaded, members, precision), strict=True):
                    yield self.finish(loaded, each, output)

    def write(self, answers: Sequence[Prediction | Failure], loaded: Loaded, folder: Path) -> list[Path]:
        """Write what belongs to all images of a `predict --out` together; the files."""
        return []

    def collected(self) -> tuple[str, ...]:
        """Names of the files that `write` makes."""
        return ()

    @abstractmethod
    def evaluate(
        self,
        models: dict[str, Loaded],
        samples: Any,
        data: str,
        world: World,
        options: Any,
        precision: str,
        batch: int | None = None,
        workers: int = 0,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Evaluation:
        """Measure several sets of weights of one model on labelled images, each image once over all processes."""

    # -- export

    def precisions(self, format: str) -> tuple[str, ...] | None:
        """Precisions in which a format carries models of this task; None for all that the format has."""
        return None

    def axes(self, free: set[str] | None, batch: int, image_size: int | None) -> tuple[int | None, bool]:
        """(images of a call or None for any, True if the image size is free) for the axes that a person asks for.

        Args:
            free: of "batch" and "size"; None: the task's default.
        """
        free = {"batch"} if free is None else free
        return (None if "batch" in free else batch), "size" in free

    def side(self, loaded: Loaded) -> int:
        """Side in pixels of the square that a graph of a fixed size takes."""
        return loaded.preprocess.size

    def smallest_side(self, module: nn.Module) -> int:
        """Least side in pixels of a traced graph of a free size: two positions of the deepest map, as one is a special case."""
        strides = getattr(getattr(module, "backbone", module), "strides", None)
        return 2 * (max(strides.values()) if isinstance(strides, dict) else 32)

    def graph(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        """The inference graph that is exported, on the CPU."""
        from copy import deepcopy

        from convnext.models.deploy import Deployable
        from convnext.models.fold import fold
        from convnext.task.graph import Graph

        plain = fold(module) if isinstance(module, Deployable) else deepcopy(module)
        return Graph(plain.cpu().to(dtype), dtype).eval()

    def finished(self, program: ExportedProgram) -> ExportedProgram:
        """A traced graph after the task's last changes."""
        return program

    def exported(self, file: Path, metadata: Metadata, run: Callable[..., Sequence[Tensor]]) -> Exported:
        """An exported file as a module that is called like the model."""
        from convnext.task.exported import Exported

        return Exported(file, metadata, run, self.other_sizes)

    def views(self, loaded: Loaded, metadata: Metadata) -> list[Callable[[Image], Tensor]]:
        """RGB image -> (3, H, W) normalised, for each size that an export is compared at."""
        return [self.transform(loaded)]

    def tolerance(self, precision: str) -> Tolerance:
        """Differences that an export may have unless said otherwise."""
        from convnext.task.compare import Tolerance

        return Tolerance(1e-4, 100.0) if precision == "fp32" else Tolerance(None, 99.0)

    def compare(
        self,
        loaded: Loaded,
        exported: Exported,
        names: Sequence[str],
        views: Sequence[Callable[[int], Tensor]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Compared:
        """Run an exported file beside the model it was made of, on every image and view."""
        from convnext.task.compare import compare

        return compare(loaded.module, exported, names, views, loaded.classes, progress)


NOT_FINITE = (
    "the model's output is not finite (NaN or infinity), so there is no answer. Its weights are damaged or were trained with "
    "a learning rate that is too high: `convnext evaluate` shows which of a run's weights are sound."
)


def failure(source: Input, error: str) -> Failure:
    """An image without an answer."""
    from convnext.task.results import Failure

    return Failure(source, error)

"""`convnext.load`: a trained model of any task, ready to predict, to be evaluated, exported and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext import tasks
from convnext.errors import ConvNextError, nearest
from convnext.layout import counted
from convnext.own_data import choose_images
from convnext.recipes.ranges import check_ranges
from convnext.task.inputs import Input, inputs_of
from convnext.task.results import Evaluation, Failure, Prediction
from convnext.task.spec import Loaded, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from convnext.export.run import Report
    from convnext.runtime.world import World


@dataclass
class Trained:
    """A trained model with its classes and preprocessing, on a device; made by `load`.

    Attributes:
        name: as it was asked for.
        device, precision: where and in what it computes.
        opened: the model with its task and the recipe of its training.
    """

    name: str
    opened: tasks.Opened
    device: torch.device
    precision: str

    @property
    def spec(self) -> TaskSpec:
        """The task that the model is for."""
        return self.opened.spec

    @property
    def task(self) -> str:
        """Name of the task: classification, detection or segmentation."""
        return self.spec.name

    @property
    def module(self) -> nn.Module:
        """The network, in evaluation mode, as it was trained (not the deployed form)."""
        return self.opened.loaded.module

    @property
    def classes(self) -> list[str]:
        """Labels in the order of the outputs, as the training data spells them."""
        return self.opened.loaded.classes

    @property
    def names(self) -> list[str]:
        """The classes for people: words for ImageNet's."""
        return self.opened.loaded.names

    @property
    def preprocess(self) -> Any:
        """The preprocessing of an image in evaluation and prediction."""
        return self.opened.loaded.preprocess

    @property
    def is_exported(self) -> bool:
        """True if the model is a file of `export`, which computes on the CPU in its own precision."""
        from convnext.task.exported import Exported

        return isinstance(self.module, Exported)

    @property
    def note(self) -> str:
        """A sentence about how an exported file computes on this machine, where that is not as it says."""
        return str(getattr(self.module, "note", ""))

    # -- use

    def predict(
        self, images: Any, *, stream: bool = False, batch: int | None = None, every: float = 1.0, **options: Any
    ) -> Any:
        """Answer for one image or many.

        Args:
            images: path of a file, folder, glob or video; an http(s) address of an image; bytes of a file; a PIL image; an
                array (H, W, 3) uint8 in RGB order; a tensor (3, H, W), uint8 or float in 0..1; or a list of these.
            stream: True for an iterator in place of a list, for more images than fit in memory.
            batch: images at once; the task's default if None.
            every: seconds between the frames that are taken of a video, 0 for all; `answer.source.seconds` is a frame's time.
            options: of the task: `top_k`, `explain` for classifiers; `threshold`, `masks` for detectors; `mode`, `alpha` for
                segmenters.

        Returns:
            A prediction for a single image, a list for a list, a folder, a glob or a video. Predictions print, draw (`.draw()`) and
            turn into JSON values (`.to_dict()`). Classifiers: `.probabilities`, `.top(5)`; detectors: `.boxes`, `.scores`,
            `.labels`, `.names`, `.masks`; segmenters: `.label_map`, `.shares()`.

        Raises:
            ConvNextError: an image cannot be read, is none, or the model's output is not finite; an unknown option.
        """
        inputs, single = inputs_of(images, every)

        def checked() -> Iterator[Prediction]:
            for answer in self.answers(inputs, batch, **options):
                if isinstance(answer, Failure):
                    raise ConvNextError(
                        answer.error if answer.name in answer.error else f"{answer.name}: {answer.error}"
                    )
                yield answer

        if stream:
            return checked()
        found = list(checked())
        return found[0] if single else found

    def answers(self, inputs: list[Input], batch: int | None = None, **options: Any) -> Iterator[Prediction | Failure]:
        """`predict` without an end at the first unreadable image: its answer is a `Failure` that names it."""
        given = chosen_options(self.spec.predict_options, options, self.spec.noun)
        exact = self.spec.differentiates(given)
        loaded, precision = (self.opened.loaded, "fp32") if exact else self._deployed()
        return self._within_memory(self.spec.predict(loaded, inputs, given, precision, batch))

    @staticmethod
    def _within_memory(answers: Iterator[Prediction | Failure]) -> Iterator[Prediction | Failure]:
        from convnext.runtime.failures import INFERENCE_MEMORY, memory_explained

        with memory_explained(INFERENCE_MEMORY):
            yield from answers

    def _deployed(self) -> tuple[Loaded, str]:
        """The model in its fastest form on this device, made once, and the precision of the autocast around it."""
        if not hasattr(self, "_fast"):
            from convnext.models.deploy import Deployable

            module, precision = self.module, self.precision
            if isinstance(module, Deployable) and self.device.type == "cpu" and precision != "fp16":  # it casts itself
                self._fast = replace(self.opened.loaded, module=module.deploy(precision)), "fp32"
            else:
                self._fast = self.opened.loaded, "fp32" if self.is_exported else precision
        return self._fast

    def deployed(self) -> tuple[Loaded, str]:
        """The model in its fastest form on this device, and the precision of the autocast that it runs in."""
        return self._deployed()

    def embed(self, images: Any, batch: int = 32, stage: int | None = None) -> np.ndarray:
        """Features (n, C) float32 of images: the map of a stage (the last if None), normalised and averaged over positions.

        Raises:
            ConvNextError: an image cannot be read, there is no such stage, or the model is an exported file.
        """
        import numpy as np
        import torch

        from convnext.runtime.precision import autocast
        from convnext.task.pooled import pooled

        loaded, precision = self._deployed()
        transform, rows = self.spec.transform(loaded), []
        inputs, _ = inputs_of(images)
        with torch.inference_mode(), autocast(precision, self.device):
            for start in range(0, len(inputs), batch):
                x = torch.stack([transform(each.image()) for each in inputs[start : start + batch]])
                rows.append(pooled(loaded.module, x.to(self.device), stage).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)

    def evaluate(self, data: Any = None, **options: Any) -> Evaluation:
        """Measure the model on labelled images; see `evaluate` below for arguments, result and errors."""
        return evaluate({self.opened.loaded.metadata.get("weights", "best"): self}, data, **options)

    def export(self, format: str = "onnx", out: str | Path | None = None, **options: Any) -> Report:
        """Write the model as a file that runs without this package, compared with PyTorch before it is put in place.

        Args:
            format: onnx, openvino, torch-export, aot-inductor or convnext-int8.
            out: the file; beside the checkpoint if None.
            options: fields of `export.options.ExportOptions`: precision, dynamic, batch, image_size, images, calibration, ..

        Returns:
            A report: file, bytes, comparison; it prints well.

        Raises:
            ConvNextError: the format cannot carry the model, an extra is missing, or the file is beyond the tolerance.
        """
        from convnext.export.options import ExportOptions
        from convnext.export.run import export_opened

        given = chosen_options(
            ExportOptions, {"format": format, "out": Path(out) if out else None, **options}, "export"
        )
        return export_opened(self.name, self.opened, given)

    def benchmark(self, batch: int = 8, rounds: int = 5, image_size: int | None = None) -> dict[str, float]:
        """Seconds per call (p20, p50, p80) and images per second of the deployed form on images of noise."""
        import time

        import numpy as np
        import torch

        loaded, _ = self._deployed()
        side = image_size or self.spec.side(loaded)
        x = torch.randn(batch, 3, side, side, device=self.device)
        seconds = []
        with torch.inference_mode():
            for _ in range(rounds + 2):
                began = time.perf_counter()
                loaded.module(x)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                seconds.append(time.perf_counter() - began)
        p20, p50, p80 = (float(value) for value in np.percentile(seconds[2:], (20, 50, 80)))
        return {"p20": p20, "p50": p50, "p80": p80, "images_per_second": batch / p50}

    def __repr__(self) -> str:
        loaded = self.opened.loaded
        model = (getattr(self.module, "config", None) or {}).get(
            "name", "exported file" if self.is_exported else "model"
        )
        size = self.spec.size_text(loaded)
        facts = [
            f"{self.spec.noun} {model}",
            counted(len(self.classes), "class", "classes"),
            size,
            f"{self.device}",
            self.precision,
        ]
        return f"<{', '.join(filter(None, facts))}, from {loaded.source}>"


def load(
    name: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    weights: str = "best",
    image_size: int | None = None,
    trust: bool = False,
    verify: bool = True,
) -> Trained:
    """Open a trained model of any task, in evaluation mode.

    Args:
        name: a run's folder, a checkpoint file of any known format, an exported file, a name of the catalog
            (`convnext info catalog`), or of a repository on the Hugging Face Hub (owner/name).
        device: cuda, mps, cpu, or auto: the first of them that is there.
        precision: fp32, bf16, fp16, or auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU.
        weights: of a run: "best", "raw" (final) or "ema" (their average); of a file with both: "raw" or "ema".
        image_size: use it at another size in pixels than its file says.
        trust: open formats that can run code of whoever made them (torch-export and aot-inductor).
        verify: compare weights with the digest in their file; `docs/security.md` says what that costs.

    Returns:
        The model, with `predict(images)`, `evaluate()`, `export("onnx")`, `embed(images)`, `benchmark()` and `classes`.

    Raises:
        ConvNextError: nothing readable is there, the device is not, or the format needs `trust`.
    """
    return next(iter(load_weights_of(name, [weights], device, precision, image_size, trust, verify).values()))


def load_weights_of(
    name: str | Path,
    wanted: list[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    image_size: int | None = None,
    trust: bool = False,
    verify: bool = True,
) -> dict[str, Trained]:
    """`load` of several weights of one model, by their names, the ones in use first; None: all that there are."""
    from convnext.export.runtime import is_exported, open_exported
    from convnext.runtime.device import choose_device
    from convnext.runtime.failures import INFERENCE_MEMORY, memory_explained
    from convnext.runtime.precision import INT8, resolve_precision

    name = str(name)
    if is_exported(name):
        opened = tasks.resized(open_exported(name, trust), image_size)
        if precision not in ("auto", opened.loaded.metadata["precision"]):
            raise ConvNextError(f'{name} computes in its own precision: leave out --precision (precision="auto").')
        return {"best": Trained(name, opened, choose_device("cpu"), opened.loaded.metadata["precision"])}
    chosen = choose_device(device)
    path = located(name)
    if precision == "int8":
        raise ConvNextError(INT8)
    with memory_explained(INFERENCE_MEMORY):
        found = tasks.open_weights(path, wanted, chosen, image_size, verify)
    return {
        which: Trained(name, opened, chosen, resolve_precision(precision, chosen)) for which, opened in found.items()
    }


def located(name: str) -> str:
    """The path of what a person names: itself, or where the catalog or the Hub has put it, downloaded with a bar."""
    check_name(name)
    if Path(name).expanduser().exists() or not _is_of_hub(name):
        from convnext.weights.fetched import fetched

        return fetched(name)
    from convnext.weights.hub import pull_from_hub

    return str(pull_from_hub(name))


def check_name(name: str) -> None:
    """Raises ConvNextError where there is no file or folder of that name and neither the catalog nor the Hub can have it.

    Nothing slow is imported, so that a typo is answered at once.
    """
    from convnext.weights import catalog

    if name not in catalog.names() and not _is_of_hub(name):
        catalog.resolve(name)


def _is_of_hub(name: str) -> bool:
    """True if this is `owner/name` and no path, not even a mistyped one."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).parent.exists()


def chosen_options(kind: type, given: dict[str, Any], what: str) -> Any:
    """Keyword options as the dataclass `kind`; raises ConvNextError for one that it lacks."""
    known = list(kind.__dataclass_fields__)
    for key in given:
        if key not in known:
            raise ConvNextError(
                f"There is no option {key!r} for this {what}.{nearest(key, known)} Options: {', '.join(known) or 'none'}."
            )
    chosen = kind(**given)
    check_ranges(chosen, "")
    return chosen


def evaluate(
    models: dict[str, Trained],
    data: Any = None,
    *,
    split: str | None = None,
    batch: int | None = None,
    workers: int | None = None,
    world: World | None = None,
    precision: str = "fp32",
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    **options: Any,
) -> Evaluation:
    """Measure several sets of weights of one model on labelled images, each image once.

    Args:
        models: by a name for each set of weights, such as "best"; the first is the one in use.
        data: labelled images, as for `train`, a list of (image, target) too; the run's own held-out images if None. The
            model's own data means its held-out part, wherever it is named from.
        split: "train", "val" or "all" of the model's own data.
        batch: images at once; the task's default if None.
        workers: processes that load data; as in training if None.
        world: the processes that share the work; this one alone if None.
        precision: fp32, bf16, fp16, or auto: the fastest that the device computes well in; an exported file has its own.
        progress: receives (done, total) images.
        options: of the task: `upright` and `among` for classifiers, `fast` for detectors, `mode` and `reduce_zero_label`
            for segmenters.

    Returns:
        Metrics, tables, per-class results; it prints well, and `.save(folder)` writes JSON and figures.

    Raises:
        ConvNextError: no data, data that does not fit the model, or an image that cannot be read.
    """
    from convnext.data.loader import default_workers
    from convnext.runtime.failures import EVALUATION, explained
    from convnext.runtime.precision import resolve_precision
    from convnext.runtime.world import World

    first = next(iter(models.values()))
    spec = first.spec
    given = chosen_options(spec.evaluate_options, options, spec.noun)
    world = world or World(first.device)
    chosen = choose_images(first.opened, data, split, options)
    workers = default_workers(world.device, world.local_size) if workers is None else workers
    share = -(-len(chosen.samples) // world.size)
    with explained(world, EVALUATION):
        result = spec.evaluate(
            {which: model.opened.loaded for which, model in models.items()},
            chosen.samples,
            chosen.words,
            world,
            given,
            "fp32" if first.is_exported else resolve_precision(precision, first.device),
            batch,
            workers,
            lambda done: progress(done, share),
        )
    chosen.complete(result, spec)
    return result

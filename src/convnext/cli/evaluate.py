"""`convnext evaluate MODEL ...`: the same verb for every task."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from convnext.cli.parsing import Model, Precision, check_data, parse, require_model, task_options, with_task_options
from convnext.console import print_table, progress_bar, stderr, stdout, table
from convnext.recipes.ranges import BATCH, SIDE, WORKERS, ranged

DESCRIPTION = """Measure a model on labelled images: accuracy of a classifier, AP of a detector, mIoU of a segmenter; per class.

    convnext evaluate runs/small-finetune                 a run, all its weights, on the images it held out
    convnext evaluate runs/small-finetune --data others   other images; kept beside, in runs/small-finetune/evaluation-others
    convnext evaluate model.safetensors --data photos     a checkpoint on a folder with one folder per class
    convnext evaluate convnext_base.in22k_in1k --data imagenet --out results/base
    convnext evaluate cascade_mask_rcnn_convnext_tiny.coco --data coco
    convnext evaluate convnext_tiny.in22k --data photos --protocol knn
    convnext evaluate runs/small-segment --mode multi-scale

A model's own training data means its held-out part, wherever it is named from; --split chooses another part.
Several processes share the work: torchrun --nproc-per-node 8 -m convnext evaluate ..."""

EXPORTED = ".onnx", ".xml", ".pt2", ".int8.safetensors"  # which compute on the CPU
NO_NAME = r"[^\w.-]+"  # what the name of a folder does not have


@dataclass(frozen=True)
class Evaluate:
    """Options of `evaluate` for every task."""

    model: Model
    """A run's folder, a checkpoint file, a file of `convnext export`, or a name of the catalog."""
    data: str | None = None
    """Labelled images, as for `train`; a run's own held-out images if not given."""
    split: Literal["train", "val", "all"] | None = None
    """Part of the model's own data, or of data with parts; by default the held-out one."""
    protocol: Literal["model", "knn", "linear"] = "model"
    """What is measured: the model's answers; or its features, for any classes of the data: by a vote of the nearest training
    images, or by a linear classifier trained on them."""
    weights: Literal["all", "best", "raw", "ema"] = "all"
    """Weights of a run, or of a training checkpoint that holds raw and ema: best, raw (final), ema (their moving average)."""
    image_size: int | None = ranged(None, **SIDE)
    """Side in pixels, if not the checkpoint's."""
    per_class: bool = True
    """Print the table of classes (at most 50, the worst first); the JSON has all."""
    out: Path | None = None
    """Folder for the results. If not given: of a run's held-out images RUN/evaluation, of others RUN/evaluation-NAME with the
    name of the data or part; of a file none."""
    batch: int | None = ranged(None, **BATCH)
    """Images at once; by default 64 for a classifier, 1 for others."""
    workers: int | None = ranged(None, **WORKERS)
    """Processes that load data; by default as in training."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    precision: Precision | None = None
    """Precision of the arithmetic, by default fp32; an exported file has its own. auto: bf16 on a GPU that has it, fp16 on
    an older one, fp32 elsewhere."""
    trust: bool = False
    """Open exported files of formats that can run code of whoever made them."""
    verify: bool = True
    """Compare weights with the digest in their file; --no-verify saves some time with large models."""


def run(argv: list[str]) -> int:
    require_model(argv, "evaluate")
    arguments: Any = parse(with_task_options(Evaluate, "evaluate_options"), argv, "evaluate", DESCRIPTION)

    from convnext.trained import check_name

    check_name(arguments.model)
    check_data(arguments.data)

    if arguments.protocol != "model":
        return _features(arguments)

    from convnext.runtime import world as processes
    from convnext.runtime.run_folder import is_run
    from convnext.trained import evaluate

    with processes.joined("cpu" if arguments.model.endswith(EXPORTED) else arguments.device) as world:
        models = _open(arguments, world)
        first = next(iter(models.values()))
        if first.note and world.is_main:
            stderr().print(first.note)
        options = task_options(arguments, first.spec, arguments.model)
        with progress_bar("evaluating", world.is_main) as progress:
            result = evaluate(
                models,
                arguments.data,
                split=arguments.split,
                batch=arguments.batch,
                workers=arguments.workers,
                precision=arguments.precision or "fp32",
                world=world,
                progress=progress,
                **options,
            )
        if world.is_main:
            out, tables = stdout(), result.tables if arguments.per_class else result.tables[:1]
            for number, each in enumerate(tables):
                if number:
                    out.print()
                print_table(out, table(**vars(each)))
            if result.note:
                out.print(result.note)
            folder, model = arguments.out, Path(arguments.model)
            if folder is None and is_run(model):
                folder = folder_for(model, result, arguments.data, arguments.split)
            if folder:
                out.print(f"Written: {result.save(folder)}")
    return 0


def folder_for(run: Path, result: Any, data: str | None, split: str | None) -> Path:
    """The folder in a run for results on its held-out images, or on what else they are of.

    A name stands for one set of images: where other data of the same name has it, it gets a number.
    """
    from convnext.runtime.names import EVALUATION, RESULTS

    if result.part == "val":
        return run / EVALUATION
    place = Path(data or "").expanduser()
    words = [result.part] if result.part else [(place.resolve() if place.exists() else place).name, split]
    name = f"{EVALUATION}-{re.sub(NO_NAME, '_', '-'.join(filter(None, words)))[:80]}"
    number = 1
    while True:
        folder = run / (name if number == 1 else f"{name}-{number}")
        if not (folder / RESULTS).exists() or _data_of(folder / RESULTS) == result.data:
            return folder
        number += 1


def _data_of(results: Path) -> object:
    """The images that a file of results says it is about; None where it says nothing."""
    try:
        found = json.loads(results.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found.get("data") if isinstance(found, dict) else None


def _features(arguments: Any) -> int:
    from convnext.errors import ConvNextError
    from convnext.features.protocols import evaluate_features
    from convnext.trained import load

    if arguments.split is not None:
        raise ConvNextError(
            f"--protocol {arguments.protocol} learns from one part and measures on the other: no --split."
        )
    model = load(
        arguments.model,
        device=arguments.device,
        precision=arguments.precision or "fp32",
        weights="best" if arguments.weights == "all" else arguments.weights,
        image_size=arguments.image_size,
        verify=arguments.verify,
    )
    given = (model, arguments.data, arguments.protocol, arguments.batch, arguments.workers)
    with progress_bar("embedding") as progress:
        result = evaluate_features(*given, progress)
    print_table(stdout(), table(**vars(result.tables[0])))
    if arguments.out:
        stdout().print(f"Written: {result.save(arguments.out)}")
    return 0


def _open(arguments: Any, world: Any) -> dict:
    """Weights by name, those in use first; files that hold the same weights are one, named "best = raw"."""
    from convnext.trained import load_weights_of, located

    name = world.on_main(lambda: located(arguments.model))
    wanted = None if arguments.weights == "all" else [arguments.weights]
    options = (
        str(world.device),
        arguments.precision or "auto",
        arguments.image_size,
        arguments.trust,
        arguments.verify,
    )
    names: dict[object, list[str]] = {}
    models = load_weights_of(name, wanted, *options)
    for which, model in models.items():
        facts = model.opened.loaded.metadata
        names.setdefault((facts.get("weights"), facts["step"]) if "step" in facts else which, []).append(which)
    return {" = ".join(same): models[same[0]] for same in names.values()}

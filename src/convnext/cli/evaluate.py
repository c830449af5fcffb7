"""`convnext evaluate MODEL [--data DIR]`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from convnext.cli.common import fetched, parse, print_table, stderr, stdout, table
from convnext.errors import ConvNextError

DESCRIPTION = """Accuracy on labelled images: top-1, top-5, loss, per class, and a confusion figure.

    convnext evaluate runs/small-finetune                 a run, raw and EMA, on the images it held out
    convnext evaluate model.safetensors --data photos     a checkpoint on a folder with one folder per class
    convnext evaluate convnext_base.in22k_in1k --data imagenet --out results/base

Several processes share the work: torchrun --nproc-per-node 8 -m convnext evaluate ..."""


@dataclass(frozen=True)
class Arguments:
    model: tyro.conf.Positional[str]
    """A run's folder, a checkpoint file, or a name of the catalog."""
    data: str | None = None
    """Labelled images, as for `train`; a run's own held-out images if not given."""
    weights: Literal["both", "best", "raw", "ema"] = "both"
    """Which weights of a run, or of a training checkpoint that holds both; `both`: the final raw and EMA weights."""
    image_size: int | None = None
    """Side in pixels, if not the checkpoint's."""
    per_class: bool = True
    """Print the table of classes (at most 50, the worst first); the JSON has all."""
    out: Path | None = None
    """Folder for evaluation.json and the confusion figure; RUN/evaluation for a run, none for a file."""
    batch: int = 64
    workers: int | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "evaluate", DESCRIPTION)
    from convnext.train import distributed

    world = distributed.start(arguments.device)
    try:
        return _evaluate(arguments, world)
    finally:
        distributed.stop()


def _evaluate(arguments: Arguments, world) -> int:
    from rich.progress import Progress

    from convnext.classification.evaluate import evaluate
    from convnext.classification.load import available, load_classifier
    from convnext.data.loader import EvalSamples, default_workers, eval_loader
    from convnext.data.open import open_for_evaluation, open_split
    from convnext.data.transforms import eval_transform
    from convnext.train.rundir import read_config
    from convnext.train.step import resolve_precision

    model = world.on_main(lambda: fetched(arguments.model))
    folder = Path(model)
    is_run = (folder / "metrics.jsonl").exists()
    data, val_share, seed = arguments.data, 0.1, 0
    if is_run:
        recipe = read_config(folder)[1]
        data, val_share, seed = data or recipe.data, recipe.val_share, recipe.seed
    if data is None:
        raise ConvNextError(
            "Give the labelled images to evaluate on: --data with a folder, parquet files, or a dataset's name."
        )
    wanted = [arguments.weights]
    if arguments.weights == "both":
        there = available(model)
        wanted = ["raw", "ema"] if {"raw", "ema"} <= set(there) else ["best"]
    classifiers = {w: load_classifier(model, world.device, w, arguments.image_size) for w in wanted}
    first = classifiers[wanted[0]]
    if arguments.data is None:  # what this run held out, and never what it was trained on
        images = open_split(data, "val", val_share, seed)
    else:
        images = open_for_evaluation(data, first.classes, val_share, seed)
    samples = EvalSamples(images, eval_transform(first.preprocess))
    workers = default_workers(world.device, world.local_size) if arguments.workers is None else arguments.workers
    loader = eval_loader(samples, arguments.batch, workers, world.device.type == "cuda", world.rank, world.size)
    precision = resolve_precision(arguments.precision, world.device)
    out, err = stdout(), stderr()
    with Progress(console=err, transient=True, disable=not (world.is_main and err.is_terminal)) as bar:
        item = bar.add_task("evaluating", total=-(-len(images) // world.size))
        results = evaluate(
            {w: c.model for w, c in classifiers.items()},
            loader,
            len(first.classes),
            world,
            precision,
            progress=lambda done: bar.update(item, completed=done),
        )
    if world.is_main:
        _report(arguments, data, classifiers, results, folder / "evaluation" if is_run else None, out)
    return 0


def _report(arguments: Arguments, data: str, classifiers: dict, results: dict, default_out: Path | None, out) -> None:
    from convnext.files import replace_text
    from convnext.report.confusion import draw_confusion

    best = max(results, key=lambda which: results[which].top1)
    classifier, result = classifiers[best], results[best]
    images = int(result.count.sum())
    rows = [
        (which, Path(classifiers[which].source).name, f"{r.top1:.3f}", f"{r.top5:.3f}", f"{r.loss:.4f}")
        for which, r in results.items()
    ]
    title = f"{images:,} images of {data} at {classifier.preprocess.size} px"
    print_table(out, table(("weights", "file", "top-1 %", "top-5 %", "loss"), rows, title, left=2))
    seen = [i for i in range(len(classifier.classes)) if result.count[i]]
    accuracy = {i: 100 * result.correct1[i] / result.count[i] for i in seen}
    if arguments.per_class and len(seen) > 1:
        worst = sorted(seen, key=lambda i: accuracy[i])[:50]
        rows = [
            (classifier.names[i], int(result.count[i]), f"{accuracy[i]:.1f}", _mistaken_for(result, classifier, i))
            for i in worst
        ]
        title = f"per class ({best}), worst first" + (
            f", {len(worst)} of {len(seen)}" if len(worst) < len(seen) else ""
        )
        out.print()
        print_table(out, table(("class", "images", "top-1 %", "most often taken for"), rows, title))
    folder = arguments.out or default_out
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "data": data,
        "images": images,
        "image_size": classifier.preprocess.size,
        "results": {which: r.metrics() for which, r in results.items()},
        "per_class": {
            which: {
                classifier.classes[i]: {"images": int(r.count[i]), "top1": 100 * float(r.correct1[i] / r.count[i])}
                for i in seen
            }
            for which, r in results.items()
        },
    }
    replace_text(folder / "evaluation.json", json.dumps(summary, indent=1) + "\n")
    if result.confusion is not None:
        draw_confusion(result.confusion, classifier.names, folder / "confusion.png")
    out.print(f"Written: {folder}")


def _mistaken_for(result, classifier, true: int) -> str:
    if result.confusion is None:
        return ""
    row = result.confusion[true].copy()
    row[true] = 0
    return f"{classifier.names[row.argmax()]} ({row.max()})" if row.max() else ""

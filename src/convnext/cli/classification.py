"""What `evaluate` and `predict` do for classifiers."""

import json
from dataclasses import dataclass
from pathlib import Path

from convnext.cli.common import fetched, parse, print_table, stderr, stdout, table
from convnext.cli.options import (
    EvaluateOptions,
    PredictOptions,
    is_exported,
    progress_bar,
    weights_wanted,
    with_world,
    worst_first,
)
from convnext.errors import ConvNextError


@dataclass(frozen=True)
class Evaluate(EvaluateOptions):
    image_size: int | None = None
    """Side in pixels, if not the checkpoint's."""
    per_class: bool = True
    """Print the table of classes (at most 50, the worst first); the JSON has all."""
    batch: int = 64


@dataclass(frozen=True)
class Predict(PredictOptions):
    top_k: int = 5
    """Classes shown for each image."""
    json: bool = False
    """One JSON object per line: file, predictions [{class, name, probability}], or error."""
    image_size: int | None = None
    """Side in pixels, if not the checkpoint's."""
    batch: int = 32


def _open(name: str, device, which: str, image_size: int | None):
    """The `Classifier` in a checkpoint, a run, or an exported file."""
    if is_exported(name):
        from convnext.export.trained import exported_classifier

        return exported_classifier(name, image_size)
    from convnext.classification.load import load_classifier

    return load_classifier(name, device, which, image_size)


def evaluate(argv: list[str], description: str) -> int:
    return with_world(parse(Evaluate, argv, "evaluate", description), _evaluate)


def _evaluate(arguments: Evaluate, world) -> int:
    from convnext.classification.evaluate import evaluate as measure
    from convnext.classification.open import open_for_evaluation, open_split
    from convnext.classification.transforms import eval_transform
    from convnext.data.loader import EvalSamples, default_workers, eval_loader
    from convnext.runtime.precision import resolve_precision
    from convnext.runtime.run_folder import is_run, read_config

    model = world.on_main(lambda: fetched(arguments.model))
    folder = Path(model)
    data, val_share, seed = arguments.data, 0.1, 0
    if is_run(folder):
        recipe = read_config(folder)[1]
        data, val_share, seed = data or recipe.data, recipe.val_share, recipe.seed
    if data is None:
        raise ConvNextError(
            "Give the labelled images to evaluate on: --data with a folder, parquet files, or a dataset's name."
        )
    wanted = weights_wanted(arguments, model)
    classifiers = {w: _open(model, world.device, w, arguments.image_size) for w in wanted}
    first = classifiers[wanted[0]]
    if arguments.data is None:  # what this run held out, and never what it was trained on
        images = open_split(data, "val", val_share, seed)
    else:
        images = open_for_evaluation(data, first.classes, val_share, seed)
    samples = EvalSamples(images, eval_transform(first.preprocess))
    workers = default_workers(world.device, world.local_size) if arguments.workers is None else arguments.workers
    loader = eval_loader(samples, arguments.batch, workers, world.device.type == "cuda", world.rank, world.size)
    precision = resolve_precision(arguments.precision, world.device)
    with progress_bar("evaluating", -(-len(images) // world.size), world.is_main) as progress:
        results = measure(
            {w: c.model for w, c in classifiers.items()},
            loader,
            len(first.classes),
            world,
            precision,
            progress=progress,
        )
    if world.is_main:
        _report(arguments, data, classifiers, results, folder / "evaluation" if is_run(folder) else None, stdout())
    return 0


def _report(arguments: Evaluate, data: str, classifiers: dict, results: dict, default_out: Path | None, out) -> None:
    from convnext.files import replace_text, to_json
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
        out.print()
        columns = ("class", "images", "top-1 %", "most often taken for")
        print_table(out, table(columns, rows, worst_first(best, len(worst), len(seen))))
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
    replace_text(folder / "evaluation.json", to_json(summary, indent=1) + "\n")
    if result.confusion is not None:
        draw_confusion(result.confusion, classifier.names, folder / "confusion.png")
    out.print(f"Written: {folder}")


def _mistaken_for(result, classifier, true: int) -> str:
    if result.confusion is None:
        return ""
    row = result.confusion[true].copy()
    row[true] = 0
    return f"{classifier.names[row.argmax()]} ({row.max()})" if row.max() else ""


def predict(argv: list[str], description: str) -> int:
    arguments = parse(Predict, argv, "predict", description)

    from rich.progress import track

    from convnext.classification.predict import predict as classify
    from convnext.data.find import find_images
    from convnext.runtime.device import choose_device
    from convnext.runtime.precision import resolve_precision

    files = find_images(arguments.images)
    device = choose_device(arguments.device)
    classifier = _open(fetched(arguments.model), device, arguments.weights, arguments.image_size)
    precision = resolve_precision(arguments.precision, device)
    if device.type == "cpu" and precision != "fp16" and hasattr(classifier.model, "deploy"):
        classifier.model, precision = classifier.model.deploy(precision), "fp32"  # it casts by itself, without autocast
    out, err = stdout(), stderr()
    err.print(
        f"[dim]{classifier.source}, {len(classifier.classes)} classes, {classifier.preprocess.size} px, {device}[/]"
    )
    predictions = classify(classifier, files, arguments.top_k, arguments.batch, precision)
    if len(files) > arguments.batch and err.is_terminal:
        predictions = track(predictions, "classifying", total=len(files), console=err, transient=True)
    rows, failed = [], 0
    for prediction in predictions:
        failed += prediction.error is not None
        if arguments.json:
            print(json.dumps(_as_dict(prediction, classifier)), flush=True)
        elif prediction.error:
            rows.append((prediction.path, "not readable", ""))
            err.print(f"[red]{prediction.error}[/]")
        else:
            for rank, (index, probability) in enumerate(prediction.top):
                rows.append(
                    (prediction.path if rank == 0 else "", classifier.names[index], f"{100 * probability:.1f} %")
                )
    if rows:
        print_table(out, table(("image", "class", "probability"), rows, left=2))
    return 2 if failed else 0


def _as_dict(prediction, classifier) -> dict:
    if prediction.error:
        return {"file": prediction.path, "error": prediction.error}
    top = [
        {"class": classifier.classes[index], "name": classifier.names[index], "probability": round(probability, 6)}
        for index, probability in prediction.top
    ]
    return {"file": prediction.path, "predictions": top}

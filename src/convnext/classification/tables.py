"""Tables of an evaluation, for people and as JSON."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from convnext.classification.answers import write_answers, write_labels
from convnext.classification.dataset import ImageDataset
from convnext.classification.evaluate import Result
from convnext.classification.examples import telling_answers, telling_labels
from convnext.classification.label_metrics import LabelScores
from convnext.report.calibration import Calibration, calibration
from convnext.report.confusion import draw_confusion
from convnext.runtime.names import EXAMPLES, PREDICTIONS
from convnext.task.examples import write_examples
from convnext.task.results import SHOWN, Evaluation, Table, interval, worst_first
from convnext.task.spec import Loaded

SAME_IMAGES = "F1 is a little too high: its thresholds were chosen on the same held-out images."


def evaluation(
    models: dict[str, Loaded],
    results: dict[str, Result],
    data: str,
    precision: str,
    limited: bool = False,
    samples: ImageDataset | None = None,
) -> Evaluation:
    """The results of the weights in `models` as tables, JSON and a confusion figure; `limited` to the data's classes.

    The answers to the single images of `samples` are written with it, where they were kept.
    """
    first = next(iter(results))
    loaded, result = models[first], results[first]
    images, k = int(result.count.sum()), len(loaded.classes)
    top5 = k > 5  # among five classes or fewer it is always right
    seen = [i for i in range(k) if result.count[i]]
    uneven = len({int(result.count[i]) for i in seen}) > 1  # else it is the top-1
    more = (*(("top-5 %",) if top5 else ()), *(("balanced %",) if uneven else ()))
    columns = ("weights", "file", "top-1 %", "95 % interval", *more, "loss")
    rows = [
        (
            which,
            Path(models[which].source).name,
            f"{r.top1:.3f}",
            interval(r.top1, images),
            *((f"{r.top5:.3f}",) if top5 else ()),
            *((f"{r.balanced:.3f}",) if uneven else ()),
            f"{r.loss:.4f}",
        )
        for which, r in results.items()
    ]
    title = f"{images:,} images of {data} at {loaded.preprocess.size} px, {precision}"
    if limited:
        title += f", among the data's {k:,} classes"
    tables = [Table(columns, rows, title, left=2, spare=("loss", "file"))]
    if len(seen) > 1:
        worst = sorted(seen, key=lambda i: result.correct1[i] / result.count[i])[:SHOWN]
        rows = [
            (loaded.names[i], int(result.count[i]), f"{accuracy(result, i):.1f}", mistaken_for(result, loaded.names, i))
            for i in worst
        ]
        columns = ("class", "images", "top-1 %", "most often taken for")
        tables.append(Table(columns, rows, worst_first(first, len(worst), len(seen))))
    per_class = {
        which: {loaded.classes[i]: {"images": int(r.count[i]), "top1": accuracy(r, i)} for i in seen}
        for which, r in results.items()
    }
    files: dict[str, Callable[[Path], object]] = {}
    if result.confusion is not None:
        files["confusion.png"] = partial(draw_confusion, result.confusion, loaded.names)
    if result.answers is not None and samples is not None:
        files[PREDICTIONS] = partial(write_answers, result.answers, samples, loaded.names)
        telling = partial(telling_answers, result.answers, samples, loaded)
        files[EXAMPLES] = partial(write_examples, telling)
    metrics = {which: r.metrics() for which, r in results.items()}
    details: dict[str, Any] = {"image_size": loaded.preprocess.size, "per_class": per_class}
    if samples is not None:
        details["calibration"] = {
            which: {"of": "answers", **calibration(r.answers.confidence, r.answers.said == samples.labels).to_dict()}
            for which, r in results.items()
            if r.answers is not None
        }
    return Evaluation(data, images, metrics, "top1", precision, tables, details, files)


def accuracy(result: Result, i: int) -> float:
    """Top-1 of class i in percent."""
    return 100 * float(result.correct1[i] / result.count[i])


def mistaken_for(result: Result, names: list[str], true: int) -> str:
    """The class that images of class `true` are most often taken for, with their number."""
    if result.confusion is None:
        return ""
    row = result.confusion[true].copy()
    row[true] = 0
    return f"{names[row.argmax()]} ({row.max()})" if row.max() else ""


def label_evaluation(
    models: dict[str, Loaded], results: dict[str, LabelScores], data: str, precision: str, samples: ImageDataset
) -> Evaluation:
    """The results of the weights in `models`, which give several labels to an image, as tables, JSON and files."""
    first = next(iter(results))
    loaded, result = models[first], results[first]
    titles = {"map": "mAP %", "map_micro": "micro mAP %", "f1": "F1 %", "f1_micro": "micro F1 %", "loss": "loss"}
    metrics = {which: scores.metrics() for which, scores in results.items()}
    columns = ("weights", "file", *titles.values())
    rows = [
        (which, Path(models[which].source).name, *(f"{found[key]:.{4 if key == 'loss' else 3}f}" for key in titles))
        for which, found in metrics.items()
    ]
    size = loaded.preprocess.size
    title = f"{len(result.truth):,} images of {data} at {size} px, {precision}"
    tables = [Table(columns, rows, title, left=2, spare=("loss", "file", "micro F1 %"))]
    per_class = {
        which: {loaded.classes[i]: row for i, row in enumerate(scores.per_class())} for which, scores in results.items()
    }
    seen = [(loaded.names[i], row) for i, row in enumerate(result.per_class()) if row["images"]]
    if len(seen) > 1:
        worst = sorted(seen, key=lambda each: each[1]["ap"])[:SHOWN]
        keys = {"ap": "AP %", "f1": "F1 %", "precision": "precision %", "recall": "recall %"}
        rows = [
            (name, int(row["images"]), *(f"{row[key]:.1f}" for key in keys), f"{row['threshold']:.3f}")
            for name, row in worst
        ]
        columns = ("class", "images", *keys.values(), "from")
        spare = ("recall %", "precision %")
        tables.append(Table(columns, rows, worst_first(first, len(worst), len(seen)), spare=spare))
    pairs = {
        which: {"of": "pairs of an image and a class", **_of_pairs(scores).to_dict()}
        for which, scores in results.items()
    }
    details = {"image_size": size, "per_class": per_class, "calibration": pairs}
    telling = partial(telling_labels, result, samples, loaded)
    files: dict[str, Callable[[Path], object]] = {
        PREDICTIONS: partial(write_labels, result, samples, loaded.names),
        EXAMPLES: partial(write_examples, telling),
    }
    count = len(result.truth)
    return Evaluation(data, count, metrics, "map", precision, tables, details, files, if_held_out=SAME_IMAGES)


def _of_pairs(scores: LabelScores) -> Calibration:
    """Of the probability that a label applies, over all pairs of an image and a class."""
    return calibration(scores.probabilities().ravel(), scores.truth.ravel())

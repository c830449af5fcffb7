"""Tables of an evaluation, for people and as JSON, and detections drawn beside the ground truth."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from convnext.detection.coco import CocoImages
from convnext.detection.evaluate import Result
from convnext.detection.examples import telling
from convnext.runtime.names import EXAMPLES
from convnext.task.examples import write_examples
from convnext.task.results import SHOWN, Evaluation, Table, worst_first
from convnext.task.spec import Loaded

AREAS = ("", "50", "75", "_small", "_medium", "_large")


def evaluation(
    models: dict[str, Loaded], results: dict[str, Result], data: str, precision: str, samples: CocoImages, tool: str
) -> Evaluation:
    """The results of the weights in `models` on `samples` as tables and JSON, with the detections of each in a file."""
    images, metrics = len(samples), {which: result.metrics() for which, result in results.items()}
    rows = [
        (which, kind, *(f"{values[f'{kind}_ap{area}']:.2f}" for area in AREAS))
        for which, values in metrics.items()
        for kind in ("box", "mask")
        if f"{kind}_ap" in values
    ]
    columns = ("weights", "of", "AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
    tables = [Table(columns, rows, f"{images:,} images of {data}, {tool}, {precision}", left=2)]
    first = next(iter(results))
    seen = [row for row in results[first].per_class if row["objects"]]
    if len(seen) > 1:
        worst = sorted(seen, key=lambda row: row["box_ap"])[:SHOWN]
        rows = [
            (row["name"], row["objects"], *(f"{row[k]:.1f}" for k in ("box_ap", "mask_ap") if k in row))
            for row in worst
        ]
        columns = ("class", "objects", "box AP", "mask AP")[: len(rows[0])]
        tables.append(Table(columns, rows, worst_first(first, len(worst), len(seen))))
    details = {"per_class": {which: result.per_class for which, result in results.items()}}
    files: dict[str, Callable[[Path], object]] = {
        f"detections-{which}.json": result.write_json for which, result in results.items()
    }
    files[EXAMPLES] = partial(write_examples, partial(telling, results[first], samples))
    return Evaluation(data, images, metrics, "box_ap", precision, tables, details, files)

"""Figures measured here for rows of the paper's tables: from the JSON files of a results folder, and from runs."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convnext import paper
from convnext.errors import ConvNextError, nearest
from convnext.report.metrics import read_config, read_metrics

Found = dict[int, dict[tuple[str, str], str]]
PAPER_NAMES = paper.NAMES
SPEED = {1: "images/s, V100", 2: "images/s, V100", 12: "images/s, A100"}
"""Tables with a column of images per second."""


def measured(results: Path | None, runs: Sequence[Path] = ()) -> Found:
    """Cells that were measured: table -> (row, column) -> text with its source.

    Args:
        results: a folder with files of `convnext benchmark --out` and of `benchmarks/`; None for none.
        runs: folders of runs of the paper's recipes, for accuracies.

    Raises:
        ConvNextError: a run is of no recipe of the paper, or has no evaluation yet.
    """
    found: Found = {}
    for file in sorted(results.glob("*.json")) if results else ():
        content = _read(file)
        for row in content.get("rows", ()) if isinstance(content.get("rows"), list) else ():
            _speed(found, row, file)
        if isinstance(content.get("rows"), dict):
            _frames(found, content, file)
    for run in runs:
        table, place, text = _of_run(run)
        found.setdefault(table, {})[place] = text
    return found


def _read(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _speed(found: Found, row: Any, file: Path) -> None:
    """Images per second of a classifier of the tables: the fastest configuration in fp32 of any file counts."""
    if not isinstance(row, dict) or "images_per_second" not in row or "config" not in row:
        return
    config = row["config"]
    name = PAPER_NAMES.get(config.get("model", ""))
    if name is None or config.get("mode") != "inference" or config.get("precision") not in ("fp32", "tf32"):
        return
    if str(config.get("runtime", "")).endswith("-int8"):  # its precision is that of what is not int8
        return
    text = f"{row['images_per_second']['p50']:.1f} ({row['device']}, {config['precision']}, batch {config['batch']})"
    for table, column in SPEED.items():
        place = (name if "iso" in name else f"{name} {config['image_size']}", column)
        known = found.setdefault(table, {}).get(place)
        if known is None or float(known.split()[0]) < row["images_per_second"]["p50"]:
            found[table][place] = text


def _frames(found: Found, content: dict, file: Path) -> None:
    """Frames per second of detectors, from `benchmarks/detector_speed.py`."""
    for name, row in content["rows"].items():
        heads, _, size = name.partition("_convnext_")
        backbone = row.get("backbone") or PAPER_NAMES.get(f"convnext_{size}")
        method = {"mask_rcnn": "mask", "cascade_mask_rcnn": "cascade"}.get(row.get("heads", heads))
        if backbone is None or method is None or "seconds" not in row or not row.get("forced"):
            continue
        for pretrain in ("1k", "22k"):
            text = f"{1 / row['seconds']['p50']:.3f} ({content['device']}, fp32)"
            found.setdefault(3, {})[f"{method} {backbone} {pretrain}", "FPS, A100"] = text


def _of_run(run: Path) -> tuple[int, tuple[str, str], str]:
    """Table, place and text of a run's last evaluation."""
    name = str(read_config(run).get("name"))
    place = _places().get(name)
    if place is None:
        raise ConvNextError(
            f"{run} is a run of {name!r}, which is no setting of the paper.{nearest(name, _places())} Leave it out."
        )
    metric = place[2]
    for record in reversed(read_metrics(run).get("eval", [])):
        values = [record[f"{weights}/{metric}"] for weights in ("raw", "ema") if f"{weights}/{metric}" in record]
        if values:
            return place[0], (place[1], place[3]), f"{max(values):.2f} (run {run.name})"
    raise ConvNextError(f"{run} has no {metric} in its metrics.jsonl. Let it finish, or leave it out.")


def _places() -> dict[str, tuple[int, str, str, str]]:
    """Recipe -> table, row, metric, column."""
    sizes = {name.removeprefix("convnext_"): label for name, label in PAPER_NAMES.items()}
    found: dict[str, tuple[int, str, str, str]] = {}
    for size, label in sizes.items():
        if size.startswith("isotropic"):
            found[f"table5/{size.replace('_', '-')}"] = (2, label, "top1", "top-1, 1K")
            continue
        found[f"table5/{size}"] = (1, f"{label} 224", "top1", "top-1, 1K")
        found[f"table6/{size}-384"] = (1, f"{label} 384", "top1", "top-1, 1K")
        for px in (224, 384):
            found[f"table6/{size}-22k-1k-{px}"] = (1, f"{label} {px}", "top1", "top-1, 22K")
        for pretrain, ending in (("1k", ""), ("22k", "-22k")):
            found[f"coco/mask-rcnn-{size}{ending}"] = (3, f"mask {label} {pretrain}", "box_ap", "box AP")
            found[f"coco/cascade-{size}{ending}"] = (3, f"cascade {label} {pretrain}", "box_ap", "box AP")
            crop = 640 if ending else 512
            found[f"ade20k/upernet-{size}{ending}"] = (7, f"{label} {pretrain} {crop}", "miou", "mIoU")
    for number, regime in ((10, "resnet50"), (11, "resnet200")):
        for key, label in paper.STEPS.items():
            row = label + (" (not adopted)" if key in paper.NOT_ADOPTED else "")
            found[f"roadmap/{regime}-{key}"] = (number, row, "top1", "top-1, 1K")
    return found


def sources(found: Found) -> Iterable[str]:
    """Every measured text once."""
    return dict.fromkeys(text for cells in found.values() for text in cells.values())

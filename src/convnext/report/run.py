"""One page about a run: what was trained on what, how it went, how good it is, where it errs, how to repeat it.

All comes from the files of the run and of its evaluation; what is not there is left out, and the page says which command
writes it.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnext.errors import ConvNextError
from convnext.files import replace_text
from convnext.layout import counted
from convnext.report import page
from convnext.report.answers import calibration, examples
from convnext.report.curves import draw_curves
from convnext.report.metrics import read_config, read_metrics
from convnext.runtime.names import CURVES, ENVIRONMENT, EVALUATION, EXAMPLES, RESULTS, SUMMARY, TRAINED_ON

REPORT = "report.html"
FIRST = 30
"""Classes shown before the fold, the worst."""
COUNTS = ("images", "objects", "pixels", "threshold")
"""Columns of classes that are no measure of how good the answers are."""

Difference = tuple[str, object, object]


def write_report(
    run: Path,
    differences: Sequence[Difference] | None = None,
    out: Path | None = None,
    paper: tuple[str, Sequence[Difference]] | None = None,
) -> Path:
    """Write the page of a run, `RUN/report.html` if not told otherwise.

    Args:
        differences: (field, the recipe's value, the run's value); None where the recipe is not known here.
        paper: the paper's recipe that is nearest, and the same of it; None where the recipe itself is the paper's.

    Raises:
        ConvNextError: the folder holds no run.
    """
    config, metrics = read_config(run), read_metrics(run)
    environment, summary, evaluation = (_json(run / name) for name in (ENVIRONMENT, SUMMARY, f"{EVALUATION}/{RESULTS}"))
    if not (run / CURVES).exists():
        draw_curves(run)
    try:
        name, parts = _parts(run, config, metrics, environment, summary, evaluation, differences, paper)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ConvNextError(
            f"A file of {run} holds something else than a run writes ({type(error).__name__}: {error}). Evaluate it again, or "
            "restore the files."
        ) from None
    out = out or run / REPORT
    replace_text(out, page.page(name, parts))
    return out


def _parts(
    run: Path,
    config: dict,
    metrics: dict[str, list[dict]],
    environment: dict,
    summary: dict,
    evaluation: dict,
    differences: Sequence[Difference] | None,
    paper: tuple[str, Sequence[Difference]] | None,
) -> tuple[str, list[str]]:
    """Title and sections of the page."""
    model = config.get("model")
    name = f"{config.get('name')}: {model.get('name')}" if isinstance(model, dict) else str(config.get("name"))
    parts = [
        f"<h1>{page.text(name)}</h1>",
        page.paragraph(_about(run, config, environment, metrics)),
        *examples(run / EVALUATION / TRAINED_ON),
        page.section("Result", *_result(run, summary, evaluation)),
        page.section("Curves", page.image(run / CURVES, "curves of the run")),
        calibration(evaluation),
        *examples(run / EVALUATION / EXAMPLES),
        page.section("Classes", *_classes(evaluation)),
        page.section("Figures", *_figures(run / EVALUATION)),
        page.section("Timing", *_timing(config, metrics)),
        page.section("Settings", *_settings(config, differences, paper)),
        page.section("Versions", *_versions(environment)),
        page.section("Again", page.code(_commands(run, environment))),
    ]
    return name, parts


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConvNextError(
            f"{path} is not JSON ({error}). Restore it, or remove it and give the command again."
        ) from None
    return found if isinstance(found, dict) else {}


def _about(run: Path, config: dict, environment: dict, metrics: dict[str, list[dict]]) -> str:
    last = next((records[-1] for kind in ("eval", "train") if (records := metrics.get(kind))), {})
    devices = environment.get("devices") or [f"{environment.get('cores', '?')} CPU cores"]
    return (
        f"{config.get('source', '')}. Data: {config.get('data')}. {last.get('step', 0):,} steps, {last.get('epoch', 0):g} epochs, "
        f"on {', '.join(map(str, devices))}. Started {environment.get('started', 'at an unknown time')}. Folder: {run}."
    )


def _result(run: Path, summary: dict, evaluation: dict) -> list[str]:
    """Metrics of the last evaluation of the run by its weights, and those of `evaluate`."""
    final, best = summary.get("final") or {}, summary.get("best") or {}
    parts = []
    if not summary:
        parts.append(page.paragraph("The run is not finished: these are its figures so far."))
    if "score" in best:
        parts.append(
            page.paragraph(
                f"Best {summary.get('metric')}: {best['score']:.4g} ({best.get('weights')} weights, step {best.get('step'):,}). It "
                "was chosen on the images that it is measured on, so it is a little too high."
            )
        )
    names = dict.fromkeys(key.partition("/")[2] for key in final if "/" in key)
    kinds = [kind for kind in ("raw", "ema") if any(key.startswith(f"{kind}/") for key in final)]
    rows = [(name, *(final.get(f"{kind}/{name}") for kind in kinds)) for name in names]
    parts.append(
        page.table(("at the end of the run", *({"raw": "raw weights", "ema": "EMA"}[kind] for kind in kinds)), rows)
    )
    results = evaluation.get("results") or {}
    note = f" {evaluation['note']}" if evaluation.get("note") else ""
    if results:
        metrics = dict.fromkeys(name for found in results.values() for name in found)
        rows = [(name, *(found.get(name) for found in results.values())) for name in metrics]
        title = f"evaluated on {evaluation.get('images', 0):,} images, {evaluation.get('precision', '')}"
        parts.append(page.table((title, *results), rows))
        parts.append(page.paragraph(f"Images: {evaluation.get('data')}.{note}"))
    else:
        parts.append(
            page.paragraph(
                f"There is no evaluation beside the run: `convnext evaluate {run}` writes it, and this page then shows classes, "
                "confusion, calibration and single images."
            )
        )
    return parts


def _timing(config: dict, metrics: dict[str, list[dict]]) -> list[str]:
    """Speed of the training, its waits and its length, as far as the records tell."""
    records = [record for record in metrics.get("train", []) if record.get("images_per_second")]
    if not records:
        return []
    speeds = np.array([record["images_per_second"] for record in records], dtype=float)
    rows = [("images a second, median", f"{np.median(speeds):,.1f}")]
    if waits := [record["data_wait"] for record in records if "data_wait" in record]:
        rows.append(("share of the time spent waiting for data, median", f"{100 * np.median(waits):.1f} %"))
    if isinstance(batch := config.get("total_batch"), int):
        steps = np.diff([record["step"] for record in records], prepend=0)
        minutes = float((steps * batch / speeds).sum()) / 60
        rows.append(("minutes of training, without evaluations and checkpoints", f"{minutes:,.1f}"))
    return [page.table(("", ""), rows)]


def _classes(evaluation: dict) -> list[str]:
    """Tables of the first weights' classes, the worst by the first share first."""
    per_class: Any = next(iter((evaluation.get("per_class") or {}).values()), {})
    if isinstance(per_class, list):  # rows that have their names with them
        per_class = {row["name"]: {key: row[key] for key in row if key != "name"} for row in per_class}
    rows = [(name, values) for name, values in per_class.items() if isinstance(values, dict)]
    if not rows:
        return []
    keys = list(dict.fromkeys(key for _, values in rows for key in values))
    judged = next((key for key in keys if key not in COUNTS), keys[0])
    rows.sort(key=lambda row: (row[1].get(judged) is None, row[1].get(judged)))
    cells = [(name, *(values.get(key) for key in keys)) for name, values in rows]
    columns = ("class", *keys)
    return [
        page.table(columns, cells[:FIRST]),
        page.folded(f"{len(cells) - FIRST:,} more", page.table(columns, cells[FIRST:])),
    ]


def _figures(folder: Path) -> list[str]:
    """The PNGs of the evaluation, such as the confusion matrix."""
    return [page.image(path, path.stem) for path in sorted(folder.glob("*.png"))] if folder.is_dir() else []


def _settings(
    config: dict, differences: Sequence[Difference] | None, paper: tuple[str, Sequence[Difference]] | None
) -> list[str]:
    """Settings that differ from the recipe and from the paper, and all of them."""
    name, parts = config.get("name"), []
    if differences is None:
        parts.append(page.paragraph(f"The recipe {name} is not known here, so its differences cannot be shown."))
    elif differences:
        parts.append(_compared(f"recipe {name}", differences))
    else:
        parts.append(page.paragraph(f"All settings are those of the recipe {name}."))
    if paper is not None:
        other, differing = paper
        told = f"Beside the paper's nearest recipe, {other}: {counted(len(differing), 'setting')} otherwise"
        parts.append(page.folded(told, _compared(other, differing)))
    return [*parts, page.folded("All settings", page.code(json.dumps(config, indent=2)))]


def _compared(other: str, differences: Sequence[Difference]) -> str:
    rows = [(name, _value(there), _value(here)) for name, there, here in differences]
    return page.table(("setting", other, "this run"), rows)


def _versions(environment: dict) -> list[str]:
    packages = environment.get("packages") or {}
    facts = [(key, environment[key]) for key in ("convnext", "python", "platform", "cuda") if environment.get(key)]
    return [page.table(("", ""), [*facts, *packages.items()])]


def _commands(run: Path, environment: dict) -> str:
    command = environment.get("command") or "convnext train ..."
    return f"{command}\nconvnext evaluate {shlex.quote(str(run))}\nconvnext report run {shlex.quote(str(run))}"


def _value(value: object) -> str:
    return "" if value is None else json.dumps(value) if not isinstance(value, str) else value

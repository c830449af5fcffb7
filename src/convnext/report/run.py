"""One page about a run: what was trained on what, how it went, how good it is, where it errs, how to repeat it.

All comes from the files of the run and of its evaluation; what is not there is left out, and the page says which command
writes it.
"""

import json
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext.errors import ConvNextError
from convnext.files import replace_text
from convnext.report import page
from convnext.report.calibration import BINS, calibration, draw_reliability
from convnext.report.curves import draw_curves
from convnext.report.metrics import read_config, read_metrics
from convnext.runtime.names import CURVES, ENVIRONMENT, EVALUATION, PREDICTIONS, RESULTS, SUMMARY

REPORT = "report.html"
FIRST = 30
"""Classes shown before the fold, the worst."""

Difference = tuple[str, object, object]


def write_report(run: Path, differences: Sequence[Difference] | None = None, out: Path | None = None) -> Path:
    """Write the page of a run, `RUN/report.html` if not told otherwise.

    Args:
        differences: (field, the recipe's value, the run's value); None where the recipe is not known here.

    Raises:
        ConvNextError: the folder holds no run.
    """
    config, metrics = read_config(run), read_metrics(run)
    environment, summary, evaluation = (_json(run / name) for name in (ENVIRONMENT, SUMMARY, f"{EVALUATION}/{RESULTS}"))
    if not (run / CURVES).exists():
        draw_curves(run)
    try:
        name, parts = _parts(run, config, metrics, environment, summary, evaluation, differences)
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
) -> tuple[str, list[str]]:
    """Title and sections of the page."""
    model = config.get("model")
    name = f"{config.get('name')}: {model.get('name')}" if isinstance(model, dict) else str(config.get("name"))
    parts = [
        f"<h1>{page.text(name)}</h1>",
        page.paragraph(_about(run, config, environment, metrics)),
        page.section("Result", *_result(run, summary, evaluation)),
        page.section("Curves", page.image(run / CURVES, "curves of the run")),
        *_answers(run / EVALUATION),
        page.section("Classes", *_classes(evaluation)),
        page.section("Figures", *_figures(run / EVALUATION)),
        page.section("Settings", *_settings(config, differences)),
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
    speeds = [record["images_per_second"] for record in metrics.get("train", []) if "images_per_second" in record]
    speed = f", {np.median(speeds):,.0f} images a second" if speeds else ""
    devices = environment.get("devices") or [f"{environment.get('cores', '?')} CPU cores"]
    return (
        f"{config.get('source', '')}. Data: {config.get('data')}. {last.get('step', 0):,} steps, {last.get('epoch', 0):g} epochs"
        f"{speed}, on {', '.join(map(str, devices))}. Started {environment.get('started', 'at an unknown time')}. Folder: {run}."
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
    if results:
        metrics = dict.fromkeys(name for found in results.values() for name in found)
        rows = [(name, *(found.get(name) for found in results.values())) for name in metrics]
        title = f"evaluated on {evaluation.get('images', 0):,} images, {evaluation.get('precision', '')}"
        parts.append(page.table((title, *results), rows))
        parts.append(page.paragraph(f"Images: {evaluation.get('data')}."))
    else:
        parts.append(
            page.paragraph(
                f"There is no evaluation beside the run: `convnext evaluate {run}` writes it, and this page then shows classes, "
                "confusion, calibration and single images."
            )
        )
    return parts


def _answers(folder: Path) -> list[str]:
    """Calibration, mistakes and unsure hits, from the answers to single images."""
    path = folder / PREDICTIONS
    if not path.is_file():
        return []
    try:
        found = pq.read_table(path)
        confidence = found["confidence"].to_numpy()
        said, truth, images = (found[name].to_pylist() for name in ("said", "truth", "image"))
        shown = found["picture"].to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ConvNextError(f"{path} cannot be read ({error}). Evaluate again, or remove it.") from None
    hit = np.array([one == other for one, other in zip(said, truth, strict=True)])
    measured = calibration(confidence, hit)
    with tempfile.TemporaryDirectory() as scratch:
        drawn = page.image(
            draw_reliability(measured, Path(scratch) / "reliability.png"), "reliability diagram", width=430
        )
    words = (
        f"Expected calibration error {100 * measured.error:.2f} % over {BINS} bins: mean confidence "
        f"{100 * confidence.mean():.1f} %, accuracy {100 * hit.mean():.1f} %. Orange points are the mean confidence of a bin."
    )
    order = np.argsort(-confidence, kind="stable")

    def with_pictures(places: np.ndarray) -> list[tuple[bytes, str]]:
        return [
            (
                shown[i],
                f"{said[i]} {100 * confidence[i]:.0f} %" + ("" if hit[i] else f", is {truth[i]}") + f" · {images[i]}",
            )
            for i in places
            if shown[i] is not None
        ]

    return [
        page.section("Calibration", page.paragraph(words), drawn),
        page.section("The surest mistakes", page.pictures(with_pictures(order[~hit[order]]))),
        page.section("The least sure hits", page.pictures(with_pictures(order[hit[order]][::-1]))),
    ]


def _classes(evaluation: dict) -> list[str]:
    """Tables of the first weights' classes, the worst by the first share first."""
    by_weights = evaluation.get("per_class") or {}
    per_class = next(iter(by_weights.values()), {}) if isinstance(by_weights, dict) else {}
    rows = [(name, values) for name, values in per_class.items() if isinstance(values, dict)]
    if not rows:
        return []
    keys = list(dict.fromkeys(key for _, values in rows for key in values))
    judged = next((key for key in keys if key not in ("images", "instances", "threshold")), keys[0])
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


def _settings(config: dict, differences: Sequence[Difference] | None) -> list[str]:
    """Settings that differ from the recipe, and all of them."""
    name, parts = config.get("name"), []
    if differences is None:
        parts.append(page.paragraph(f"The recipe {name} is not known here, so its differences cannot be shown."))
    elif differences:
        parts.append(
            page.table(
                ("setting", f"recipe {name}", "this run"), [(k, _value(a), _value(b)) for k, a, b in differences]
            )
        )
    else:
        parts.append(page.paragraph(f"All settings are those of the recipe {name}."))
    return [*parts, page.folded("All settings", page.code(json.dumps(config, indent=2)))]


def _versions(environment: dict) -> list[str]:
    packages = environment.get("packages") or {}
    facts = [(key, environment[key]) for key in ("convnext", "python", "platform", "cuda") if environment.get(key)]
    return [page.table(("", ""), [*facts, *packages.items()])]


def _commands(run: Path, environment: dict) -> str:
    command = environment.get("command") or "convnext train ..."
    return f"{command}\nconvnext evaluate {shlex.quote(str(run))}\nconvnext report run {shlex.quote(str(run))}"


def _value(value: object) -> str:
    return "" if value is None else json.dumps(value) if not isinstance(value, str) else value

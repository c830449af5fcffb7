"""The curves of a run, from its `metrics.jsonl`."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from convnext.errors import ConvNextError
from convnext.report import style
from convnext.report.metrics import read_metrics
from convnext.runtime.names import CURVES, DETAILS

LABELS = {
    "top1": "top-1 accuracy (%)",
    "top5": "top-5 accuracy (%)",
    "balanced": "balanced accuracy (%)",
    "map": "mAP over classes (%)",
    "map_micro": "mAP over all labels (%)",
    "f1": "F1 over classes (%)",
    "f1_micro": "F1 over all labels (%)",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "images_per_second": "images per second",
    "data_wait": "share of time waiting for data",
}
WEIGHTS = tuple(f"{weights}/" for weights in style.VARIANTS)
NOT_CURVES = {"kind", "step", "epoch"}


@style.look()
def draw_curves(run_dir: str | Path) -> Path:
    """Draw `curves.png` into the folder of a run: losses, every evaluated metric, and the state of the training.

    Every metric of an evaluation gets a panel, with a line for each of the weights it was measured with ("raw/top1",
    "ema/top1"). A run without an evaluation yet shows its training alone.
    """
    records = read_metrics(run_dir)
    train, evaluations = records.get("train", []), records.get("eval", [])
    if not train and not evaluations:
        raise ConvNextError(
            f"{run_dir} has no training and no evaluation in its metrics.jsonl; there is nothing to draw."
        )
    axis = _Axis(train)
    metrics: dict[str, dict[str, str]] = {"loss": {}}  # metric -> weights -> name of the record's field
    for name in _names(evaluations):
        weights, _, metric = name.partition("/") if name.startswith(WEIGHTS) else ("", "", name)
        metrics.setdefault(metric, {})[weights] = name
    states = _names(train)
    if not metrics["loss"] and "loss" not in states:
        del metrics["loss"]
    drawn = style.figure(11, 4)
    large = ([name for name in metrics if not name.endswith(DETAILS)] or states)[
        :3
    ]  # the loss and the first two metrics
    panels = _panels(drawn, large, [name for name in dict.fromkeys([*metrics, *states]) if name not in large])
    for name, axes in panels.items():
        style.panel(axes, LABELS.get(name, name.replace("_", " ")), axis.label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6 if name in large else 4, integer=True, min_n_ticks=1))
    for name in states:
        if name == "lr":  # no noise to smooth, and a warm-up whose corner matters
            panels[name].plot(*axis.of(train, name), color=style.INK)
            panels[name].yaxis.set_major_formatter("{x:.3g}")
        else:
            _state(panels[name], *axis.of(train, name), label="training" if name in metrics else None)
    for metric, fields in metrics.items():
        for weights, field in fields.items():
            _evaluation(panels[metric], *axis.of(evaluations, field), metric, weights, axis.label)
        low, high = panels[metric].dataLim.intervaly
        if not _lower_is_better(metric) and low >= 0 and 1 < high <= 100:  # percent
            bottom, top = panels[metric].get_ylim()
            panels[metric].set_ylim(max(bottom, 0), min(top, 100))
    for name, axes in panels.items():
        if axes.get_legend_handles_labels()[0]:
            small = {} if name in large else {"fontsize": 6.5, "handlelength": 1, "borderpad": 0}
            # below the panel, where it hides no line; the distance is in heights of its letters
            axes.legend(loc="upper left", bbox_to_anchor=(0, 0), borderaxespad=4 if name in large else 5, **small)
    return style.save(drawn, Path(run_dir) / CURVES)


def _panels(drawn, large: list[str], small: list[str]) -> dict[str, Axes]:
    """One row of large panels and, below, rows of at most four small ones, by name."""
    if not small:
        return dict(zip(large, drawn.subplots(1, len(large), squeeze=False)[0], strict=True))
    rows = math.ceil(len(small) / 4)
    columns = math.ceil(len(small) / rows)
    heights = [drawn.get_figheight(), 2.3 * rows]
    drawn.set_figheight(sum(heights))
    top, bottom = drawn.subfigures(2, 1, height_ratios=heights)
    grid = bottom.subplots(rows, columns, squeeze=False).ravel()
    for unused in grid[len(small) :]:
        unused.set_visible(False)
    return _panels(top, large, []) | dict(zip(small, grid, strict=False))


def smooth(y: np.ndarray) -> np.ndarray:
    """A moving average over about a fortieth of the points; what is not finite is left out of it."""
    window = np.ones(2 * (len(y) // 80) + 1)
    finite = np.isfinite(y)
    total = np.convolve(np.where(finite, y, 0.0), window, mode="same")
    count = np.convolve(finite.astype(float), window, mode="same")
    return np.divide(total, count, out=np.full(len(y), np.nan), where=count > 0)


class _Axis:
    """Steps as epochs, at the rate of the training records; steps where there are none."""

    def __init__(self, train: list[dict]):
        last = train[-1] if train else {}
        self.epochs_per_step = last["epoch"] / last["step"] if last.get("step") and last.get("epoch") else None
        self.label = "epoch" if self.epochs_per_step else "step"

    def of(self, records: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
        points = [(record["step"], record[name]) for record in records if _is_number(record.get(name))]
        x, y = np.array(points, dtype=float).reshape(-1, 2).T
        return x * (self.epochs_per_step or 1), y


def _state(axes: Axes, x: np.ndarray, y: np.ndarray, label: str | None) -> None:
    """Smoothed, and faintly as it is; with a label where it joins an evaluated metric, else on an axis from zero."""
    color = style.GREY if label else style.INK
    axes.plot(x, y, color=color, alpha=0.35, linewidth=0.8)
    axes.plot(x, smooth(y), color=color, label=label)
    if not label and not (y < 0).any():
        axes.set_ylim(bottom=0)


def _evaluation(axes: Axes, x: np.ndarray, y: np.ndarray, metric: str, weights: str, unit: str) -> None:
    color = style.VARIANTS.get(weights, style.GREEN)
    label = {"raw": "raw weights", "ema": "EMA", "": "evaluated"}.get(weights, weights)
    if np.isfinite(y).any():
        best = np.nanargmin(y) if _lower_is_better(metric) else np.nanargmax(y)
        label += f": best {y[best]:.4g} at {unit} {x[best]:.4g}"
        axes.plot(
            x[best], y[best], marker="*", markersize=11, color=color, markeredgecolor="white", zorder=5, clip_on=False
        )
    axes.plot(x, y, color=color, label=label, marker="." if len(x) < 40 else "", markersize=5)


def _names(records: list[dict]) -> list[str]:
    """The curves in `records`, in order of appearance; without those that never have a value, such as AP of no object."""
    return list(
        dict.fromkeys(
            n for r in records for n, v in r.items() if n not in NOT_CURVES and _is_number(v) and math.isfinite(v)
        )
    )


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lower_is_better(metric: str) -> bool:
    return "loss" in metric or "error" in metric

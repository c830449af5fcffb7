"""Figure 2: from ResNet to ConvNeXt, step by step, with the paper's accuracies and with those of your own runs."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from convnext.errors import ConvNextError, nearest
from convnext.paper import GROUPS, NOT_ADOPTED, ROADMAPS, STEPS
from convnext.report import style
from convnext.report.metrics import read_config, read_metrics

COLORS = {"resnet50": style.BLUE, "resnet200": style.GREY}
PLAIN = "plain-recipe"
"""Row of the ResNet without the modern training recipe: a baseline of the paper, not a step."""
ROWS = {PLAIN: "ResNet, plain recipe"} | STEPS | {"resnet": "ResNet, this recipe"}


@dataclass(frozen=True)
class Bar:
    value: float
    std: float | None
    label: str


@style.look()
def draw_roadmap(path: str | Path, runs: Sequence[str | Path] = ()) -> Path:
    """Draw both regimes' bars from Tables 10 and 11; beside them, those of `runs` on an axis of their own.

    A run is a folder of a recipe `roadmap/<regime>-<step>`. Runs of the same step are seeds: their last accuracies (raw
    weights) become a mean and a standard deviation.

    Raises:
        ConvNextError: a run is of another recipe, or has no accuracy yet.
    """
    measured = measure(runs)
    drawn = style.figure(14 if measured else 9, 8.6)
    panels = drawn.subplots(1, 2 if measured else 1, sharey=True, squeeze=False)[0]
    _draw(panels[0], "the paper, ImageNet-1K", _published())
    for (regime, roadmap), side in zip(ROADMAPS.items(), (-1, 1), strict=True):
        swin, color = roadmap.swin, COLORS[regime]
        panels[0].axvline(swin.top1, color=color, linestyle=":", linewidth=1.4, zorder=0.5)
        panels[0].plot(swin.top1, -1.1, marker="*", markersize=12, color=color)
        label = f"{swin.name} {swin.top1:.2f}  ({swin.gflops:.2f} G)"
        panels[0].annotate(
            label,
            (swin.top1, -1.1),
            xytext=(9 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=7.5,
        )
    panels[0].set_xlabel(f"{panels[0].get_xlabel()}\n* counted: the paper prints these GFLOPs one row off")
    if measured:
        _draw(panels[1], "your runs", measured)
    _rows(panels[0])
    shown = [Patch(facecolor=COLORS[regime], label=f"{roadmap.name} regime") for regime, roadmap in ROADMAPS.items()]
    shown.append(Patch(facecolor="white", edgecolor=style.INK, hatch="////", label="tried, not adopted"))
    drawn.legend(handles=shown, loc="outside lower center", ncols=3)
    return style.save(drawn, path)


def measure(runs: Sequence[str | Path]) -> dict[tuple[str, str], Bar]:
    """(regime, step) -> the mean accuracy of its runs."""
    accuracies = defaultdict(list)
    for run in runs:
        accuracies[_identity(run)].append(_accuracy(run))
    bars = {}
    for key, values in accuracies.items():
        std = stdev(values) if len(values) > 1 else None
        spread = f" ± {std:.2f}" if std is not None else ""
        bars[key] = Bar(mean(values), std, f"{mean(values):.2f}{spread}  ({len(values)} run{'s' * (len(values) > 1)})")
    return bars


def _identity(run: str | Path) -> tuple[str, str]:
    name = str(read_config(run).get("name"))
    recipe = name.removeprefix("roadmap/")
    regime, _, step = recipe.partition("-")
    if recipe == name or regime not in ROADMAPS or step not in STEPS:
        known = [f"roadmap/{regime}-{step}" for regime in ROADMAPS for step in STEPS]
        raise ConvNextError(f"{run} is a run of {name!r}, not of a roadmap recipe.{nearest(name, known)} Leave it out.")
    return regime, step


def _accuracy(run: str | Path) -> float:
    for record in reversed(read_metrics(run).get("eval", [])):
        if "raw/top1" in record:
            return record["raw/top1"]
    raise ConvNextError(f"{run} has no accuracy (raw/top1) in its metrics.jsonl. Let it finish, or leave it out.")


def _published() -> dict[tuple[str, str], Bar]:
    bars = {}
    for regime, roadmap in ROADMAPS.items():
        plain = roadmap.plain
        bars[regime, PLAIN] = Bar(plain.top1, None, f"{plain.top1:.2f}  ({plain.gflops:.2f} G)")
        for step in roadmap.steps:
            spread = f" ± {step.std:.2f}" if step.std is not None else ""
            gflops = f"{step.macs / 1e9:.2f} G" + "*" * step.misprinted
            bars[regime, step.key] = Bar(step.top1, step.std, f"{step.top1:.2f}{spread}  ({gflops})")
    return bars


def _draw(axes: Axes, title: str, bars: dict[tuple[str, str], Bar]) -> None:
    """Two bars per row, one per regime, labelled inside; the axis starts below the lowest."""
    regimes = [regime for regime in ROADMAPS if any(r == regime for r, _ in bars)]
    height = 0.76 / len(regimes)
    low, high = min(bar.value for bar in bars.values()), max(bar.value for bar in bars.values())
    room = (high - low) or 1.0
    start = max(0.0, low - 0.6 * room)
    for (regime, step), bar in bars.items():
        y = list(ROWS).index(step) + (regimes.index(regime) - (len(regimes) - 1) / 2) * height
        hatched = step in NOT_ADOPTED
        axes.barh(
            y,
            bar.value - start,
            height * 0.92,
            left=start,
            color="white" if hatched else COLORS[regime],
            edgecolor=COLORS[regime],
            hatch="////" if hatched else None,
            xerr=bar.std,
            error_kw={"ecolor": style.INK, "elinewidth": 1, "capsize": 1.5},
        )
        axes.annotate(
            bar.label,
            (start, y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=style.INK if hatched else "white",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1} if hatched else None,
        )
    axes.set_xlim(start, high + 0.15 * room)
    axes.set_ylim(len(ROWS) - 0.4, -1.6)
    axes.tick_params(axis="y", length=0)
    style.panel(axes, title, "top-1 accuracy (%)")
    axes.grid(False, axis="y")
    for index, steps in enumerate(GROUPS.values()):
        if index % 2 == 0:
            first, last = list(ROWS).index(steps[0]), list(ROWS).index(steps[-1])
            axes.axhspan(first - 0.5, last + 0.5, color=style.PALE, alpha=0.3, zorder=0, linewidth=0)


def _rows(axes: Axes) -> None:
    """Names of the steps, and of the sections that they belong to."""
    axes.set_yticks(range(len(ROWS)), ROWS.values(), fontsize=9)
    for name, steps in GROUPS.items():
        middle = mean(list(ROWS).index(step) for step in steps)
        axes.annotate(
            name.replace(" ", "\n"),
            (0, middle),
            xycoords=("axes fraction", "data"),
            xytext=(-142, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=style.GREY,
        )

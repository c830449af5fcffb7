"""Figure 1: accuracy of the paper's model families against their cost."""

from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, ScalarFormatter

from convnext.errors import ConvNextError
from convnext.paper import TABLE1, TRANSFORMERS, Classification, Pretrain
from convnext.report import style

AXES = {
    "macs": ("gflops", "GFLOPs (multiply-accumulates)", "params_m", "params"),
    "params": ("params_m", "params (millions)", "gflops", "GFLOPs"),
    "throughput": ("v100", "images per second on a V100", "gflops", "GFLOPs"),
}
"""x -> the field on the axis and its label, the field that a bubble's area shows and its label."""


class Bubble(NamedTuple):
    name: str
    x: float
    y: float
    area: float
    """In points squared."""
    color: str


@style.look()
def draw_figure1(path: str | Path, x: Literal["macs", "params", "throughput"] = "macs") -> Path:
    """The bubble chart of Figure 1 from Table 1's rows: trained on ImageNet-1K, and pre-trained on ImageNet-22K.

    Filled bubbles are ConvNets, hollow ones vision Transformers; dashed lines join models on images above 224 px.
    """
    if x not in AXES:
        raise ConvNextError(f"Figure 1 has no axis {x!r}: choose {', '.join(AXES)}.")
    field, label, area, area_label = AXES[x]
    rows = [row for row in TABLE1 if getattr(row, field) is not None]
    drawn = style.figure(12.5, 6.2)
    left, right = drawn.subplots(1, 2, sharey=True)
    bubbles = {}
    scale = 900 / max(getattr(row, area) for row in rows)
    halves: list[tuple[Axes, Pretrain, str]] = [
        (left, "1k", "ImageNet-1K trained"),
        (right, "22k", "ImageNet-22K pre-trained"),
    ]
    for axes, pretrain, title in halves:
        style.panel(axes, title, label)
        shown = [row for row in rows if row.top1(pretrain) is not None]
        bubbles[axes] = _families(axes, shown, pretrain, field, area, scale)
    left.set_ylabel("ImageNet-1K top-1 accuracy (%)")
    families = dict.fromkeys(row.family for row in rows)
    drawn.legend(handles=[_key(name) for name in families], loc="outside lower center", ncols=len(families))
    drawn.suptitle(
        f"bubble area: {area_label};  solid line: 224 px, dashed: larger images", fontsize=8, color=style.GREY
    )
    drawn.draw_without_rendering()  # settles where things are, which the names are placed by
    for axes in (left, right):
        _names(axes, bubbles[axes])
    return style.save(drawn, path)


def _families(axes: Axes, rows: list[Classification], pretrain: Pretrain, field: str, area: str, scale: float):
    """Draw a line of bubbles per family, and return the bubbles."""
    bubbles = []
    lines = defaultdict(list)
    for row in rows:
        lines[row.family, row.size > 224].append(row)
    for (family, larger), members in lines.items():
        color, hollow = style.FAMILIES[family], family in TRANSFORMERS
        members = sorted(members, key=lambda row: getattr(row, field))
        x, y = [getattr(row, field) for row in members], [row.top1(pretrain) for row in members]
        axes.plot(x, y, color=color, linewidth=1, linestyle="--" if larger else "-", alpha=0.8, zorder=1)
        face = "white" if hollow else color
        areas = [max(scale * getattr(row, area), 14) for row in members]
        axes.scatter(
            x,
            y,
            s=areas,
            facecolor=face,
            edgecolor=color if hollow else "white",
            linewidth=1.2,
            alpha=1.0 if hollow else 0.85,
            zorder=2,
        )
        for row, *place in zip(members, x, y, areas, strict=True):
            variant = row.model.removesuffix(" (AugReg)").split("-", 1)[1]
            bubbles.append(Bubble(variant, *place, color=color))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.08)
    return bubbles


def _names(axes: Axes, bubbles: list[Bubble]) -> None:
    """Write each variant above, below or beside its bubble, wherever it covers the least of what is there already."""
    points = axes.figure.dpi / 72
    centres = axes.transData.transform([(b.x, b.y) for b in bubbles]) / points
    radii = [b.area**0.5 / 2 for b in bubbles]
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    for bubble, (x, y), r in zip(bubbles, centres, radii, strict=True):
        width, height = 4.4 * len(bubble.name) + 3, 7.0
        side = r + 2 + width / 2
        offsets = [(0, r + 5), (0, -r - 5), (side, 0), (-side, 0), (side, 6), (-side, 6), (side, -6), (-side, -6)]
        boxes = [(x + i - width / 2, y + j - height / 2, x + i + width / 2, y + j + height / 2) for i, j in offsets]
        best = min(range(len(boxes)), key=lambda k: sum(_overlap(boxes[k], other) for other in taken))
        taken.append(boxes[best])
        axes.annotate(
            bubble.name,
            (bubble.x, bubble.y),
            xytext=offsets[best],
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=7,
            color=bubble.color,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def _overlap(a: tuple, b: tuple) -> float:
    """Area that two boxes (left, bottom, right, top) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _key(family: str) -> Line2D:
    color = style.FAMILIES[family]
    face = "white" if family in TRANSFORMERS else color
    return Line2D([], [], color=color, marker="o", markerfacecolor=face, markersize=7, label=family)

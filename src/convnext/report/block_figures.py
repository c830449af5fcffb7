"""Figures 3 and 4: designs of blocks, drawn from the layers of live modules."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from convnext.report import style

STEP, WIDTH = 1.0, 2.6
COLORS = {"d": style.SKY, "M": style.AMBER}
"""By the first letter of a layer: depthwise convolution, attention; others are pale."""


@style.look()
def draw_blocks(blocks: Mapping[str, Sequence[str]], path: str | Path, title: str) -> Path:
    """Draw blocks side by side, each from top to bottom: a box for each layer with weights, what is between beside the arrow.

    Args:
        blocks: title -> layers as `benchmark.paper_blocks.layers` gives them: `+` is a sum with the shortcut.
        path: of the PNG.
    """
    longest = max(sum(_is_box(layer) for layer in layers) + layers.count("+") for layers in map(list, blocks.values()))
    drawn = style.figure(3.1 * len(blocks), 0.62 * longest + 1.6)
    panels = drawn.subplots(1, len(blocks), squeeze=False)[0]
    for axes, (name, layers) in zip(panels, blocks.items(), strict=True):
        _draw(axes, name, list(layers), longest)
    drawn.suptitle(title, fontsize=9, color=style.GREY)
    return style.save(drawn, path)


def _is_box(layer: str) -> bool:
    return "×" in layer or layer.startswith("MSA")


def _draw(axes: Axes, name: str, layers: list[str], longest: int) -> None:
    axes.set_title(name)
    axes.set_xlim(-2.6, 2.6)
    axes.set_ylim(-(longest + 0.7) * STEP, 0.9)
    axes.axis("off")
    y, opened, beside = 0.0, 0.55, []  # `opened`: where the current shortcut leaves the main branch
    _line(axes, (0, 0.75), (0, -0.3), "-")
    for layer in layers:
        if layer == "+":
            y -= STEP
            _line(axes, (0, y + STEP - 0.28), (0, y + 0.2), "->")
            _text(axes, beside, y + 0.55)
            axes.text(
                0, y, "+", ha="center", va="center", fontsize=13, bbox={"boxstyle": "circle,pad=0.1", "fc": "white"}
            )
            axes.plot([0, -1.9, -1.9, -0.3], [opened, opened, y, y], color=style.INK, linewidth=1)
            opened, beside = y - 0.35, []
            _line(axes, (0, y - 0.2), (0, y - 0.55), "-")
        elif _is_box(layer):
            y -= STEP
            _line(axes, (0, y + STEP - 0.28), (0, y + 0.28), "->")
            _text(axes, beside, y + 0.5)
            color = COLORS.get(layer[0], "white")
            axes.add_patch(
                FancyBboxPatch(
                    (-WIDTH / 2, y - 0.26),
                    WIDTH,
                    0.52,
                    "round,pad=0.02",
                    facecolor=color,
                    edgecolor=style.INK,
                    linewidth=1,
                )
            )
            axes.text(0, y, layer.replace(", rel. pos.", ""), ha="center", va="center", fontsize=8.5)
            beside = []
        else:
            beside.append(layer)
    _text(axes, beside, y - 0.42)


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": kind, "color": style.INK, "shrinkA": 0, "shrinkB": 0})


def _text(axes: Axes, beside: Sequence[str], y: float) -> None:
    """Norms and activations, beside the arrow."""
    if beside:
        axes.text(0.18, y, ", ".join(beside), ha="left", va="center", fontsize=8, color=style.ORANGE)

"""The one look of all figures."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convnext.console import clean

# Okabe and Ito's palette, which the common kinds of colour blindness can tell apart
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER = "#56B4E9", "#E69F00"
INK, GREY, PALE = "#222222", "#7F7F7F", "#D9D9D9"

FAMILIES = {
    "ConvNeXt": BLUE,
    "Swin": ORANGE,
    "DeiT": AMBER,
    "ViT": "#8C6A00",
    "ViT (AugReg)": INK,
    "RegNetY": PURPLE,
    "EfficientNet": GREEN,
    "EfficientNetV2": "#005C43",
    "BiT": GREY,
}
VARIANTS = {"raw": BLUE, "ema": ORANGE}
"""The weights that an evaluation used."""

DPI = 150


def look():
    """A context, or decorator, in which figures are drawn."""
    return matplotlib.rc_context(
        {
            "text.parse_math": False,  # names may hold dollar signs
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 9,
            "axes.edgecolor": GREY,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": PALE,
            "grid.linewidth": 0.6,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "text.color": INK,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "hatch.linewidth": 0.7,
        }
    )


def plain(text: object, most: int = 200) -> str:
    """Text from a file as a figure can show it: one line of at most so many characters, none of them a control."""
    line = clean(text).replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= most else line[: most - 1] + "…"


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches; no pyplot, so nothing stays open and no display is needed."""
    return Figure(figsize=(width, height), layout="constrained")


def panel(axes: Axes, title: str, x: str = "", y: str = "") -> Axes:
    """Title, axis labels and a quiet grid."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True)
    return axes


def save(drawn: Figure, path: str | Path) -> Path:
    """Write a PNG at 150 dpi and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=DPI, format="png")
    return path

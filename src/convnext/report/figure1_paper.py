"""Figure 1 in the paper's own form: families side by side, images of 224 px for ImageNet-1K and 384 px for 22K."""

from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from convnext.paper import ROADMAPS, TABLE1, TRANSFORMERS, Pretrain
from convnext.report import style

CONVNETS, ATTENTION = style.BLUE, style.ORANGE
HALVES: tuple[tuple[Pretrain, int, str, tuple[str, ...]], ...] = (
    ("1k", 224, "ImageNet-1K trained, 224 px", ("DeiT", "Swin", "ConvNeXt")),
    ("22k", 384, "ImageNet-22K pre-trained, 384 px", ("ViT", "Swin", "ConvNeXt")),
)


class Bubble(NamedTuple):
    """A variant of a family: its letter, accuracy in percent and GFLOPs."""

    name: str
    top1: float
    gflops: float


def families(pretrain: Pretrain, size: int, names: tuple[str, ...]) -> dict[str, list[Bubble]]:
    """The bubbles of a half by family; ResNets trained by this recipe come from the roadmaps' first steps."""
    found: dict[str, list[Bubble]] = {}
    if pretrain == "1k":
        first = {name.partition(" ")[0]: roadmap.steps[0] for name, roadmap in ((r.name, r) for r in ROADMAPS.values())}
        found["ResNet"] = [Bubble(name.split("-")[1], step.top1, step.gflops) for name, step in first.items()]
    for family in names:
        found[family] = [
            Bubble(row.model.partition("-")[2], row.top1(pretrain), row.gflops)  # type: ignore[arg-type]
            for row in TABLE1
            if row.family == family and row.top1(pretrain) is not None and row.size == size
        ]
    return found


@style.look()
def draw_figure1_paper(path: str | Path) -> Path:
    """The chart on the paper's first page; a bubble's area is proportional to its GFLOPs."""
    drawn = style.figure(9, 5.2)
    axes = drawn.subplots(1, 1)
    position, ticks, scale = 0, [], 9.0
    for pretrain, size, title, names in HALVES:
        start = position
        for family, bubbles in families(pretrain, size, names).items():
            _family(axes, position, family, bubbles, scale)
            ticks.append((position, family))
            position += 1
        axes.annotate(
            title, ((start + position - 1) / 2, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=9
        )
        if pretrain == "1k":
            axes.axvline(position - 0.5, color=style.PALE, linewidth=1)
    style.panel(axes, "", "", "ImageNet-1K top-1 accuracy (%)")
    axes.grid(False, axis="x")
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
    axes.set_xlim(-0.7, position - 0.3)
    axes.set_ylim(77.5, 89)
    drawn.suptitle(
        "bubble area: GFLOPs;  blue: ConvNets, orange: vision Transformers",
        fontsize=8,
        color=style.GREY,
    )
    return style.save(drawn, path)


def _family(axes: Axes, x: int, family: str, bubbles: list[Bubble], scale: float) -> None:
    color = ATTENTION if family in TRANSFORMERS else CONVNETS
    bubbles = sorted(bubbles, key=lambda bubble: -bubble.gflops)
    axes.scatter(
        [x] * len(bubbles),
        [bubble.top1 for bubble in bubbles],
        s=[scale * bubble.gflops for bubble in bubbles],
        facecolor=color,
        edgecolor="white",
        alpha=0.75,
    )
    for bubble in bubbles:
        axes.annotate(
            bubble.name,
            (x, bubble.top1),
            xytext=(4 + (scale * bubble.gflops) ** 0.5 / 2, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=7.5,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )

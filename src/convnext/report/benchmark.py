"""Bars of images per second from the rows of `convnext benchmark`: ours beside the peers, a panel for each kind of work."""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from convnext.errors import ConvNextError
from convnext.report import style

COLORS = {
    "ours": style.BLUE,
    "timm": style.ORANGE,
    "torchvision": style.AMBER,
    "transformers": style.PURPLE,
}
ROW, MARGIN, TOP = 0.26, 0.75, 0.35  # inches


def read_rows(path: str | Path) -> list[dict]:
    """The rows of a file that `convnext benchmark --out` wrote.

    Raises:
        ConvNextError: it cannot be read.
    """
    try:
        return list(json.loads(Path(path).read_text(encoding="utf-8"))["rows"])
    except FileNotFoundError:
        raise ConvNextError(f"{path} does not exist. Give the file that `convnext benchmark --out` writes.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConvNextError(f"{path} is no file of `convnext benchmark` ({error}).") from None


@style.look()
def draw_benchmark(rows: Sequence[dict], path: str | Path) -> Path:
    """Draw a bar for each measured row, p20 to p80 as a line across its end, and its ratio to the best peer.

    Panels are modes, batch and image sizes and precisions; in each the fastest is on top. Rows with an error are left out.

    Raises:
        ConvNextError: no row has a speed.
    """
    panels: dict[str, list[dict]] = {}
    for row in rows:
        if "images_per_second" in row:
            panels.setdefault(_title(row), []).append(row)
    if not panels:
        raise ConvNextError("No configuration was measured, so there is nothing to draw.")
    heights = [MARGIN + ROW * len(members) for members in panels.values()]
    drawn = style.figure(9, TOP + sum(heights))
    legend, *blocks = drawn.subfigures(1 + len(panels), 1, height_ratios=[TOP, *heights], squeeze=False)[:, 0]
    for block, (title, members) in zip(blocks, panels.items(), strict=True):
        _bars(block.subplots(), title, sorted(members, key=lambda row: row["images_per_second"]["p50"]))
    there = [library for library in COLORS if any(row["library"] == library for row in rows)]
    handles = [Patch(color=COLORS[library]) for library in there]
    legend.legend(handles, ["convnext (ours)" if name == "ours" else name for name in there], loc="center", ncols=4)
    return style.save(drawn, path)


def _bars(axes: Axes, title: str, members: list[dict]) -> None:
    """One bar a row, the last on top."""
    middle = [row["images_per_second"]["p50"] for row in members]
    reach = [
        [row["images_per_second"]["p50"] - row["images_per_second"]["p20"] for row in members],
        [row["images_per_second"]["p80"] - row["images_per_second"]["p50"] for row in members],
    ]
    places = range(len(members))
    axes.barh(
        places, middle, height=0.72, color=[COLORS[row["library"]] for row in members],
        xerr=reach, error_kw={"ecolor": style.INK, "elinewidth": 1, "capsize": 2},
    )  # fmt: skip
    for place, row, speed in zip(places, members, middle, strict=True):
        ratio = f"   {row['ratio']:.2f}x" if "ratio" in row else ""
        text = (f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}") + ratio
        end = (row["images_per_second"]["p80"], place)
        axes.annotate(text, end, xytext=(6, 0), textcoords="offset points", va="center", fontsize=7.5)
    style.panel(axes, title, "images per second")
    axes.grid(False, axis="y")
    axes.set_yticks(places, [_label(row) for row in members])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(members) - 0.4)
    axes.set_xlim(0, 1.22 * max(row["images_per_second"]["p80"] for row in members))


def _title(row: dict) -> str:
    config = row["config"]
    work = {"inference": "Inference", "train": "Training step"}[config["mode"]]
    weights = " autocast" if config["autocast"] else ""
    return (
        f"{work}, batch {config['batch']}, {config['image_size']} px, {config['precision']}{weights}, {row['device']}"
    )


def _label(row: dict) -> str:
    config = row["config"]
    how = "deploy" if config["form"] == "deploy" else {"none": "eager"}.get(config["compile"], config["compile"])
    words = [config["model"].removeprefix(f"{row['library']}:"), how, config["layout"].upper()]
    words += ["graph"] * config["graph"] + [f"{config['backend']} ops"] * (config["backend"] != "auto")
    return "  ".join(words)

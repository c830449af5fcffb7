"""Images with the objects that are in them, or that a model has found."""

import colorsys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convnext.report import style

SMALLEST = 320
"""Pixels of the long side up to which an image is enlarged, so that text on it can be read without covering it."""

_BASE = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.AMBER)
_GOLDEN = 0.61803398875  # turns of the colour circle that never come near each other

Box = tuple[float, float, float, float]


def color_of(label: int) -> tuple[int, int, int]:
    """The colour of a class, the same in every image: the palette of all figures, then around the colour circle."""
    if label < len(_BASE):
        red, green, blue = (int(_BASE[label][k : k + 2], 16) for k in (1, 3, 5))
        return red, green, blue
    hue, shade = (label * _GOLDEN) % 1, (0.95, 0.72, 0.85)[label % 3]
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.75, shade))
    return red, green, blue


def draw_detections(
    image: Image.Image,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Image.Image:
    """An image with boxes, names and masks on it; small ones are enlarged by a whole factor (`SMALLEST`).

    Args:
        image: any mode.
        boxes: (n, 4) x1 y1 x2 y2 in pixels of the image.
        labels: (n,) positions in `names`.
        scores: (n,) in 0..1, shown in percent; None: not shown.
        masks: (n, h, w) bool of the image's size; None: boxes alone.
        names: K class names; None: their numbers.
    """
    boxes, labels = np.asarray(boxes, dtype=float).reshape(-1, 4), np.asarray(labels, dtype=int)
    factor = max(1, -(-SMALLEST // max(image.size)))
    canvas = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    boxes = boxes * factor
    unit = max(1.0, min(canvas.size) / 400)  # line widths grow with the image
    large_first = np.argsort(-(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")
    if masks is not None and len(masks):
        pixels = np.asarray(canvas).astype(np.float32)
        for k in large_first:
            _paint(pixels, np.asarray(masks[k], dtype=bool).repeat(factor, 0).repeat(factor, 1), int(labels[k]), unit)
        canvas = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    font = typeface(max(11, round(min(canvas.size) / 36)))
    for k in large_first:
        _frame(draw, boxes[k], color_of(int(labels[k])), max(1, round((1.0 if masks is not None else 1.8) * unit)))
    taken: list[Box] = []
    certain_first = range(len(boxes)) if scores is None else np.argsort(-np.asarray(scores), kind="stable")
    for k in certain_first:
        text = style.plain(names[labels[k]] if names is not None else labels[k])
        _tag(draw, font, boxes[k], text if scores is None else f"{text} {100 * scores[k]:.0f}", int(labels[k]), taken)
    return canvas


def _paint(pixels: np.ndarray, mask: np.ndarray, label: int, unit: float) -> None:
    """Lay a mask over (h, w, 3) float pixels: translucent, with an outline."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside, color = mask[window], np.array(color_of(label), dtype=np.float32)
    core = inside
    for _ in range(max(1, round(1.2 * unit))):
        core = _eroded(core)
    area = pixels[window]
    area[inside] = 0.62 * area[inside] + 0.38 * color
    area[inside & ~core] = 0.15 * area[inside & ~core] + 0.85 * color


def _eroded(mask: np.ndarray) -> np.ndarray:
    """(h, w) bool without the pixels at its rim."""
    wide = np.pad(mask, 1)
    return wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:] & mask


def _frame(draw: ImageDraw.ImageDraw, box: np.ndarray, color: tuple[int, int, int], width: int) -> None:
    x1, y1, x2, y2 = box
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)  # the last pixel inside
    draw.rectangle((x1, y1, x2, y2), outline=color, width=width)


def _tag(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont,
    box: np.ndarray,
    text: str,
    label: int,
    taken: list[Box],
) -> None:
    """A name on a plate at a corner of its box: inside the image, and clear of the other plates if there is room."""
    width, height = draw.im.size
    pad = max(2, round(font.size / 5))
    while len(text) > 4 and font.getlength(text) + 2 * pad > width:
        text = text[:-2] + "…"
    wide, high = font.getlength(text) + 2 * pad, font.size + 2 * pad
    x1, y1, x2, y2 = box
    corners = [
        (x1, y1 - high),
        (x1, y1),
        (x2 - wide, y1 - high),
        (x1, y2),
        (x2 - wide, y2),
        (x1, y2 - high),
        (x2 - wide, y1),
    ]
    places = []
    for x, y in corners:
        x, y = min(max(x, 0.0), max(width - wide, 0.0)), min(max(y, 0.0), max(height - high, 0.0))
        places.append((x, y, x + wide, y + high))
    place = min(places, key=lambda place: sum(_overlap(place, other) for other in taken))  # the first of the best
    taken.append(place)
    red, green, blue = color_of(label)
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else style.INK
    draw.rounded_rectangle(place, radius=pad, fill=(red, green, blue))
    draw.text((place[0] + pad, (place[1] + place[3]) / 2), text, font=font, fill=ink, anchor="lm")


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@cache
def typeface(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, so that images look the same everywhere."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size)


@style.look()
def draw_sample(pairs: Iterable[tuple[Image.Image, str]], path: str | Path) -> Path:
    """Write a sheet of images, each with a title, such as what `draw_detections` returns with the file's name."""
    pairs = list(pairs)
    columns = min(4, max(1, len(pairs)))
    rows = max(1, -(-len(pairs) // columns))
    drawn = style.figure(3.4 * columns, 2.9 * rows)
    grid = drawn.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (image, title) in zip(grid, pairs, strict=False):
        title = style.plain(title)
        axes.imshow(np.asarray(image.convert("RGB")), interpolation="antialiased")
        axes.set_title(title if len(title) < 40 else "…" + title[-38:], fontsize=8, loc="center")
    return style.save(drawn, path)

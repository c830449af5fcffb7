"""Labels of pixels as people look at them: coloured, over the image, with a legend beside it.

Legend: labels are (H,W) integers 0..K-1, and 255 where there is none.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convnext.errors import ConvNextError
from convnext.report import style

IGNORED = 255


@cache
def palette(k: int = 255) -> np.ndarray:
    """(k, 3) uint8 colours, each as unlike all before it, and black, white and grey, as can be.

    Colour i is the same for every k, so a class keeps its colour in all images. Distances are those of CIELAB.
    """
    steps = np.linspace(0, 255, 16).astype(np.uint8)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    places = _lab(candidates)
    # too dark, and one cannot see what lies under the colour; too light, and it looks like none
    usable = (places[:, 0] > 30) & (places[:, 0] < 90)
    candidates, places = candidates[usable], places[usable]
    greys = _lab(np.array([[0, 0, 0], [128, 128, 128], [255, 255, 255]], dtype=np.uint8))
    nearest = np.linalg.norm(places[:, None] - greys, axis=-1).min(1)
    chosen = []
    for _ in range(k):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[chosen[-1]], axis=-1))
    return candidates[chosen]


def colour_mask(labels: np.ndarray, colours: np.ndarray | None = None) -> Image.Image:
    """Labels (H,W) -> RGB image in the colours (K,3), by default `palette()`; black where there is no label."""
    table = np.zeros((256, 3), dtype=np.uint8)
    colours = palette() if colours is None else colours
    table[: len(colours)] = colours
    return Image.fromarray(table[_checked(labels)])


def label_image(labels: np.ndarray) -> Image.Image:
    """Labels (H,W) as an 8-bit image whose values are the labels, and whose palette shows them in colours.

    Raises:
        ConvNextError: not two-dimensional, or not integers of 0 to 255.
    """
    image = Image.fromarray(_checked(labels), mode="L")
    image.putpalette([*palette().ravel().tolist(), 0, 0, 0])
    return image


def save_labels(labels: np.ndarray, path: str | Path) -> Path:
    """Write `label_image` as a PNG; errors as there."""
    path, image = Path(path), label_image(labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")
    return path


def overlay(
    image: Image.Image, labels: np.ndarray, names: Sequence[str], alpha: float = 0.55, legend: bool = True
) -> Image.Image:
    """The image with its labels' colours over it, and beside it a legend of the classes with their share of it.

    Pixels without a label show the image alone. The image keeps its size and stands at the top left.

    Args:
        image: RGB, of the labels' size.
        names: of the K classes.
        alpha: how much of the colour covers the image, 0..1; edges of segments have all of it.
        legend: whether to draw it.

    Raises:
        ConvNextError: the sizes differ, or a label has no name.
    """
    labels = _checked(labels)
    if labels.shape != image.size[::-1]:
        sizes = f"{image.width} x {image.height} and the labels {labels.shape[1]} x {labels.shape[0]} pixels"
        raise ConvNextError(f"The image is {sizes}; resize the labels to the image, nearest neighbour.")
    values, counts = np.unique(labels, return_counts=True)
    if (nameless := values[(values >= len(names)) & (values != IGNORED)]).size:
        raise ConvNextError(f"Label {nameless[0]} has no name: there are {len(names)}. Give the names of all classes.")
    cover = np.where(labels == IGNORED, 0, np.where(_edges(labels), 1, alpha))[..., None]  # (H,W,1)
    blended = np.asarray(image) * (1 - cover) + np.asarray(colour_mask(labels)) * cover
    drawn = Image.fromarray(np.rint(blended).astype(np.uint8))
    if not legend:
        return drawn
    order = sorted(zip(counts.tolist(), values.tolist(), strict=True), key=lambda pair: (pair[1] == IGNORED, -pair[0]))
    rows = [
        (None if value == IGNORED else tuple(palette()[value].tolist()), _row(value, count / labels.size, names))
        for count, value in order
    ]
    return _with_legend(drawn, rows)


def draw_sample(
    pairs: Sequence[tuple[Image.Image, np.ndarray]], path: str | Path, names: Sequence[str], side: int = 280
) -> Path:
    """Draw a sheet: each image, beside it the same with its labels and their legend, all of one height in pixels."""
    cells = []
    for image, labels in pairs:
        width = max(1, round(side * image.width / image.height))
        small = image.resize((width, side), Image.Resampling.BILINEAR)
        rows, columns = (np.arange(new) * old // new for new, old in zip((side, width), labels.shape, strict=True))
        shown = overlay(small, np.asarray(labels)[rows][:, columns], names)
        cell = Image.new("RGB", (width + 6 + shown.width, shown.height), "white")
        cell.paste(small, (0, 0))
        cell.paste(shown, (width + 6, 0))
        cells.append(cell)
    return _sheet(cells, Path(path))


def _sheet(cells: list[Image.Image], path: Path, columns: int = 2, gap: int = 16) -> Path:
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in line) for line in lines]
    widths = [max(line[k].width for line in lines if k < len(line)) for k in range(min(columns, len(cells)))]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(lines) + 1)), "white")
    top = gap
    for line, height in zip(lines, heights, strict=True):
        for k, cell in enumerate(line):
            sheet.paste(cell, (gap * (k + 1) + sum(widths[:k]), top))
        top += height + gap
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")
    return path


def _with_legend(image: Image.Image, rows: list[tuple[tuple[int, ...] | None, str]]) -> Image.Image:
    """The image, and to its right (swatch, text) rows in as many columns as its height asks for."""
    size = min(max(image.height // 36, 12), 48)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
    line, swatch, gap = round(size * 1.5), size, round(size * 0.7)
    height = max(image.height, 6 * line)  # a very low image gets a taller sheet, not twenty columns
    per_column = -(-len(rows) // -(-len(rows) // (height // line)))  # as few columns as fit, equally long
    columns = [rows[start : start + per_column] for start in range(0, len(rows), per_column)]
    widths = [swatch + gap + max(round(font.getlength(text)) for _, text in column) for column in columns]
    width = image.width + sum(widths) + gap * (len(columns) + 1)
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(image, (0, 0))
    draw, left = ImageDraw.Draw(sheet), image.width + gap
    for column, column_width in zip(columns, widths, strict=True):
        for k, (colour, text) in enumerate(column):
            middle = k * line + line // 2
            box = (left, middle - swatch // 2, left + swatch, middle + swatch // 2)
            draw.rectangle(box, fill=colour, outline=style.GREY if colour is None else colour)
            draw.text((left + swatch + gap // 2, middle), text, fill=style.INK, font=font, anchor="lm")
        left += column_width + gap
    return sheet


def _row(value: int, share: float, names: Sequence[str]) -> str:
    name = "no label" if value == IGNORED else names[value]
    return f"{style.plain(name, 28)}  {percent(share)}"


def percent(share: float) -> str:
    """A share of an image in words; one that is there is never 0 %."""
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def _edges(labels: np.ndarray) -> np.ndarray:
    """(H,W) bool: pixels whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] = labels[:, 1:] != labels[:, :-1]
    edges[:-1] |= labels[1:] != labels[:-1]
    return edges


def _checked(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iub" or not labels.size or labels.min() < 0 or labels.max() > 255:
        raise ConvNextError(
            f"Labels must be whole numbers of 0 to 255, in rows and columns; these are {labels.dtype} of shape "
            f"{labels.shape}. Take the class of the largest logit of each pixel."
        )
    return labels.astype(np.uint8)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) uint8 -> CIELAB (..., 3), white point D65."""
    values = rgb / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.moveaxis(np.cbrt(np.maximum(linear @ to_xyz.T / to_xyz.sum(1), 0.008856)), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)

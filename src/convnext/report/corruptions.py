"""The contact sheet of corrupted images."""

from pathlib import Path

import numpy as np
from PIL import Image

from convnext.report import style

CELL, GAP = 128, 6  # pixels


@style.look()
def draw_contact_sheet(images: dict[tuple[str, int], Image.Image | np.ndarray], path: str | Path) -> Path:
    """Draw one row per corruption, in the order of `images`, and one column per severity.

    Args:
        images: (name, severity) -> an RGB image, or (H,W,3) uint8, all of one size; severity 0 is the original.
            Cells without an image stay empty.
        path: of the PNG.
    """
    names = list(dict.fromkeys(name for name, _ in images))
    severities = sorted({severity for _, severity in images})
    step = CELL + GAP
    sheet = np.full((len(names) * step - GAP, len(severities) * step - GAP, 3), 255, dtype=np.uint8)
    for (name, severity), image in images.items():
        top, left = names.index(name) * step, severities.index(severity) * step
        sheet[top : top + CELL, left : left + CELL] = _square(image)

    height, width = sheet.shape[:2]
    margin_left, margin_top = 250, 40
    total_height, total_width = height + margin_top + GAP, width + margin_left + GAP
    drawn = style.figure(total_width / style.DPI, total_height / style.DPI)
    drawn.set_layout_engine("none")  # so that a pixel of the sheet is a pixel of the file
    axes = drawn.add_axes(
        (margin_left / total_width, GAP / total_height, width / total_width, height / total_height), frameon=False
    )
    axes.imshow(sheet, interpolation="none")
    axes.set_yticks(np.arange(len(names)) * step + CELL / 2, [name.replace("_", " ") for name in names])
    axes.set_xticks(
        np.arange(len(severities)) * step + CELL / 2,
        [f"severity {severity}" if severity else "original" for severity in severities],
    )
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    return style.save(drawn, path)


def _square(image: Image.Image | np.ndarray) -> np.ndarray:
    """The whole image in a white square of `CELL` pixels; a small one keeps its pixels visible."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    factor = CELL / max(image.size)
    size = [max(1, round(side * factor)) for side in image.size]
    resized = image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, CELL), "white")
    cell.paste(resized, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return np.asarray(cell)

"""An image beside maps of what in it speaks for a class."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from convnext.report import style
from convnext.report.detection import typeface

SIDE = 256
"""Pixels of each picture's longer side."""
GAP, LINE = 6, 22
STRENGTH = 0.65
"""Opacity of the colour where a map is 1."""


def overlay(image: Image.Image, values: np.ndarray) -> Image.Image:
    """The image under a map (h, w) of values in 0..1: unchanged where it is 0, bright yellow where it is 1."""
    grey = Image.fromarray((255 * values.clip(0, 1)).astype(np.uint8))
    strength = np.asarray(grey.resize(image.size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 255
    colours = matplotlib.colormaps["inferno"](strength[..., 0])[..., :3] * 255
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    mixed = pixels + STRENGTH * np.sqrt(strength) * (colours - pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def draw_explanation(image: Image.Image, maps: Sequence[tuple[str, np.ndarray]], title: str) -> Image.Image:
    """The image and, beside it, an overlay for each named map, below a title.

    Args:
        image: the part that the model saw.
    """
    scale = SIDE / max(image.size)
    how = Image.Resampling.NEAREST if scale > 4 else Image.Resampling.BICUBIC
    shown = image.convert("RGB").resize((round(image.width * scale), round(image.height * scale)), how)
    pictures = [("image", shown), *((name, overlay(shown, values)) for name, values in maps)]
    width = len(pictures) * (shown.width + GAP) - GAP
    canvas = Image.new("RGB", (width, shown.height + 2 * LINE), "white")
    draw, letters = ImageDraw.Draw(canvas), typeface(12)
    title = style.plain(title)
    while len(title) > 4 and letters.getlength(title) > width - 8:
        title = title[:-2] + "…"
    draw.text((4, LINE / 2), title, font=letters, fill=style.INK, anchor="lm")
    for k, (name, picture) in enumerate(pictures):
        left = k * (shown.width + GAP)
        canvas.paste(picture, (left, LINE))
        draw.text((left + 4, LINE + shown.height + LINE / 2), name, font=letters, fill=style.GREY, anchor="lm")
    return canvas

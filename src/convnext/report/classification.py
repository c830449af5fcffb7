"""An image with the classes that a model gives it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from convnext.report import style
from convnext.report.detection import typeface

SIDE = 384
"""Pixels of the image's longer side in the drawing."""


def draw_classification(image: Image.Image, choices: Sequence[tuple[str, float]]) -> Image.Image:
    """An image above bars of its likeliest classes, (name, probability in 0..1), best first."""
    scale = SIDE / max(image.size)
    how = Image.Resampling.NEAREST if scale > 8 else Image.Resampling.BICUBIC  # of tiny images, the pixels
    shown = image.convert("RGB").resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)
    row, width = 22, SIDE
    canvas = Image.new("RGB", (width, shown.height + row * len(choices) + 8), "white")
    canvas.paste(shown, ((width - shown.width) // 2, 0))
    draw, letters = ImageDraw.Draw(canvas), typeface(12)
    for i, (name, probability) in enumerate(choices):
        top = shown.height + 6 + i * row
        draw.rectangle((4, top, 4 + (width - 8) * probability, top + row - 4), fill="#cfe3f5" if i else "#9cc7ec")
        percent = f"{100 * probability:.1f} %"
        name = style.plain(name)
        while len(name) > 4 and letters.getlength(name) > width - 80:
            name = name[:-2] + "…"
        draw.text((10, top + row / 2 - 2), name, font=letters, fill=style.INK, anchor="lm")
        draw.text((width - 10, top + row / 2 - 2), percent, font=letters, fill=style.INK, anchor="rm")
    return canvas

"""Regions of an image as JSON holds them: run-length encoding, or PNG in base64."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MaskForm = Literal["rle", "png", "none"]
FORMS: tuple[str, ...] = get_args(MaskForm)


def rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool in COCO's uncompressed run-length encoding: lengths of runs of 0 and 1 in turn, column by column."""
    values = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], edges, [values.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *lengths] if values.size and values[0] else lengths}


def png(image: Image) -> str:
    """The image as a PNG file in base64."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return b64encode(stream.getvalue()).decode()

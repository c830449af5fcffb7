"""Bytes of pictures with damage, for whatever decodes what strangers send."""

import io
import random
import struct

import numpy as np
from PIL import Image


def mutated(chance: random.Random) -> bytes:
    """A picture of any format, with some of its bytes changed, left out or doubled."""
    side = chance.choice((1, 7, 64, 200))
    pixels = np.random.default_rng(chance.randrange(1 << 30)).integers(
        0, 256, (side, chance.choice((1, side)), 3), dtype=np.uint8
    )
    form, stream = chance.choice(("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")), io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    data = bytearray(stream.getvalue())
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data)) if chance.random() < 0.4 else chance.randrange(min(len(data), 200))
        kind = chance.randrange(4)
        if kind == 0:
            data[place] = chance.randrange(256)
        elif kind == 1:
            data[place : place + 4] = struct.pack(
                chance.choice("<>") + "I", chance.choice((0, 1 << 31, 0xFFFFFFFF, 65535))
            )[: len(data) - place]
        elif kind == 2:
            del data[place : place + chance.randrange(1, 50)]
        else:
            data[place:place] = data[: chance.randrange(1, 100)]
        if not data:
            break
    return bytes(data)

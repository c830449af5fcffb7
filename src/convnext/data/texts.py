"""Many byte strings in one buffer."""

from collections.abc import Iterable

import numpy as np


class Texts:
    """Many byte strings in one buffer: touching a list of them would copy it into every loader process."""

    def __init__(self, texts: Iterable[bytes]):
        texts = list(texts)
        self.buffer = b"".join(texts)
        self.ends = np.cumsum([0] + [len(text) for text in texts])

    def __getitem__(self, i: int) -> bytes:
        return self.buffer[self.ends[i] : self.ends[i + 1]]

"""ImageNet-C's blurs (Hendrycks and Dietterich 2019, Section 4).

Every function takes pixels (H,W,3) float32 in 0..1 and a generator, and returns pixels that `to_image` clips. Lengths
are for a short side of 224 and scaled to the image's.
"""

from math import ceil

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from convnext.data.corruptions.pixels import correlate, gaussian, scale, streak, zoom_in


def defocus_blur(pixels: np.ndarray, rng: Generator, radius: int, alias_blur: float) -> np.ndarray:
    """Out of focus: the mean over a disk whose edge is softened by a Gaussian of `alias_blur` pixels."""
    return correlate(pixels, _rescaled(_disk(radius, alias_blur), scale(pixels)), edge="reflect")


def gaussian_blur(pixels: np.ndarray, rng: Generator, sigma: float) -> np.ndarray:
    return gaussian(pixels, sigma * scale(pixels))


def glass_blur(pixels: np.ndarray, rng: Generator, sigma: float, reach: float, rounds: int) -> np.ndarray:
    """Frosted glass: pixels are displaced by up to `reach` between two Gaussian blurs.

    The published loop goes from the last pixel to the first and means to swap each with a random neighbour. Its swap of
    two NumPy views copies instead, so a pixel takes its neighbour's value, be it one that was replaced before. That is
    the map followed here, for all pixels at once; only the random numbers are others. For a fractional reach the next
    whole one is taken, for a part of the pixels.
    """
    size = scale(pixels)
    pixels = gaussian(pixels, sigma * size)
    source = np.arange(pixels.shape[0] * pixels.shape[1])
    for _ in range(rounds):
        source = source[_displaced(pixels.shape[:2], reach * size, rng)]
    return gaussian(pixels.reshape(-1, 3)[source].reshape(pixels.shape), sigma * size)


def motion_blur(pixels: np.ndarray, rng: Generator, radius: float, sigma: float) -> np.ndarray:
    """A moving camera: a streak in a direction of up to 45 degrees from a row's."""
    size = scale(pixels)
    return correlate(pixels, streak(radius * size, sigma * size, rng.uniform(-45, 45)), edge="edge")


def zoom_blur(pixels: np.ndarray, rng: Generator, step: float, layers: int) -> np.ndarray:
    """A camera moving forward: the mean of the image and of `layers` magnifications 1, 1 + step, 1 + 2 step ..."""
    total = pixels.copy()
    for layer in range(layers):
        total += zoom_in(pixels, 1 + layer * step)
    return total / (layers + 1)


def _disk(radius: int, alias_blur: float) -> np.ndarray:
    half = max(8, radius)
    square = np.arange(-half, half + 1) ** 2
    disk = (square[:, None] + square <= radius**2).astype(np.float32)
    return ndimage.gaussian_filter(disk / disk.sum(), alias_blur, mode="mirror", radius=1 if radius <= 8 else 2)


def _rescaled(kernel: np.ndarray, size: float) -> np.ndarray:
    """A square kernel (k,k) stretched by `size` about its middle: each weight is spread over the pixels it then covers."""
    old = len(kernel)
    new = 2 * ceil((old * size - 1) / 2) + 1
    starts = (np.arange(old) - old / 2) * size
    pixels = np.arange(new)[:, None] - new / 2
    share = np.clip(np.minimum(starts + size, pixels + 1) - np.maximum(starts, pixels), 0, None)
    stretched = share @ kernel @ share.T
    return stretched / stretched.sum()


def _displaced(shape: tuple[int, int], reach: float, rng: Generator) -> np.ndarray:
    """For each pixel the one, both counted along the rows, that it shows after one round of `glass_blur`."""
    height, width = shape
    whole = ceil(reach)
    itself = np.arange(height * width)
    row, column = np.divmod(itself, width)
    moves = (row > whole) & (row <= height - whole) & (column > whole) & (column <= width - whole)
    moves &= rng.random(itself.shape, dtype=np.float32) < reach / whole
    rows, columns = rng.integers(-whole, whole, (2, itself.size))
    target = np.where(moves, itself + rows * width + columns, itself)
    # a target further on was replaced before, so what it shows is what its own target shows, and so on
    chained = target > itself
    pending = np.flatnonzero(chained)
    while pending.size:
        through = target[pending]
        target[pending], chained[pending] = target[through], chained[through]
        pending = pending[chained[pending]]
    return target

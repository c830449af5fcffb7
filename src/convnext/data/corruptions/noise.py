"""ImageNet-C's noise, per pixel and channel whatever the size of the image (Hendrycks and Dietterich 2019, Section 4).

Every function takes pixels (H,W,3) float32 in 0..1 and a generator, and returns pixels that `to_image` clips.
"""

import numpy as np
from numpy.random import Generator


def gaussian_noise(pixels: np.ndarray, rng: Generator, deviation: float) -> np.ndarray:
    """Low light: noise of the same deviation everywhere."""
    return pixels + _normal(pixels, rng, deviation)


def shot_noise(pixels: np.ndarray, rng: Generator, photons: float) -> np.ndarray:
    """Few photons: a Poisson count, of mean `photons` where the image is 1."""
    return rng.poisson(pixels * photons) / photons


def impulse_noise(pixels: np.ndarray, rng: Generator, share: float) -> np.ndarray:
    """Salt and pepper: this share of the values becomes 0 or 1."""
    chance = rng.random(pixels.shape, dtype=np.float32)
    return np.where(chance < share, chance < share / 2, pixels)


def speckle_noise(pixels: np.ndarray, rng: Generator, deviation: float) -> np.ndarray:
    """Noise in proportion to the value."""
    return pixels + pixels * _normal(pixels, rng, deviation)


def _normal(pixels: np.ndarray, rng: Generator, deviation: float) -> np.ndarray:
    return rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(deviation)

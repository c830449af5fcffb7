"""ImageNet-C's weather (Hendrycks and Dietterich 2019, Section 4), and spatter, one of its extra corruptions.

Every function takes pixels (H,W,3) float32 in 0..1 and a generator, and returns pixels that `to_image` clips. Layers of
a fixed grain are made for a short side of 224 and resized to the image.
"""

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from convnext.data.corruptions import textures
from convnext.data.corruptions.pixels import correlate, fit, gaussian, layer_shape, streak, zoom_in

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
WATER = np.array([175, 238, 238], dtype=np.float32) / 255
MUD = np.array([63, 42, 20], dtype=np.float32) / 255


def snow(
    pixels: np.ndarray,
    rng: Generator,
    mean: float,
    deviation: float,
    flake: float,
    threshold: float,
    radius: float,
    sigma: float,
    keep: float,
) -> np.ndarray:
    """Falling flakes, and a share of 1 - `keep` of whitened image.

    Flakes are Gaussian noise magnified `flake` times and kept above `threshold`, blurred along their fall; they are
    added once as they are and once turned by 180 degrees.
    """
    layer = rng.normal(mean, deviation, layer_shape(pixels)).astype(np.float32)
    layer = zoom_in(layer, flake)
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    layer = correlate(layer, streak(radius, sigma, rng.uniform(-135, -45)), edge="edge")
    layer = fit(layer + np.rot90(layer, 2), pixels)[..., None]
    white = np.maximum(pixels, (pixels @ LUMA)[..., None] * 1.5 + 0.5)
    return keep * pixels + (1 - keep) * white + layer


def frost(pixels: np.ndarray, rng: Generator, keep: float, ice: float) -> np.ndarray:
    """`keep` times the image plus `ice` times frost: a random part of one of `textures.FROSTS` textures.

    The published corruption takes parts of five photographs; these textures are our own, generated to be
    alike in brightness and in the strength of their structure.
    """
    texture = textures.frost(int(rng.integers(textures.FROSTS)))
    rows, columns = (
        np.arange(start, start + side) % len(texture)
        for start, side in zip(rng.integers(len(texture), size=2), layer_shape(pixels), strict=True)
    )
    return keep * pixels + ice * fit(texture[rows[:, None], columns], pixels)


def fog(pixels: np.ndarray, rng: Generator, density: float, decay: float) -> np.ndarray:
    """A plasma fractal is added, and the sum is scaled back to the image's maximum."""
    height, width = pixels.shape[:2]
    layer = textures.plasma_fractal(max(height, width), decay, rng)[:height, :width, None]
    top = pixels.max()
    return (pixels + density * layer) * (top / (top + density))


def brightness(pixels: np.ndarray, rng: Generator, shift: float) -> np.ndarray:
    """The value of HSV plus `shift`: at the same hue and saturation all channels grow by one factor."""
    value = pixels.max(axis=2, keepdims=True)
    brighter = np.minimum(value + shift, 1)
    return np.where(value > 0, pixels * (brighter / np.maximum(value, 1e-6)), brighter)


def spatter(
    pixels: np.ndarray,
    rng: Generator,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: int,
) -> np.ndarray:
    """Drops on the lens, where blurred Gaussian noise is above `threshold`.

    Of water, lit from one side, in `strength`; or of mud, whose edges are softened by a Gaussian of `strength` pixels.
    """
    liquid = gaussian(rng.normal(mean, deviation, layer_shape(pixels)).astype(np.float32), sigma)
    wet = liquid > threshold
    if mud:
        cover = gaussian(wet.astype(np.float32), strength)
        cover = fit(np.where(cover < 0.8, 0, cover), pixels)[..., None]
        return pixels * (1 - cover) + MUD * cover
    drops = np.where(wet, liquid, 0)
    shine = drops * _relief(drops)
    return pixels + fit(shine * (strength / max(shine.max(), 1e-6)), pixels)[..., None] * WATER


def _relief(drops: np.ndarray) -> np.ndarray:
    """(h,w) of 0..255: how drops (h,w), 0 where it is dry, shine: from the distance to their edge and light from one corner.

    The published code finds the edges with Canny's filter and a distance in chamfer steps (`benchmarks/spatter.py`).
    """
    wet = drops > 0
    edge = wet & np.logical_not(ndimage.binary_erosion(wet, border_value=1))
    if not edge.any():
        return np.zeros(wet.shape, dtype=np.float32)
    distance = np.minimum(np.asarray(ndimage.distance_transform_edt(~edge)), 20)
    levels = ndimage.uniform_filter(distance, 3, mode="mirror").astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=256)
    below = np.cumsum(counts) - counts[levels.min()]
    equal = np.rint(np.clip(below * (255 / max(below[-1], 1)), 0, 255))[levels]
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    relief = np.clip(ndimage.correlate(equal, emboss, mode="mirror"), 0, 255)
    return ndimage.uniform_filter(relief, 3, mode="mirror").astype(np.float32)

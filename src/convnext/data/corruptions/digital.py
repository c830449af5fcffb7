"""ImageNet-C's digital corruptions (Hendrycks and Dietterich 2019, Section 4), and saturate, one of its extra ones.

Every function takes pixels (H,W,3) float32 in 0..1 and a generator, and returns pixels that `to_image` clips. Lengths
are for a short side of 224 and scaled to the image's.
"""

from io import BytesIO

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import fft, ndimage

from convnext.data.corruptions.pixels import sample, scale, to_image, to_pixels


def contrast(pixels: np.ndarray, rng: Generator, keep: float) -> np.ndarray:
    """`keep` of each channel's distance to its mean."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * keep + mean


def elastic_transform(pixels: np.ndarray, rng: Generator, shift: float, sigma: float, jitter: float) -> np.ndarray:
    """A random affine map, then displacements that vary smoothly.

    Args:
        shift: the displacements are uniform noise within so many pixels, before it is smoothed.
        sigma: of the Gaussian that smooths them, in pixels.
        jitter: the affine map moves three points about the centre by up to so many pixels.
    """
    size = scale(pixels)
    height, width = pixels.shape[:2]
    centre, arm = np.array([height // 2, width // 2]), max(min(height, width) // 3, 1)
    points = centre + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + rng.uniform(-jitter * size, jitter * size, points.shape)
    *matrix, offset = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)  # from the result to its source
    matrix = np.transpose(matrix)
    warped = [ndimage.affine_transform(pixels[..., c], matrix, offset, order=1, mode="mirror") for c in range(3)]
    # smoothing leaves noise in inverse proportion to sigma, so the displacement grows with the square of the factor
    rows, columns = (
        _smooth(rng.uniform(-1, 1, (height, width)).astype(np.float32), sigma * size) * (shift * size**2)
        for _ in range(2)
    )
    return sample(np.stack(warped, axis=2), np.arange(height)[:, None] + rows, np.arange(width) + columns, "reflect")


def pixelate(pixels: np.ndarray, rng: Generator, resolution: float) -> np.ndarray:
    """Averaged to fewer pixels and drawn as blocks.

    A block of b = 1 / `resolution` pixels at 224 has 1 + (b - 1) f pixels at f times the size: scaled outright, it
    would be less than a pixel of a small image.
    """
    height, width = pixels.shape[:2]
    block = 1 + (1 / resolution - 1) * scale(pixels)
    few = [max(1, int(side / block + 1e-6)) for side in (width, height)]
    image = to_image(pixels).resize(few, Image.Resampling.BOX)
    return to_pixels(image.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(pixels: np.ndarray, rng: Generator, quality: int) -> np.ndarray:
    """Through a JPEG file of this quality, whatever the size of the image."""
    file = BytesIO()
    to_image(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file, formats=["JPEG"]) as image:
        return to_pixels(image)


def saturate(pixels: np.ndarray, rng: Generator, gain: float, shift: float) -> np.ndarray:
    """The saturation of HSV times `gain` plus `shift`, at most 1; grey has the hue of red there."""
    value = pixels.max(axis=2, keepdims=True)
    drop = value - pixels  # what each channel lacks to the largest, in proportion to value and saturation
    chroma = drop.max(axis=2, keepdims=True)
    saturation = chroma / np.maximum(value, 1e-6)
    hue = np.where(chroma > 0, drop / np.maximum(chroma, 1e-6), np.array([0, 1, 1], dtype=np.float32))
    return value - value * np.minimum(saturation * gain + shift, 1) * hue


def _smooth(field: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing of (H,W), mirrored at the edges, up to 3 sigma.

    As a product of cosine transforms, since sigma can be as large as the image.
    """
    reach = max(1, int(3 * sigma + 0.5))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-((offsets / max(sigma, 1e-3)) ** 2) / 2)
    weights /= weights.sum()
    rows, columns = (np.cos(np.pi / side * np.outer(np.arange(side), offsets)) @ weights for side in field.shape)
    spectrum = np.asarray(fft.dctn(field))
    return np.asarray(fft.idctn(spectrum * np.outer(rows, columns).astype(np.float32)))

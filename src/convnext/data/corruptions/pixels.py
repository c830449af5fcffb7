"""Parts that the corruptions share: images as arrays, and the filters and resampling that they are made of.

Legend: H W rows and columns. Pixels are (H,W,3) float32, 0..1; a layer is (h,w) or (h,w,3) float32.
"""

from io import BytesIO
from math import ceil
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

CUT = 1e-3  # of a level: 8-bit values that went through floats stay what they were
CHROMA = "4:2:0"
RELEASED_QUALITY = 85
"""Of the JPEG files in the released sets."""
SIDE = 224
"""The short side, in pixels, for which the published parameters are meant."""


def to_pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32) / 255


def to_image(pixels: np.ndarray) -> Image.Image:
    """Values outside 0..1 are clipped; the rest is cut off to 8 bits, as the published generators do, not rounded."""
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + CUT).astype(np.uint8))


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as it comes back from a JPEG of this quality with chroma at half the resolution (4:2:0).

    The files of ImageNet-C and ImageNet-C-bar are such JPEGs, of quality 85.
    """
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=CHROMA)
    stream.seek(0)
    return Image.open(stream).convert("RGB")


def scale(pixels: np.ndarray) -> float:
    """Factor from lengths at a short side of 224 to lengths in this image."""
    return min(pixels.shape[:2]) / SIDE


def layer_shape(pixels: np.ndarray) -> tuple[int, int]:
    """(h, w) of the image when its short side is 224: textures of a fixed grain are made there, then `fit`."""
    height, width = (max(SIDE, round(side / scale(pixels))) for side in pixels.shape[:2])
    return height, width


def fit(layer: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A layer (h,w) or (h,w,C) resized to the image's H and W; areas are averaged where it shrinks."""
    height, width = pixels.shape[:2]
    if layer.shape[:2] == (height, width):
        return layer
    if layer.ndim == 3:
        return np.stack([fit(layer[..., channel], pixels) for channel in range(layer.shape[2])], axis=2)
    return np.asarray(Image.fromarray(layer.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))


def gaussian(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Blur each channel; the edge is repeated, the kernel ends at 4 sigma."""
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0)[: pixels.ndim], mode="nearest", truncate=4)


def correlate(pixels: np.ndarray, kernel: np.ndarray, edge: Literal["edge", "reflect"]) -> np.ndarray:
    """Weighted sum of each pixel's neighbours, by FFT.

    Args:
        pixels: (H,W) or (H,W,C).
        kernel: (k,l) weights, k and l odd; the pixel itself is in the middle.
        edge: what lies outside, a mode of `numpy.pad`.
    """
    height, width = pixels.shape[:2]
    above, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    padded = np.pad(channels, ((0, 0), (above, above), (left, left)), mode=edge)
    shape = padded.shape[1:]
    weights = np.fft.rfft2(kernel.astype(np.float32), shape).conj()
    result = np.fft.irfft2(np.fft.rfft2(padded, shape) * weights, shape)[:, :height, :width]
    return result[0] if pixels.ndim == 2 else result.transpose(1, 2, 0)


def streak(radius: float, sigma: float, degrees: float) -> np.ndarray:
    """The kernel of a motion blur, as ImageMagick defines it: half a Gaussian that starts at the pixel.

    Args:
        radius: the streak is 2 `radius` + 1 pixels long.
        sigma: of the Gaussian, in pixels.
        degrees: direction of the streak; 0 points along a row.
    """
    steps = np.arange(ceil(2 * radius) + 1)
    weights = np.exp(-((steps / sigma) ** 2) / 2)
    reach = steps[-1]
    rows = np.ceil(steps * np.sin(np.radians(degrees)) - 0.5).astype(int)
    columns = np.ceil(steps * np.cos(np.radians(degrees)) - 0.5).astype(int)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    np.add.at(kernel, (reach + rows, reach + columns), weights / weights.sum())
    return kernel


def zoom_in(pixels: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image (H,W) or (H,W,3), magnified `factor` times without changing H and W, bilinear."""
    for axis in (0, 1):
        side = pixels.shape[axis]
        crop = ceil(side / factor)
        large = round(crop * factor)  # `crop` pixels are spread over so many, first on first and last on last
        positions = (side - crop) // 2 + (np.arange(side) + (large - side) // 2) * ((crop - 1) / max(large - 1, 1))
        low = positions.astype(int)
        shape = [1] * pixels.ndim
        shape[axis] = side
        fraction = (positions - low).astype(np.float32).reshape(shape)
        start = pixels.take(low, axis)
        pixels = start + (pixels.take(np.minimum(low + 1, side - 1), axis) - start) * fraction
    return pixels


def sample(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray, edge: str) -> np.ndarray:
    """Pixels at fractional positions (H,W), bilinear; `edge` is a mode of `scipy.ndimage.map_coordinates`."""
    where = np.stack([rows, columns])
    channels = [ndimage.map_coordinates(pixels[..., c], where, order=1, mode=edge) for c in range(3)]
    return np.stack(channels, axis=2)

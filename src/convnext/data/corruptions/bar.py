"""The ten corruptions of ImageNet-C-bar (Mintun, Kirillov and Xie 2021, Appendix).

Every function takes pixels (H,W,3) float32 in 0..1 and a generator, and returns pixels that `to_image` clips. The
published definitions are in shares of the side of a square image; here it is n, the short side.
"""

from math import pi

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from convnext.data.corruptions import textures
from convnext.data.corruptions.pixels import sample, scale


def caustic_refraction(pixels: np.ndarray, rng: Generator, lens: float, light: float) -> np.ndarray:
    """Seen through moving water: its relief refracts the image and lights the slopes.

    Args:
        lens: depth of the water, in pixels at n = 224.
        light: brightness per unit of slope.
    """
    size = scale(pixels)
    height, width = shape = pixels.shape[:2]
    water = textures.caustics(shape, rng.uniform(0.5, 2), rng.uniform(0.75, 1.25) * min(shape))
    water = np.pad(ndimage.gaussian_filter(water, size), 1)  # dark beyond the border, as the generator has it
    slope_y = (water[2:, 1:-1] - water[:-2, 1:-1]) * size  # per two pixels at n = 224
    slope_x = (water[1:-1, 2:] - water[1:-1, :-2]) * size
    steep = np.hypot(slope_y, slope_x)
    angle = np.arctan(steep)
    refracted = angle - np.arcsin(np.sin(angle) / 4)  # Snell's law, with a refractive index of 4
    reach = np.where(np.cos(angle) < 0.999, np.sin(refracted) / np.maximum(steep, 1e-6), 0) * (lens * size)
    rows, columns = np.arange(height)[:, None] + slope_y * reach, np.arange(width) + slope_x * reach
    return sample(pixels, rows, columns, "grid-constant") + ((slope_y - slope_x) * light)[..., None]


def inverse_sparkles(pixels: np.ndarray, rng: Generator, falloff: float) -> np.ndarray:
    """White but for a star in the middle half, of rays of about n / 4."""
    shape = pixels.shape[:2]
    n = min(shape)
    rays = rng.integers(50, 200)
    lengths = rng.normal(n / 4, n / 16, rays)
    inside = _star(shape, rng.uniform(0.25, 0.75, 2) * shape, lengths, falloff)
    return 1 - inside * (1 - pixels)


def sparkles(pixels: np.ndarray, rng: Generator, radius: float) -> np.ndarray:
    """Five white stars whose rays are about `radius` pixels long at n = 224."""
    shape = pixels.shape[:2]
    radius = radius * scale(pixels)
    dark = np.float32(1)
    for _ in range(5):
        rays = rng.integers(50, 200)
        lengths = np.maximum(rng.normal(radius, radius / 4, rays), 1)
        dark = dark * (1 - _star(shape, rng.uniform(0, 1, 2) * shape, lengths, 1))
    return 1 - dark * (1 - pixels)


def perlin_noise(pixels: np.ndarray, rng: Generator, alpha: float) -> np.ndarray:
    """Blended with turbulence of five octaves, the largest of n / 7."""
    shape = pixels.shape[:2]
    noise = np.minimum(0.5 + 0.5 * textures.perlin_turbulence(shape, min(shape) / 7, 5, rng), 1)
    return (1 - alpha) * pixels + alpha * noise[..., None]


def blue_noise_sample(pixels: np.ndarray, rng: Generator, threshold: float) -> np.ndarray:
    """Black where noise, whose amplitude grows with frequency, is below `threshold` deviations."""
    return pixels * (textures.spectral_noise(pixels.shape[:2], lambda f: f, rng) > threshold)[..., None]


def plasma_noise(pixels: np.ndarray, rng: Generator, alpha: float) -> np.ndarray:
    """Blended with coloured swirls."""
    shape = pixels.shape[:2]
    noise = textures.swirls(
        shape,
        time=rng.uniform(0, 6 * pi),
        iterations=int(rng.integers(4, 7)),
        sharpness=rng.uniform(0.5, 1),
        period=rng.uniform(0.075, 0.2) * min(shape),
    )
    return (1 - alpha) * pixels + alpha * noise


def checkerboard_cutout(pixels: np.ndarray, rng: Generator, share: float) -> np.ndarray:
    """This share of one colour of a turned checkerboard's squares, of n / 10 to n / 4, becomes grey."""
    height, width = pixels.shape[:2]
    angle = rng.uniform(0, 2 * pi)
    square = max(rng.uniform(0.1, 0.25) * min(height, width), 1)
    y, x = np.arange(height)[:, None], np.arange(width)
    down = np.floor((np.cos(angle) * y + np.sin(angle) * x) / square).astype(int)
    right = np.floor((np.cos(angle) * x - np.sin(angle) * y) / square).astype(int)
    down, right = down - down.min(), right - right.min()
    cut = (rng.random((down.max() + 1, right.max() + 1)) < share)[down, right] & ((down + right) % 2 == 0)
    return np.where(cut[..., None], np.float32(128 / 255), pixels)


def cocentric_sine_waves(pixels: np.ndarray, rng: Generator, amplitude: float) -> np.ndarray:
    """Rings about a point, bent by a sine of the angle; each ring rises from - `amplitude` / 2 to `amplitude` / 2."""
    shape = pixels.shape[:2]
    n = min(shape)
    distance, angle = _polar(shape, rng.uniform(0, 1, 2) * shape)
    bend = np.sin(angle * np.float32(rng.uniform(0, 10))) * np.float32(rng.uniform(0, n / 10))
    wave = ((distance + bend) / np.float32(rng.uniform(0, n / 10))) % 1 - 0.5
    return pixels + (amplitude * wave)[..., None]


def single_frequency_greyscale(pixels: np.ndarray, rng: Generator, amplitude: float) -> np.ndarray:
    """One plane wave of any frequency that the pixels can show, whatever the size of the image."""
    height, width = pixels.shape[:2]
    larger = rng.uniform(-pi, pi)
    frequency = rng.permutation([larger, rng.uniform(-abs(larger), abs(larger))])
    phase = frequency[0] * np.arange(height)[:, None] + frequency[1] * np.arange(width) + rng.uniform(0, 2 * pi)
    return pixels + (amplitude * np.sin(phase))[..., None]


def brownish_noise(pixels: np.ndarray, rng: Generator, amplitude: float) -> np.ndarray:
    """Noise in each channel whose amplitude falls with the square of the frequency."""
    channels = [textures.spectral_noise(pixels.shape[:2], lambda f: 1 / (f**2 + 1), rng) for _ in range(3)]
    return pixels + amplitude * np.stack(channels, axis=2)


def _polar(shape: tuple[int, int], centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance in pixels and angle in -pi..pi of each pixel (H,W) as seen from `centre`."""
    y, x = (np.arange(side, dtype=np.float32) - np.float32(at) for side, at in zip(shape, centre, strict=True))
    return np.hypot(y[:, None], x), np.arctan2(x, y[:, None])


def _star(shape: tuple[int, int], centre: np.ndarray, lengths: np.ndarray, falloff: float) -> np.ndarray:
    """(H,W,1) of 0..1: a star with rays of these lengths in pixels; beyond them its light falls off with 2 `falloff`."""
    distance, angle = _polar(shape, centre)
    rays = len(lengths)
    turn = (angle + np.float32(pi)) * np.float32(rays / (2 * pi))
    ray = np.minimum(turn.astype(int), rays - 1)
    part = turn - ray
    lengths = lengths.astype(np.float32)
    length = lengths[ray] + part * (np.roll(lengths, -1) - lengths)[ray]
    light = (length**2 / (distance**2 + np.float32(1e-4))) ** np.float32(falloff)
    return np.clip((1 - (part - 0.5) ** 2) * light, 0, 1)[..., None]

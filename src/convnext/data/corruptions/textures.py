"""Textures made by code: fractals, noise of a given spectrum, caustics, frost.

Legend: (H,W) is the shape of the texture in pixels, n its short side. All are float32.
"""

from collections.abc import Callable
from functools import lru_cache
from math import pi

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from scipy.spatial import KDTree

FROSTS = 5
"""Number of frost textures, as many as the photographs that ImageNet-C takes its frost from."""
_FROST_SIDE = 512
_FROST_BANDS = (2.0, 8.0)  # pixels: Gaussians between fine detail, middle and coarse structure
_FROST_STRENGTH = (
    ((78, 149, 166), (14.2, 3.5, 8.8)),
    ((201, 205, 215), (16.1, 6.8, 10.4)),
    ((201, 205, 215), (16.1, 6.8, 10.4)),
    ((138, 153, 165), (19.2, 8.3, 16.9)),
    ((112, 123, 135), (29.6, 14.5, 20.8)),
)
"""Of each of ImageNet-C's five photographs (two are the same): the mean colour, and the deviations of its coarse, middle
and fine structure, in levels of 8 bits; measured by `benchmarks/frost.py`."""


def plasma_fractal(side: int, decay: float, rng: Generator) -> np.ndarray:
    """A height map of 0..1 by the diamond-square algorithm, on the next power of two from `side` squared; periodic.

    Each halving of the grid divides the noise by the square of `decay`, as in ImageNet-C's generator.
    """
    field = np.zeros((1, 1), dtype=np.float32)
    amplitude = 1.0

    def noise() -> np.ndarray:
        return rng.uniform(-amplitude, amplitude, field.shape).astype(np.float32)

    def after(values: np.ndarray, axis: int) -> np.ndarray:
        return np.roll(values, -1, axis)

    while len(field) < side or len(field) < 2:
        fine = np.empty((2 * len(field), 2 * len(field)), dtype=np.float32)
        pairs = field + after(field, 0)
        centre = (pairs + after(pairs, 1)) / 4 + noise()
        fine[::2, ::2] = field
        fine[1::2, 1::2] = centre
        fine[::2, 1::2] = (field + after(field, 1) + centre + np.roll(centre, 1, 0)) / 4 + noise()
        fine[1::2, ::2] = (field + after(field, 0) + centre + np.roll(centre, 1, 1)) / 4 + noise()
        field = fine
        amplitude /= decay**2
    field -= field.min()
    return field / field.max()


def spectral_noise(shape: tuple[int, int], amplitude: Callable[[np.ndarray], np.ndarray], rng: Generator) -> np.ndarray:
    """(H,W) Gaussian noise of deviation 1 whose Fourier amplitudes follow a function of the frequency; periodic.

    Args:
        amplitude: takes frequencies in cycles per n pixels.
    """
    height, width = shape
    rows, columns = np.fft.fftfreq(height) * min(shape), np.fft.rfftfreq(width) * min(shape)
    spectrum = np.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    noise = np.fft.irfft2(spectrum * amplitude(np.hypot(rows[:, None], columns)).astype(np.float32), shape)
    return noise / (noise.std() or 1)


def perlin_turbulence(shape: tuple[int, int], cell: float, octaves: int, rng: Generator) -> np.ndarray:
    """(H,W) sum over octaves of |gradient noise| (Perlin 1985), each of half the cell, in pixels, and half the height."""
    layers = [np.abs(_gradient_noise(shape, cell / 2**octave, rng)) / 2**octave for octave in range(octaves)]
    return np.sum(layers, axis=0)


def _gradient_noise(shape: tuple[int, int], cell: float, rng: Generator) -> np.ndarray:
    grids = [np.divmod(np.arange(side, dtype=np.float32) / np.float32(cell), 1) for side in shape]
    (row, y), (column, x) = ((whole.astype(int), part) for whole, part in grids)
    angles = rng.uniform(0, 2 * pi, (row[-1] + 2, column[-1] + 2)).astype(np.float32)
    slope_y, slope_x = np.sin(angles), np.cos(angles)

    def corner(down: int, right: int) -> np.ndarray:
        at = np.ix_(row + down, column + right)
        return slope_y[at] * (y - down)[:, None] + slope_x[at] * (x - right)

    def blend(start: np.ndarray, end: np.ndarray, part: np.ndarray) -> np.ndarray:
        return start + (end - start) * (part**2 * (3 - 2 * part))

    return 1.5 * blend(blend(corner(0, 0), corner(0, 1), x), blend(corner(1, 0), corner(1, 1), x), y[:, None])


def caustics(shape: tuple[int, int], time: float, period: float) -> np.ndarray:
    """(H,W) light at the bottom of a pool, 0..1, as ImageNet-C-bar's generator defines it.

    Args:
        time: 0.5..2, which moment of the water's movement.
        period: in pixels, after which the pattern repeats.
    """
    rows, columns = (
        np.modf(np.arange(side, dtype=np.float32) / np.float32(period))[0] * (2 * pi) - 250 for side in shape
    )
    y, x = np.broadcast_arrays(rows[:, None], columns)
    moved_y, moved_x = y, x
    light = np.float32(1)
    for fold in range(1, 6):
        phase = time * (1 - 3.5 / fold)
        moved_y, moved_x = (
            y + np.cos(phase - moved_y) + np.sin(phase + moved_x),
            x + np.sin(phase - moved_x) + np.cos(phase + moved_y),
        )
        light = light + 1 / np.hypot(y / np.sin(moved_y + phase), x / np.cos(moved_x + phase)) / 0.005
    return np.minimum(np.abs(1.17 - (light / 5) ** 1.4) ** 8, 1)


def swirls(shape: tuple[int, int], time: float, iterations: int, sharpness: float, period: float) -> np.ndarray:
    """(H,W,3) coloured waves folded into each other, -1..1, as ImageNet-C-bar's plasma noise defines them.

    Args:
        time: 0..6 pi, a phase.
        iterations: how often the waves are folded.
        sharpness: 0..1, how slowly the folds become smaller.
        period: of the first waves, in pixels per radian.
    """
    y, x = np.meshgrid(*(np.arange(side, dtype=np.float32) / np.float32(period) for side in shape), indexing="ij")
    frequency, drift, divisor = 1.0, 1.0, 1.0
    for _ in range(iterations):
        across, along = np.cos(y * frequency + time / drift) / divisor, np.sin(x * frequency + time / drift) / divisor
        x = x + across - 0.3 * along
        y = y + along + 0.3 * across
        frequency, drift, divisor = frequency * 1.93, drift * 1.15, divisor * (2.25 - sharpness)
    return np.stack([np.sin(x - time), np.sin((x + y + np.sin(time)) / 2), np.sin(y + time)], axis=2)


@lru_cache(maxsize=FROSTS)
def frost(index: int) -> np.ndarray:
    """(512,512,3) float32 in 0..1, periodic: feathers of ice that grow from seeds, in patches on darker glass.

    As bright, and as strong in coarse, middle and fine structure, as the photographs that ImageNet-C takes its frost from.
    Around each seed, arms carry barbs like a fern's; where two crystals meet, they end. A smooth field decides where the
    ice is thick. Made once in a process, in a fraction of a second.
    """
    rng = np.random.default_rng((2019, index))
    side = _FROST_SIDE
    shape = (side, side)
    bend = np.stack([spectral_noise(shape, lambda f: 1 / (1 + (f / 8) ** 3), rng) for _ in range(2)])
    y, x = np.mod(np.indices(shape) + 4 * bend, side)
    seeds = rng.uniform(0, side, (30 + 20 * index, 2))
    distances, nearest = map(np.asarray, KDTree(seeds, boxsize=side).query(np.stack([y, x], axis=2), k=2))
    seed = nearest[..., 0]
    away_y, away_x = ((p - seeds[seed, axis] + side / 2) % side - side / 2 for axis, p in enumerate((y, x)))
    radius = np.hypot(away_y, away_x)

    arms = rng.integers(7, 16, len(seeds))[seed]
    turn = (np.arctan2(away_y, away_x) / (2 * pi) + rng.random(len(seeds))[seed]) * arms
    off_arm = np.abs(turn % 1 - 0.5) * (2 * pi / arms) * radius  # pixels to the nearest arm
    barbs = np.abs(((radius + 1.7 * off_arm) / rng.uniform(6, 11, len(seeds))[seed]) % 1 - 0.5) * 2
    crystal = np.exp(-off_arm / 2) + 0.8 * barbs * np.exp(-off_arm / 20)
    crystal *= np.clip((distances[..., 1] - distances[..., 0]) / 8, 0.4, 1)
    grain = spectral_noise(shape, lambda f: 1 / (1 + f / 20), rng)
    thickness = spectral_noise(shape, lambda f: 1 / (1 + (f / 3) ** 2), rng)
    cover = 1 / (1 + np.exp(-2.5 * (thickness + 0.35)))
    light = cover * (0.26 + 0.34 * np.clip(crystal, 0, 1.3) + 0.06 * grain)
    colour, strengths = _FROST_STRENGTH[index]
    grey = np.sum([b * (s / b.std()) for b, s in zip(frost_bands(light, "wrap"), strengths, strict=True)], axis=0)
    return np.clip((np.array(colour) + grey[..., None]) / 255, 0, 1).astype(np.float32)


def frost_bands(grey: np.ndarray, edge: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coarse, middle and fine structure of a texture (H,W), each of mean 0; `edge` is a mode of scipy's filters."""
    fine, coarse = (ndimage.gaussian_filter(grey, sigma, mode=edge) for sigma in _FROST_BANDS)
    return coarse - coarse.mean(), fine - coarse, grey - fine

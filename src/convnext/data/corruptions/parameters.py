"""Strengths of the corruptions: one row per corruption, one column per severity 1..5.

ImageNet-C and its four extra corruptions: D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations, ICLR 2019, Section 4, in the numbers that its released generator uses.
ImageNet-C-bar: E. Mintun, A. Kirillov and S. Xie, On Interaction Between Augmentations and Corruptions in Natural
Corruption Robustness, NeurIPS 2021, Appendix; each corruption has a scale from 0 to 10, and the five levels on it were
chosen there so that the errors match ImageNet-C's.

Lengths are in pixels of an image whose short side is 224; values of pixels are in 0..1.
"""


def _rows(**columns: tuple[float, ...]) -> tuple[dict[str, float], ...]:
    """One dict of parameters per severity, from each parameter's five values."""
    return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _levels(top: float, *levels: float) -> tuple[float, ...]:
    """The values at these levels of a scale that is 0 at level 0 and `top` at level 10."""
    return tuple(top * level / 10 for level in levels)


# fmt: off
PARAMETERS: dict[str, tuple[dict[str, float], ...]] = {
    # ImageNet-C
    "gaussian_noise": _rows(deviation=(0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": _rows(photons=(60, 25, 12, 5, 3)),
    "impulse_noise": _rows(share=(0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": _rows(radius=(3, 4, 6, 8, 10), alias_blur=(0.1, 0.5, 0.5, 0.5, 0.5)),
    "glass_blur": _rows(sigma=(0.7, 0.9, 1.0, 1.1, 1.5), reach=(1, 2, 2, 3, 4), rounds=(2, 1, 3, 2, 2)),
    "motion_blur": _rows(radius=(10, 15, 15, 15, 20), sigma=(3, 5, 8, 12, 15)),
    "zoom_blur": _rows(step=(0.01, 0.01, 0.02, 0.02, 0.03), layers=(12, 16, 11, 13, 11)),
    "snow": _rows(
        mean=(0.1, 0.2, 0.55, 0.55, 0.55), deviation=(0.3, 0.3, 0.3, 0.3, 0.3), flake=(3, 2, 4, 4.5, 2.5),
        threshold=(0.5, 0.5, 0.9, 0.85, 0.85), radius=(10, 12, 12, 12, 12), sigma=(4, 4, 8, 8, 12),
        keep=(0.8, 0.7, 0.7, 0.65, 0.55),
    ),
    "frost": _rows(keep=(1, 0.8, 0.7, 0.65, 0.6), ice=(0.4, 0.6, 0.7, 0.7, 0.75)),
    "fog": _rows(density=(1.5, 2, 2.5, 2.5, 3), decay=(2, 2, 1.7, 1.5, 1.4)),
    "brightness": _rows(shift=(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": _rows(keep=(0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": _rows(
        shift=(488, 488, 12.2, 17.08, 29.28), sigma=(170.8, 19.52, 2.44, 2.44, 2.44),
        jitter=(24.4, 48.8, 4.88, 4.88, 4.88),
    ),
    "pixelate": _rows(resolution=(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": _rows(quality=(25, 18, 15, 10, 7)),
    # ImageNet-C's extra corruptions
    "speckle_noise": _rows(deviation=(0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": _rows(sigma=(1, 2, 3, 4, 6)),
    "spatter": _rows(
        mean=(0.65, 0.65, 0.65, 0.65, 0.67), deviation=(0.3, 0.3, 0.3, 0.3, 0.4), sigma=(4, 3, 2, 1, 1),
        threshold=(0.69, 0.68, 0.68, 0.65, 0.65), strength=(0.6, 0.6, 0.5, 1.5, 1.5), mud=(0, 0, 0, 1, 1),
    ),
    "saturate": _rows(gain=(0.3, 0.1, 2, 5, 20), shift=(0, 0, 0, 0.1, 0.2)),
    # ImageNet-C-bar
    "caustic_refraction": _rows(
        lens=_levels(112, 2.35, 3.2, 4.9, 6.6, 9.15), light=_levels(2, 2.35, 3.2, 4.9, 6.6, 9.15)
    ),
    "inverse_sparkles": _rows(falloff=_levels(1.3, 1, 2, 4, 9, 10)),
    "sparkles": _rows(radius=_levels(22.4, 1, 2, 3, 5, 6)),
    "perlin_noise": _rows(alpha=_levels(0.5, 4.6, 5.2, 5.8, 7.6, 8.8)),
    "blue_noise_sample": _rows(threshold=tuple(value - 2.5 for value in _levels(3, 0.8, 1.6, 2.4, 4, 5.6))),
    "plasma_noise": _rows(alpha=_levels(64 / 255, 4.75, 7, 8.5, 9.25, 10)),
    "checkerboard_cutout": _rows(share=_levels(1, 2, 3, 4, 5, 6)),
    "cocentric_sine_waves": _rows(amplitude=_levels(128 / 255, 3, 5, 8, 9, 10)),
    "single_frequency_greyscale": _rows(amplitude=_levels(196 / 255, 1, 1.5, 2, 4.5, 5)),
    "brownish_noise": _rows(amplitude=_levels(64 / 255, 1, 2, 3, 4, 5)),
}
# fmt: on
"""`PARAMETERS[name][severity - 1]` are the keyword arguments of the function called `name`."""

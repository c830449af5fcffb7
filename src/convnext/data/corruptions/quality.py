"""Distance of a corrupted image from its original: PSNR and SSIM."""

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter


def psnr(original: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for equal images."""
    difference = np.asarray(original, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    error = np.mean(difference**2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(original: Image.Image, other: Image.Image) -> float:
    """Structural similarity of the luma (Wang et al. 2004): Gaussian window of 1.5 pixels, K1 = 0.01, K2 = 0.03."""
    x, y = (np.asarray(image.convert("L"), dtype=np.float64) / 255 for image in (original, other))

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, radius=5)

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    return float(np.mean(luminance * structure))

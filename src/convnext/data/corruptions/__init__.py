"""Corruptions of images at five severities: ImageNet-C, its four extra ones, and ImageNet-C-bar.

Our own implementation of the published definitions, with the parameters of `parameters.py`; textures are generated.
The benchmarks themselves are fixed sets of JPEG files (`pixels.through_jpeg`): results on images corrupted here are not
results on them. What differs is measured in docs/fidelity.md.
"""

import numpy as np
from PIL import Image

from convnext.data.corruptions import bar, blur, digital, noise, weather
from convnext.data.corruptions.parameters import PARAMETERS
from convnext.data.corruptions.pixels import to_image, to_pixels
from convnext.errors import ConvNextError, nearest
from convnext.seeding import derive

IMAGENET_C = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
IMAGENET_C_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
IMAGENET_C_BAR = (
    "caustic_refraction",
    "inverse_sparkles",
    "sparkles",
    "perlin_noise",
    "blue_noise_sample",
    "plasma_noise",
    "checkerboard_cutout",
    "cocentric_sine_waves",
    "single_frequency_greyscale",
    "brownish_noise",
)
ALL = IMAGENET_C + IMAGENET_C_EXTRA + IMAGENET_C_BAR
SEVERITIES = (1, 2, 3, 4, 5)

_FUNCTIONS = {
    name: function
    for kind in (noise, blur, weather, digital, bar)
    for name, function in vars(kind).items()
    if name in ALL
}


def corrupt(image: Image.Image, name: str, severity: int, seed: int, image_id: str) -> Image.Image:
    """An image as it would look corrupted; a pure function of its arguments.

    Args:
        image: mode RGB, of any size; at a short side of 224 pixels the strength is the published one, and lengths grow
            and shrink with it.
        name: one of `ALL`.
        severity: 1 to 5.
        seed, image_id: with name and severity they decide all that is random, so that an image comes out the same in
            any order and any worker.

    Returns:
        Mode RGB, of the same size.

    Raises:
        ConvNextError: no such corruption or severity.
    """
    if name not in ALL:
        raise ConvNextError(f"There is no corruption {name!r}.{nearest(name, ALL)} Take one of {', '.join(ALL)}.")
    if severity not in SEVERITIES:
        raise ConvNextError(f"The severity is {severity!r}, and must be 1, 2, 3, 4 or 5.")
    rng = np.random.default_rng(derive(seed, "corruption", name, severity, image_id))
    return to_image(_FUNCTIONS[name](to_pixels(image), rng, **PARAMETERS[name][severity - 1]))

import numpy as np
import pytest
import torch
from PIL import Image

from convnext.data.pixels import DensePreprocess, normalize, pad_to_multiple, pixels, resize, scaled_size
from convnext.errors import ConvNextError


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By the definition, in fp64: centres of pixels are at one half, beyond the border its value repeats."""
    out = np.zeros((*size, image.shape[2]))
    for axis_size, new in zip(image.shape[:2], size, strict=True):
        assert axis_size > 1
        assert new > 0
    ys, xs = ((np.arange(new) + 0.5) * old / new - 0.5 for new, old in zip(size, image.shape[:2], strict=True))
    for row, y in enumerate(ys.clip(0, image.shape[0] - 1)):
        for column, x in enumerate(xs.clip(0, image.shape[1] - 1)):
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            out[row, column] = upper * (1 - y + top) + lower * (y - top)
    return out


@pytest.mark.parametrize("size", [(9, 14), (40, 33), (20, 25)])
def test_resize_is_plain_bilinear(size):
    """Also when it shrinks: no antialiasing, as the reference's OpenCV. Half a level is the rounding to uint8."""
    image = np.random.default_rng(0).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    got = resize(pixels(Image.fromarray(image)), size)
    assert got.dtype == torch.uint8
    assert np.abs(got.permute(1, 2, 0).numpy() - bilinear(image.astype(float), size)).max() <= 0.5 + 1e-3


def test_scaled_size_keeps_the_aspect_within_both_limits():
    assert scaled_size((480, 640), 800, 1333) == (800, 1067)
    assert scaled_size((640, 480), 800, 1333) == (1067, 800)
    assert scaled_size((300, 1000), 800, 1333) == (400, 1333)  # the long side is what limits
    assert scaled_size((2, 4000), 800, 1333) == (1, 1333)


def test_normalize_is_the_reference():
    values = torch.arange(0, 256, dtype=torch.uint8).expand(3, 1, 256)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(normalize(values), (values.float() - mean[:, None, None]) / std[:, None, None])


def test_padding_is_zero_and_to_the_right_and_below():
    batch = pad_to_multiple([torch.ones(3, 33, 20), torch.ones(3, 10, 64)])
    assert batch.shape == (2, 3, 64, 64)
    assert batch[0, :, :33, :20].min() == 1
    assert batch[0].sum() == 3 * 33 * 20
    assert batch[1].sum() == 3 * 10 * 64


def test_preprocess_round_trip_and_newer_versions():
    pre = DensePreprocess(800, 1333)
    assert DensePreprocess.from_dict(pre.to_dict() | {"mean": list(pre.mean)}) == pre
    with pytest.raises(ConvNextError, match="newer version"):
        DensePreprocess.from_dict({"short": 1, "long": 2, "colour": 3})
    image = Image.fromarray(np.full((30, 60, 3), 128, np.uint8))
    assert DensePreprocess(15, 1000)(image).shape == (3, 15, 30)


@pytest.mark.parametrize("size", [(1, 30000), (30000, 1)])
def test_thin_images_stay_within_the_long_side(size):
    image = Image.new("RGB", size)
    assert max(DensePreprocess(800, 1333)(image).shape) == 1333

"""Training augmentation in its parts: the draws are timm's, one for one, and the pixels those of the plain transforms."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms as T

from convnext.classification.augment import (
    Finish,
    TrainTransform,
    collate_augmented,
    random_crop,
    random_rectangle,
    resize,
)
from convnext.classification.transforms import Normalize, Preprocess
from convnext.recipes.schema import Augment
from convnext.seeding import seed_cpu

DRAWS = 10_000


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth noise."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (1000, 90), (64, 900)])
def test_ten_thousand_crops_are_timms(size):
    image, theirs = torch.empty(1).expand(3, size[1], size[0]), RandomResizedCropAndInterpolation.get_params
    random.seed(0)
    expected = [theirs(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS // 4)]
    random.seed(0)
    found = [random_crop(size, (0.08, 1.0)) for _ in range(DRAWS // 4)]
    assert [(left, top, width, height) for top, left, height, width in expected] == found


def test_ten_thousand_crops_have_the_distribution_of_the_definition():
    random.seed(1)
    left, top, width, height = np.array([random_crop((1000, 1000), (0.08, 1.0)) for _ in range(DRAWS)]).T
    share = width * height / 1e6
    small = share < 0.5  # at every aspect it fits, so none is drawn again
    quantiles = np.quantile(share[small], (0, 0.25, 0.5, 0.75, 1))
    np.testing.assert_allclose(quantiles, (0.08, 0.185, 0.29, 0.395, 0.5), atol=0.012)
    aspects = np.quantile(np.log(width / height)[small], (0, 0.25, 0.5, 0.75, 1)) / np.log(4 / 3)
    np.testing.assert_allclose(aspects, (-1, -0.5, 0, 0.5, 1), atol=0.04)
    room = width < 900
    assert np.mean(left[room] / (1000 - width[room])) == pytest.approx(0.5, abs=0.012)
    assert np.mean(top[height < 900] / (1000 - height[height < 900])) == pytest.approx(0.5, abs=0.012)


def test_ten_thousand_rectangles_are_timms():
    class Noted(torch.Tensor):
        """Notes what is written to it."""

        written = None

        def __setitem__(self, key, value):
            Noted.written = tuple((part.start, part.stop - part.start) for part in key[1:])

    image, theirs = torch.empty(3, 224, 224).as_subclass(Noted), RandomErasing(0.25, mode="pixel", device="cpu")
    found, expected = [], []
    for i in range(DRAWS):
        random.seed(i)
        top, left, height, width, _ = random_rectangle(224, 0.25)
        found.append(((top, height), (left, width)) if height else None)
        Noted.written = None
        random.seed(i)
        theirs._erase(image, 3, 224, 224, torch.float32)
        expected.append(Noted.written)
    assert found == expected
    assert sum(box is not None for box in found) / DRAWS == pytest.approx(0.25, abs=0.015)


def test_ten_thousand_flips():
    transform = TrainTransform(Preprocess.for_size(2), Augment(rand_augment=None, crop_padding=0, random_erasing=0.0))
    pixels = np.zeros((2, 2, 3), dtype=np.uint8)
    pixels[:, 0] = 255
    torch.manual_seed(0)
    flipped = Counter(int(transform(pixels).pixels[0, 0, 0]) for _ in range(DRAWS))
    assert flipped[0] / DRAWS == pytest.approx(0.5, abs=0.015)


def test_a_sample_is_that_of_timms_transforms_with_the_same_seed():
    """Crop, flip, colours and erased rectangle; Pillow's resize and PyTorch's differ by one, which some operations
    amplify (equalising, solarising): so most pixels are compared."""
    pre, augment = Preprocess(), Augment()
    transform = TrainTransform(pre, augment)
    plain = T.Compose(
        [
            RandomResizedCropAndInterpolation(224, scale=augment.crop_scale, interpolation="bicubic"),
            T.RandomHorizontalFlip(augment.hflip),
            transform.rand_augment,
        ]
    )
    image, close = picture(500, 375), []
    for i in range(24):
        seed_cpu(i)
        expected = np.asarray(plain(image)).astype(int)
        seed_cpu(i)
        found = transform(np.asarray(image.crop(transform.region(image.size).box(image.size, image.size)))).pixels
        close.append((np.abs(found.numpy().astype(int) - expected) <= 2).mean())
    assert np.mean(close) > 0.97
    assert np.median(close) > 0.999


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_resize_is_pillows_within_one(interpolation):
    image = picture(311, 187)
    expected = np.asarray(image.resize((96, 96), Image.Resampling[interpolation.upper()])).astype(int)
    found = resize(np.asarray(image), 96, interpolation)
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1


def test_finishing_normalises_and_erases_what_was_drawn():
    pre = Preprocess.for_size(48)
    transform = TrainTransform(pre, Augment(rand_augment=None, random_erasing=0.5))
    samples = []
    for i in range(8):
        seed_cpu(i)
        samples.append((transform(np.asarray(picture(60, 60, i))), i % 3, i, []))
    batch = collate_augmented(samples)
    assert batch.images.dtype == torch.uint8
    assert batch.erase is not None
    found = Finish(pre)(batch.images, batch.erase)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, Finish(pre)(batch.images, batch.erase))  # noise is a function of the seed
    erased = 0
    for image, values, (top, left, height, width, _) in zip(batch.images, found, batch.erase.tolist(), strict=True):
        expected = Normalize(pre.mean, pre.std)(Image.fromarray(image.permute(1, 2, 0).numpy()))
        inside = torch.zeros(48, 48, dtype=torch.bool)
        inside[top : top + height, left : left + width] = True
        torch.testing.assert_close(values[:, ~inside], expected[:, ~inside], rtol=0, atol=1e-6)
        if height:
            erased += 1
            noise = values[:, inside]
            assert noise.mean().abs() < 6 / noise.numel() ** 0.5
            assert noise.std() == pytest.approx(1, abs=6 / noise.numel() ** 0.5)
    assert 0 < erased < 8

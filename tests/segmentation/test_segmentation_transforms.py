"""The augmentation of image and labels together: geometry by images that carry their place, colour against colorsys."""

import colorsys
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from convnext.data.conventions import IMAGENET_MEAN, IMAGENET_STD
from convnext.data.pixels import pixels, resize
from convnext.errors import ConvNextError
from convnext.seeding import seed_cpu
from convnext.segmentation import transforms as segmentation_transforms
from convnext.segmentation.transforms import (
    ATTEMPTS,
    TrainTransform,
    distort,
    random_crop,
    resize_labels,
    saturate,
    turn_hue,
)

PLAIN = {"photometric": False, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # values stay 0..255


def checkered(height: int, width: int, cell: int = 16) -> tuple[Image.Image, np.ndarray]:
    """An image whose red value is ten times its label: cells of the labels 0..19."""
    rows, columns = np.mgrid[:height, :width] // cell
    labels = ((rows * 7 + columns * 3) % 20).astype(np.uint8)
    return Image.fromarray(np.stack([labels * 10, labels, 255 - labels], -1)), labels


def test_shapes_and_padding():
    image, labels = checkered(48, 96)
    seed_cpu(0)
    inputs, targets = TrainTransform(24, 1000, crop=160)(image, labels)
    assert inputs.shape == (3, 160, 160)
    assert inputs.dtype == torch.float32
    assert targets.shape == (160, 160)
    assert targets.dtype == torch.int64
    outside = targets == 255
    assert 0 < outside.sum() < 160 * 160
    height, width = (~outside).any(1).sum(), (~outside).any(0).sum()
    assert 12 <= height <= 48  # 24 times 0.5..2
    assert abs(width - 2 * height) <= 1
    assert not outside[:height, :width].any()
    assert (inputs[:, outside] == 0).all()
    assert (inputs[:, ~outside] != 0).all()


@pytest.mark.parametrize("ratio", [(1.0, 1.0), (0.5, 0.5), (1.7, 1.7)])
def test_image_and_labels_stay_together(ratio):
    """Away from the edges of cells a pixel's value still tells its label, however it was scaled, cut and flipped."""
    image, labels = checkered(120, 200, cell=20)
    for seed in range(6):
        seed_cpu(seed)
        inputs, targets = TrainTransform(120, 500, ratio, crop=64, **PLAIN)(image, labels)
        inside = targets != 255
        assert inside.sum() > 64 * 32
        agree = (inputs[0].round() == targets * 10)[inside].float().mean()
        assert agree > (0.8 if ratio[0] >= 1 else 0.7)  # the image blends at edges; labels at random agree in 5 %


def test_scale_of_one_without_flip_is_a_cut_of_the_original():
    image, labels = checkered(90, 70, cell=5)
    original, stored = pixels(image).float(), torch.from_numpy(labels.astype(np.int64))
    places = set()
    for seed in range(20):
        seed_cpu(seed)
        inputs, targets = TrainTransform(70, 90, (1, 1), crop=32, max_share=1, hflip=0, **PLAIN)(image, labels)
        found = [
            (top, left)
            for top in range(90 - 31)
            for left in range(70 - 31)
            if torch.equal(targets, stored[top : top + 32, left : left + 32])
        ]
        assert any(
            torch.allclose(inputs, original[:, top : top + 32, left : left + 32], atol=1e-3) for top, left in found
        )
        places.add(found[0])
    assert len(places) > 10


def test_flip():
    image, labels = checkered(40, 40, cell=3)
    settings = {"short": 40, "long": 40, "ratio": (1, 1), "crop": 40, **PLAIN}
    kept, flipped = (TrainTransform(**settings, hflip=p)(image, labels) for p in (0, 1))
    assert torch.equal(flipped[0], kept[0].flip(-1))
    assert torch.equal(flipped[1], kept[1].flip(-1))
    assert not torch.equal(flipped[1], kept[1])
    seed_cpu(0)
    share = np.mean([torch.equal(TrainTransform(**settings)(image, labels)[1], flipped[1]) for _ in range(200)])
    assert 0.4 < share < 0.6  # 0.5 with a deviation of 0.035


def test_the_ratio_is_uniform():
    image, labels = Image.new("RGB", (20, 20)), np.zeros((20, 20), np.uint8)
    seed_cpu(0)
    transform = TrainTransform(100, 100, crop=200, max_share=1)
    sides = np.array([(transform(image, labels)[1][0] != 255).sum().item() for _ in range(200)])
    assert sides.min() >= 50
    assert sides.min() < 56
    assert 194 < sides.max() <= 200
    assert abs(sides.mean() - 125) < 10  # deviation of the mean: 3.1


def test_the_long_side_limits_too():
    image, labels = checkered(20, 100)
    _, targets = TrainTransform(50, 150, (1, 1), crop=200)(image, labels)
    assert ((targets != 255).any(1).sum(), (targets != 255).any(0).sum()) == (30, 150)


def test_normalisation():
    image, labels = Image.new("RGB", (8, 8), (10, 20, 30)), np.zeros((8, 8), np.uint8)
    inputs, _ = TrainTransform(8, 8, (1, 1), crop=8, photometric=False)(image, labels)
    expected = (np.array([10, 20, 30]) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(inputs[:, 3, 3], expected, rtol=1e-5)


def test_a_pure_function_of_the_seed():
    image, labels = checkered(100, 130)
    transform = pickle.loads(pickle.dumps(TrainTransform(64, 256, crop=48)))
    results = []
    for seed in (1, 2, 1):
        seed_cpu(seed)
        results.append(transform(image, labels))
    assert all(torch.equal(*both) for both in zip(results[0], results[2], strict=True))
    assert not torch.equal(results[0][0], results[1][0])
    assert np.asarray(labels).max() == 19  # what was given is left as it was


def test_sizes_must_agree():
    with pytest.raises(ConvNextError, match="the image is 4 x 3 and the labels are 5 x 3 pixels"):
        TrainTransform(4, 4)(Image.new("RGB", (4, 3)), np.zeros((3, 5), np.uint8))


@pytest.mark.parametrize("size", [(7, 11), (3, 4), (20, 31), (13, 22)])
def test_labels_are_resized_as_by_torch(size):
    labels = np.random.default_rng(0).integers(0, 256, (13, 22), dtype=np.uint8)
    expected = torch.nn.functional.interpolate(torch.from_numpy(labels)[None, None].double(), size=size, mode="nearest")
    assert resize_labels(labels, size).tolist() == expected[0, 0].to(torch.uint8).tolist()


def test_crops_of_one_class_are_avoided(monkeypatch):
    labels = np.zeros((100, 100), np.uint8)
    labels[:, 90:] = 1  # windows of 20 have at most half of it, and most have none
    random.seed(0)
    shares = []
    for _ in range(200):
        rows, columns = random_crop(labels, 20, 0.75)
        assert labels[rows, columns].shape == (20, 20)
        shares.append((labels[rows, columns] == 1).mean())
    accepted = np.mean(np.array(shares) > 0.25)
    # a window is accepted with its left edge at 76 to 80 of 0 to 80; ten redraws leave that many without
    assert abs(accepted - (1 - (76 / 81) ** (ATTEMPTS + 1))) < 0.1
    random.seed(0)
    any_share = [(labels[random_crop(labels, 20, 1.0)] == 1).mean() > 0.25 for _ in range(200)]
    assert np.mean(any_share) < 0.15
    monkeypatch.setattr(segmentation_transforms, "ATTEMPTS", 10_000)  # enough that one is always found
    shares = [(labels[random_crop(labels, 20, 0.75)] == 1).mean() for _ in range(50)]
    assert min(shares) == 0.3  # 6 columns of 20; 5 would leave the other class exactly 0.75


def test_ignored_pixels_do_not_count_for_the_share():
    labels = np.full((10, 30), 255, np.uint8)
    labels[0, :3], labels[1, :3] = 4, 5  # 3 pixels each, in a window among many that are ignored
    random.seed(0)
    windows = [labels[random_crop(labels, 10, 0.75)] for _ in range(100)]
    # redrawn until the left edge is at 0, 1 or 2 of 0 to 20: of 11 tries one succeeds in 82 %
    assert 0.7 < np.mean([(window == 4).any() for window in windows]) < 0.93


def test_a_window_larger_than_the_image():
    rows, columns = random_crop(np.zeros((5, 30), np.uint8), 10, 0.75)
    assert (rows.start, columns.stop - columns.start) == (0, 10)


def hsv(values: torch.Tensor) -> np.ndarray:
    """(3,H,W) of 0..255 -> (H W,3) hue, saturation, value in 0..1, by Python's own module."""
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in (values.double().reshape(3, -1).T / 255).tolist()])


def rgb(colours: np.ndarray) -> np.ndarray:
    return np.array([colorsys.hsv_to_rgb(*colour) for colour in colours.tolist()]).T * 255


@pytest.fixture
def some():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (3, 20, 30), generator=generator).float()
    corners = torch.tensor([[r, g, b] for r in (0, 128, 255) for g in (0, 128, 255) for b in (0, 128, 255)]).T
    values[:, 0, :27] = corners.float()  # black, white, greys, and ties between channels
    return values


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
def test_saturation(some, factor):
    colours = hsv(some)
    colours[:, 1] = np.minimum(colours[:, 1] * factor, 1)
    np.testing.assert_allclose(saturate(some, factor).reshape(3, -1), rgb(colours), rtol=0, atol=2e-3)


@pytest.mark.parametrize("degrees", [-36.0, -5.0, 0.0, 20.0, 36.0, 180.0])
def test_hue(some, degrees):
    colours = hsv(some)
    colours[:, 0] = (colours[:, 0] + degrees / 360) % 1
    np.testing.assert_allclose(turn_hue(some, degrees).reshape(3, -1), rgb(colours), rtol=0, atol=2e-3)


def test_distortion_ranges(some):
    before = some.clone()
    random.seed(0)
    grey = torch.full((3, 1, 1), 100.0)  # no hue and no saturation: brightness and contrast alone
    results = np.array([distort(grey)[0].item() for _ in range(2000)])
    assert abs(np.mean(results == 100) - 0.25) < 0.04  # neither of both
    assert results.min() >= 68 * 0.5
    assert results.min() < 40
    assert 185 < results.max() <= 132 * 1.5
    for _ in range(50):
        distorted = distort(some)
        assert distorted.shape == some.shape
        assert distorted.min() >= -1e-3
        assert distorted.max() <= 255 + 1e-3
    assert torch.equal(some, before)


def test_contrast_comes_first_or_last(monkeypatch):
    """Of a red that contrast clips: clipped before its saturation is halved, or after."""

    def result(order):
        draws, factors = iter([0.9, 0.1, order, 0.1, 0.9]), iter([1.5, 0.5])  # contrast 1.5 and saturation 0.5 alone
        monkeypatch.setattr(random, "random", lambda: next(draws))
        monkeypatch.setattr(random, "uniform", lambda low, high: next(factors))
        return distort(torch.tensor([200.0, 100.0, 100.0])[:, None, None]).flatten().tolist()

    assert result(0.1) == pytest.approx([255, 202.5, 202.5])  # (255, 150, 150), of which the distance to 255 is halved
    assert result(0.9) == pytest.approx([255, 225, 225])  # (200, 150, 150) times 1.5


def test_the_image_is_resized_as_in_evaluation():
    image, labels = checkered(60, 80, cell=7)
    inputs, _ = TrainTransform(33, 400, (1, 1), crop=33, max_share=1, hflip=0, **PLAIN)(image, labels)
    whole = resize(pixels(image), (33, 44)).float()
    assert any(torch.allclose(inputs, whole[:, :, left : left + 33], atol=1e-3) for left in range(12))

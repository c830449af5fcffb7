"""PAPER's training and evaluation transforms, held against their definitions."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from convnext.classification.augment import TrainTransform, train_transform
from convnext.classification.mixup import make_mixup
from convnext.classification.transforms import Normalize, Preprocess, eval_transform
from convnext.errors import ConvNextError
from convnext.recipes.schema import Augment
from convnext.seeding import seed_cpu

PLAIN = Augment(rand_augment=None, random_erasing=0.0, hflip=0.0)


def gradient(width: int, height: int) -> Image.Image:
    """An image in which every position has its own colour."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def test_normalize_is_torchvisions():
    from torchvision import transforms as T

    image = gradient(31, 17)
    pre = Preprocess()
    expected = T.Compose([T.ToTensor(), T.Normalize(pre.mean, pre.std)])(image)
    got = Normalize(pre.mean, pre.std)(image)
    assert got.is_contiguous()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # fp32 rounding of values up to 2.6


THIN_IMAGE = """
import resource
import sys
from PIL import Image
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.data.images import decode
image = decode(sys.argv[1])
transform = eval_transform(Preprocess())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert transform(image).shape == (3, 224, 224)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("size", [(1, 30000), (30000, 1)])
def test_a_thin_image_needs_little_memory(tmp_path, size):
    """As a whole, it would be 256 x 7,680,000 pixels."""
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "thin.png")
    out = subprocess.run(
        [sys.executable, "-c", THIN_IMAGE, str(tmp_path / "thin.png")], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 200  # MB


@pytest.mark.parametrize("size", [(40, 1000), (1000, 40), (31, 999), (300, 3000)])
def test_of_a_thin_image_only_the_crop_is_resized(size, monkeypatch):
    """To the same values but for rounding."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, pre = Image.fromarray(noise), Preprocess()
    part = np.asarray(pre.resize_crop(image)).astype(int)
    monkeypatch.setattr("convnext.classification.transforms.THIN", 1000)
    whole = np.asarray(pre.resize_crop(image)).astype(int)
    assert np.abs(part - whole).max() <= 1


def test_evaluation_at_224_resizes_to_256_and_crops_the_centre():
    image = gradient(500, 300)
    expected = image.resize((int(256 * 500 / 300), 256), Image.Resampling.BICUBIC)
    left = round((expected.width - 224) / 2)
    expected = expected.crop((left, 16, left + 224, 240))
    pre = Preprocess.for_size(224)
    assert pre.crop_ratio == 0.875
    assert torch.equal(eval_transform(pre)(image), Normalize(pre.mean, pre.std)(expected))


@pytest.mark.parametrize(("size", "crop_ratio"), [(384, 1.0), (32, 1.0), (8, 1.0)])
def test_evaluation_at_384_and_of_small_inputs_warps_the_whole_image(size, crop_ratio):
    image, pre = gradient(500, 300), Preprocess.for_size(size)
    assert pre.crop_ratio == crop_ratio
    warped = image.resize((size, size), Image.Resampling.BICUBIC)
    assert torch.equal(eval_transform(pre)(image), Normalize(pre.mean, pre.std)(warped))


@pytest.mark.parametrize("sides", [(500, 300), (301, 517), (256, 256), (97, 64), (1023, 111), (224, 224), (30, 31)])
@pytest.mark.parametrize("pre", [Preprocess(), Preprocess(288, 0.95), Preprocess(97, 0.9, interpolation="bilinear")])
def test_evaluation_is_torchvisions(sides, pre):
    from torchvision import transforms as T

    steps = T.Resize(int(pre.size / pre.crop_ratio), T.InterpolationMode(pre.interpolation)), T.CenterCrop(pre.size)
    image = gradient(*sides)
    expected = T.Compose([*steps, Normalize(pre.mean, pre.std)])(image)
    transform = pickle.loads(pickle.dumps(eval_transform(pre)))  # as a worker gets it
    assert torch.equal(transform(image), expected)


def test_training_crops_keep_between_8_and_100_percent_of_the_area():
    image, transform = gradient(400, 400), train_transform(Preprocess(), PLAIN)
    mean, std = torch.tensor(Preprocess.mean)[:, None, None], torch.tensor(Preprocess.std)[:, None, None]
    shares, ratios = [], []
    for i in range(200):
        seed_cpu(i)
        values = transform(image) * std + mean
        assert values.shape == (3, 224, 224)
        width, height = (float(values[c].max() - values[c].min()) for c in (0, 1))  # of the picture that is left
        shares.append(width * height)
        ratios.append(width / height)
    assert 0.07 < min(shares) < 0.15
    assert 0.9 < max(shares) <= 1.02
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)  # below 0.54: the largest do not fit at every ratio
    assert 0.7 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.42


def test_small_inputs_are_padded_and_cropped():
    white = Image.new("RGB", (32, 32), "white")
    transform = train_transform(Preprocess.for_size(32), PLAIN)
    black = (0 - torch.tensor(Preprocess.mean)) / torch.tensor(Preprocess.std)
    widths = set()
    for i in range(200):
        seed_cpu(i)
        column = transform(white)[0, 16]
        widths.add(int((column - black[0]).abs().lt(1e-5).sum()))
    assert widths == {0, 1, 2, 3, 4}


def test_randaugment_is_timms_string_with_the_mean_as_fill():
    rand_augment = TrainTransform(Preprocess(), Augment()).rand_augment
    assert rand_augment.num_layers == 2
    assert len(rand_augment.ops) == 15
    assert {op.prob for op in rand_augment.ops} == {0.5}
    assert {op.magnitude for op in rand_augment.ops} == {9}
    assert {op.magnitude_std for op in rand_augment.ops} == {0.5}
    assert rand_augment.ops[0].hparams["img_mean"] == (124, 116, 104)


def test_random_erasing_is_one_patch_of_noise_a_quarter_of_the_time():
    transform = train_transform(Preprocess(), Augment(rand_augment=None, hflip=0.0, crop_scale=(1.0, 1.0)))
    black = Image.new("RGB", (224, 224))
    floor = train_transform(Preprocess(), PLAIN)(black)
    shares = []
    for i in range(200):
        seed_cpu(i)
        changed = (transform(black) != floor).any(0).float().mean().item()
        if changed:
            shares.append(changed)
    assert 0.18 < len(shares) / 200 < 0.32
    assert min(shares) > 0.015
    assert max(shares) < 0.35


def test_a_wrong_randaugment_string():
    with pytest.raises(ConvNextError, match="rand-m9"):
        train_transform(Preprocess(), Augment(rand_augment="something"))


def test_preprocess_survives_json():
    import json

    pre = Preprocess.for_size(384)
    assert Preprocess.from_dict(json.loads(json.dumps(pre.to_dict()))) == pre
    with pytest.raises(ConvNextError, match="newer version"):
        Preprocess.from_dict({"size": 3, "colour": "blue"})


# -- Mixup and CutMix


def mixed(augment: Augment, count: int = 4, seed: int = 0, classes: int = 3):
    images = torch.stack([torch.full((3, 8, 8), float(i)) for i in range(count)])
    seed_cpu(seed)
    return make_mixup(augment, classes)(images, torch.arange(count) % classes)


def test_mixup_takes_the_flipped_batch_and_one_lambda():
    images, targets = mixed(Augment(cutmix=0.0, label_smoothing=0.0))
    values = images[:, 0, 0, 0]
    lam = 1 - values[0] / 3  # image 0 is 0 and its partner 3
    torch.testing.assert_close(values, lam * torch.arange(4.0) + (1 - lam) * torch.arange(4.0).flip(0))
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    # images 1 and 2 are partners, of classes 1 and 2
    torch.testing.assert_close(targets[1], torch.tensor([0.0, float(lam), 1 - float(lam)]))


def test_cutmix_pastes_a_box_of_the_share_that_the_target_says():
    images, targets = mixed(Augment(mixup=0.0, label_smoothing=0.0), seed=3)
    pasted = (images[1] == 2).float().mean().item()
    assert 0 < pasted < 1
    assert targets[1, 2].item() == pytest.approx(pasted)


def test_label_smoothing_is_inside():
    _, targets = mixed(Augment())
    assert targets.min().item() == pytest.approx(0.1 / 3)


def test_an_odd_batch_keeps_its_last_image():
    images, targets = mixed(Augment(), count=5)
    assert images.shape[0] == targets.shape[0] == 5
    assert torch.equal(images[4], torch.full((3, 8, 8), 4.0))
    torch.testing.assert_close(targets.sum(1), torch.ones(5))


def test_none_when_both_are_off():
    assert make_mixup(Augment(mixup=0.0, cutmix=0.0), 3) is None

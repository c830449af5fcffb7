"""Windows, scales and the way back to the image's own size, held against doing each by brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from convnext.data.pixels import DensePreprocess
from convnext.errors import ConvNextError
from convnext.segmentation import sliding
from convnext.segmentation.segmenter import build
from convnext.segmentation.sliding import (
    predict_labels,
    probability_bands,
    sliding_logits,
    whole,
    window_starts,
)

PRE = DensePreprocess(short=64, long=256)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build("upernet_convnext_atto", num_classes=5, channels=16, auxiliary_channels=8, layer_scale_init_value=1.0)
    nn.init.normal_(model.decode_head.conv_seg.weight)  # so that classes differ
    return model.eval()


def picture(height, width, seed=0):
    """Smooth blobs of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def values(image):
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)


def up(logits, size):
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


class Pointwise(nn.Module):
    """Looks at one pixel at a time, so windows cannot matter; notes the shapes that it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return torch.cat([x.sin(), x.cos()], 1)


# -- windows


@pytest.mark.parametrize(
    ("side", "crop", "stride", "starts"),
    [
        (512, 512, 341, [0]),
        (513, 512, 341, [0, 1]),
        (683, 512, 341, [0, 171]),
        (853, 512, 341, [0, 341]),
        (854, 512, 341, [0, 341, 342]),
        (100, 512, 341, [0]),
        (8, 4, 4, [0, 4]),
    ],
)
def test_windows_cover_the_side_and_the_last_ends_with_it(side, crop, stride, starts):
    assert window_starts(side, crop, stride) == starts
    assert {p for start in starts for p in range(start, start + min(crop, side))} == set(range(side))


@pytest.mark.parametrize("size", [(64, 64), (70, 101), (64, 40), (33, 150)])
@pytest.mark.parametrize("at_once", [1, 3])
def test_overlap_weights_sum_to_one(size, at_once):
    """Windows of a network without context average to what it says of the whole."""
    x = torch.randn(2, 3, *size)
    network = Pointwise()
    got = sliding_logits(network, x, crop=48, stride=20, at_once=at_once)
    torch.testing.assert_close(got, Pointwise()(x), atol=1e-6, rtol=0)
    assert max(shape[0] for shape in network.seen) == 2 * min(at_once, sum(shape[0] // 2 for shape in network.seen))
    assert {shape[2:] for shape in network.seen} == {(min(48, size[0]), min(48, size[1]))}


def test_overlaps_are_averaged():
    """Against adding up windows in fp64, one by one."""

    class Where(nn.Module):  # what it says of a pixel depends on its place in the window
        def forward(self, x):
            ramp = torch.arange(x.shape[2])[:, None] * 3.0 + torch.arange(x.shape[3])
            return (x.sum(1, keepdim=True) + ramp) * torch.tensor([1.0, -1.0])[:, None, None]

    x = torch.randn(1, 3, 77, 90)
    total, covered = torch.zeros(1, 2, 77, 90, dtype=torch.float64), torch.zeros(77, 90)
    for top in (0, 20, 29):
        for left in (0, 20, 40, 42):
            place = slice(top, top + 48), slice(left, left + 48)
            total[:, :, *place] += Where()(x[:, :, *place]).double()
            covered[place] += 1
    assert covered.max() > 4
    torch.testing.assert_close(
        sliding_logits(Where(), x, 48, 20), (total / covered).float(), atol=1e-4, rtol=1e-6
    )  # fmt: skip


@pytest.mark.parametrize("size", [(64, 64), (40, 64), (50, 33)])
@torch.no_grad()
def test_one_window_is_the_whole(model, size):
    x = torch.randn(1, 3, *size)
    assert torch.equal(sliding_logits(model, x, crop=64, stride=42), whole(model, x))
    assert torch.equal(whole(model, x), model(x))


@torch.no_grad()
def test_slivers_are_padded_to_what_the_network_takes(model):
    x = torch.randn(1, 3, 9, 64)
    padded = F.pad(x, (0, 0, 0, 23))
    with pytest.raises(ConvNextError, match="at least 32"):
        model(x)
    assert torch.equal(whole(model, x), model(padded)[:, :, :9])
    assert torch.equal(sliding_logits(model, x, 64, 42), model(padded)[:, :, :9])


def test_gaps_are_refused(model):
    with pytest.raises(ConvNextError, match=r"1\.\.48"):
        sliding_logits(model, torch.zeros(1, 3, 64, 64), crop=48, stride=49)


# -- rows


@pytest.mark.parametrize("sizes", [[(37, 50)], [(100, 90)], [(7, 9)], [(40, 51), (23, 99)], [(64, 64), (130, 20)]])
def test_rows_are_those_of_the_whole_interpolation(sizes):
    logits = torch.randn(4, 16, 13)
    expected = logits
    for size in sizes:
        expected = up(expected, size)
    height = sizes[-1][0]
    for start, stop in ((0, height), (0, 1), (height - 1, height), (height // 3, 2 * height // 3)):
        got = sliding.resized_rows(logits, sizes, start, stop)
        torch.testing.assert_close(got, expected[:, start:stop], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", sliding.MODES)
def test_the_height_of_the_bands_changes_nothing(model, mode, monkeypatch):
    image = picture(90, 131)
    in_one = predict_labels(model, image, PRE, mode)
    monkeypatch.setattr(sliding, "BAND", 5 * 131 * 7)
    assert len(list(sliding.bands(5, (90, 131)))) == 13
    assert torch.equal(predict_labels(model, image, PRE, mode), in_one)
    monkeypatch.setattr(sliding, "BAND", 1)
    assert list(sliding.bands(5, (3, 131))) == [(0, 1), (1, 2), (2, 3)]


# -- images


@torch.inference_mode()
def probabilities(model, image, ratios, flip):
    return torch.cat(list(probability_bands(model, image, PRE, ratios, flip, "fp32")), dim=1)


@pytest.mark.parametrize("size", [(90, 131), (64, 64), (50, 300)])
@torch.no_grad()
def test_labels_are_those_of_logits_at_the_images_size(model, size):
    image = picture(*size)
    x = PRE(image)[None]
    for mode, logits in (("whole", model(x)), ("slide", sliding_logits(model, x, 64, 42))):
        got, expected = predict_labels(model, image, PRE, mode), up(logits[0], size)
        assert got.shape == size
        assert got.dtype == torch.uint8
        assert len(got.unique()) > 1
        # where two classes tie to the last digits either may win
        best, second = expected.topk(2, dim=0).values
        assert (got == expected.argmax(0))[best - second > 1e-4].all()
        assert torch.equal(got, predict_labels(model, values(image), PRE, mode))


@torch.no_grad()
def test_slide_follows_its_crop_and_stride(model):
    image = picture(90, 131)
    one_window = predict_labels(model, image, PRE, "slide", crop=128, stride=128)
    assert torch.equal(one_window, predict_labels(model, image, PRE, "whole"))
    assert not torch.equal(one_window, predict_labels(model, image, PRE, "slide", crop=48, stride=20))


@pytest.mark.parametrize("size", [(90, 131), (20, 300), (300, 20)])
@torch.no_grad()
def test_multi_scale_is_the_mean_over_scales_and_mirror_images(model, size):
    """Against full-size probabilities of each pass. The long images become slivers that need padding."""
    image = picture(*size)
    expected = torch.zeros(5, *size)
    for short, long in ((32, 128), (64, 256), (96, 384)):
        x = DensePreprocess(short, long)(image)[None]
        for mirror in (False, True):
            logits = whole(model, x.flip(-1)).flip(-1) if mirror else whole(model, x)
            expected += up(logits[0], size).softmax(0) / 6
    got = probabilities(model, values(image), (0.5, 1.0, 1.5), True)
    assert got.shape == (5, *size)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.sum(0), torch.ones(size), atol=1e-5, rtol=0)
    labels = predict_labels(model, image, PRE, "multi-scale", ratios=(0.5, 1.0, 1.5))
    assert torch.equal(labels, got.argmax(0).to(torch.uint8))


@torch.no_grad()
def test_one_scale_without_mirror_image_is_the_whole(model):
    image = picture(90, 131)
    got = probabilities(model, values(image), (1.0,), False)
    torch.testing.assert_close(got, up(whole(model, PRE(image)[None])[0], (90, 131)).softmax(0), atol=1e-5, rtol=0)


def test_the_papers_scales():
    assert sliding.RATIOS == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert (512 * 2 // 3, 640 * 2 // 3) == (341, 426)
    pre = DensePreprocess(512, 2048)
    sizes = [sliding.prepared(torch.zeros(3, 600, 1000, dtype=torch.uint8), pre, r).shape[1:] for r in sliding.RATIOS]
    assert sizes == [(256, 427), (384, 640), (512, 853), (640, 1067), (768, 1280), (896, 1493)]


def test_a_typo_is_answered(model):
    with pytest.raises(ConvNextError, match="'multi-scale'"):
        predict_labels(model, picture(64, 64), PRE, "multiscale")

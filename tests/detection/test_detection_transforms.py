"""Images, boxes and masks stay on each other, whatever is drawn; sizes and chances are the paper's."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from convnext import recipes
from convnext.data.pixels import DensePreprocess
from convnext.data.shapes import box, draw_scene
from convnext.detection import transforms as detection_transforms
from convnext.detection.transforms import TrainTransform

SMALL = TrainTransform((60, 80, 100), 120, crop_short_sides=(50, 70), crop_sides=(40, 60))


def scene(index: int, size: int = 64) -> tuple[Image.Image, dict[str, np.ndarray], np.ndarray]:
    """An image that is white where its objects are, its target, and which objects are rectangles."""
    drawn = draw_scene(0, index, size, crowds=0)
    x, y, w, h = np.array([box(mask) for mask in drawn.masks], dtype=np.float32).T
    boxes = np.stack([x, y, x + w, y + h], axis=1)
    target = {"boxes": boxes, "labels": drawn.labels, "masks": drawn.masks, "ignore": boxes[:1]}
    image = drawn.masks.any(axis=0)[..., None].repeat(3, axis=2)
    return Image.fromarray(255 * image.astype(np.uint8)), target, drawn.labels == 1


def corners(mask: torch.Tensor) -> torch.Tensor:
    x, y, w, h = box(mask.numpy())
    return torch.tensor([x, y, x + w, y + h])


@pytest.mark.parametrize("crop", [False, True])
def test_boxes_masks_and_pixels_stay_on_each_other(crop, monkeypatch):
    if crop:
        monkeypatch.setattr(torch, "rand", lambda size: torch.tensor(0.4))  # flipped and cropped, always
    cut = 0
    for index in range(40):
        torch.manual_seed(index)
        image, target, _ = scene(index)
        x, after = (SMALL if crop else TrainTransform((60, 80, 100), 120, crop=False))(image, target)
        height, width = after["size"].tolist()
        assert x.shape == (3, height, width)
        assert after["masks"].shape == (len(after["boxes"]), height, width)
        assert len(after["labels"]) == len(after["boxes"])
        assert (after["boxes"][:, 2:] - after["boxes"][:, :2] >= 1).all()
        assert (after["boxes"] >= 0).all()
        assert (after["boxes"] <= torch.tensor([width, height] * 2)).all()
        for drawn, mask in zip(after["boxes"], after["masks"], strict=True):
            if mask.any():
                seen, slack = corners(mask), 1 + max(height, width) / 64
                if not crop:
                    assert (drawn - seen).abs().max() <= slack
                assert (seen[:2] >= drawn[:2] - slack).all()
                assert (seen[2:] <= drawn[2:] + slack).all()
        cut += len(target["boxes"]) - len(after["boxes"])
        covered, white = after["masks"].any(dim=0), x[0] > x.min() / 2 + x.max() / 2
        if covered.any():
            assert (covered != white).float().mean() < 0.04  # half of a pixel's width along the edges
    assert (cut > 0) == crop


def test_labels_stay_with_their_boxes():
    """Objects of the labels 0, 1, .. n-1, whose masks have as many pixels set as their labels say."""
    masks = np.zeros((6, 64, 64), dtype=bool)
    boxes = np.array([[10 * k, 8, 10 * k + 8, 20] for k in range(6)], dtype=np.float32)
    for k in range(6):
        masks[k, 8 : 9 + k, 10 * k : 10 * k + 8] = True
    target = {"boxes": boxes, "labels": np.arange(6), "masks": masks, "ignore": boxes[:0]}
    found = set()
    for seed in range(30):
        torch.manual_seed(seed)
        _, after = TrainTransform((64,), 64, 0.5, True, (64,), (32, 40))(Image.new("RGB", (64, 64)), target)
        for label, mask in zip(after["labels"].tolist(), after["masks"], strict=True):
            if mask.any():
                high = corners(mask)[3] - corners(mask)[1]
                whole = corners(mask)[3] < mask.shape[0]
                scale = after["size"][0] / 64  # at least: crops are scaled up
                if whole and corners(mask)[1] > 0:
                    assert high >= (label + 1) * scale - 1
                    found.add(label)
    assert found == set(range(6))


def test_without_draws_it_is_the_test_time_transform():
    image, target, _ = scene(0)
    pre = DensePreprocess(90, 130)
    fixed, after = TrainTransform((90,), 130, hflip=0, crop=False)(image, target)
    assert fixed.equal(pre(image))
    scale = torch.tensor([fixed.shape[2] / image.width, fixed.shape[1] / image.height] * 2)
    assert after["boxes"].equal(torch.from_numpy(target["boxes"]) * scale)
    masks = F.interpolate(torch.from_numpy(target["masks"])[None].float(), fixed.shape[1:], mode="nearest-exact")[0] > 0
    assert after["masks"].equal(masks)
    assert {key: value.dtype for key, value in after.items()} == {
        "boxes": torch.float32, "labels": torch.int64, "masks": torch.bool, "ignore": torch.float32, "size": torch.int64
    }  # fmt: skip


def test_the_references_rule_for_masks_and_ours_on_200_objects():
    """mmdet resamples at floor(i old / new); ours lies on the image, the reference's half a new pixel further left and up."""
    resize = {"short_sides": (147,), "long": 300, "hflip": 0.0, "crop": False}
    shared, objects, index, moved = [], 0, 0, []
    while objects < 200:
        image, target, _ = scene(index, size=100)
        (_, theirs), (_, ours) = (TrainTransform(**resize, as_reference=rule)(image, target) for rule in (True, False))
        pairs = zip(theirs["size"].tolist(), target["masks"].shape[1:], strict=True)
        rows, columns = (np.arange(new) * old // new for new, old in pairs)
        assert np.array_equal(theirs["masks"].numpy(), target["masks"][:, rows][:, :, columns])
        assert torch.equal(theirs["boxes"], ours["boxes"])
        for a, b in zip(theirs["masks"], ours["masks"], strict=True):
            shared.append(((a & b).sum() / (a | b).sum()).item())
            moved.append(
                (torch.stack(torch.where(a)).float().mean(1) - torch.stack(torch.where(b)).float().mean(1)).mean()
            )
        objects, index = objects + len(target["boxes"]), index + 1
    assert 0.9 < np.mean(shared) < 0.99
    assert -1 < np.mean(moved) < -0.15 or 0.15 < np.mean(moved) < 1


def test_boxes_of_less_than_a_pixel_are_kept_as_the_reference_does():
    image, target, _ = scene(0)
    target["boxes"] = np.array([[5, 5, 5.4, 40], [5, 5, 5, 40], [4, 4, 40, 40]], dtype=np.float32)
    target |= {"labels": np.arange(3), "masks": np.ones((3, 64, 64), dtype=bool)}
    plain = {"short_sides": (64,), "long": 64, "hflip": 0.0, "crop": False}
    labels = [TrainTransform(**plain, as_reference=rule)(image, target)[1]["labels"].tolist() for rule in (True, False)]
    assert labels == [[0, 2], [2]]
    assert all(r.augment.as_reference for name, r in recipes.recipes().items() if name.startswith("coco/"))


def test_flip():
    image, target, _ = scene(1)
    plain, before = TrainTransform((64,), 64, hflip=0, crop=False)(image, target)
    flipped, after = TrainTransform((64,), 64, hflip=1, crop=False)(image, target)
    assert flipped.equal(plain.flip(-1))
    assert after["masks"].equal(before["masks"].flip(-1))
    for boxes in ("boxes", "ignore"):
        assert after[boxes][:, [1, 3]].equal(before[boxes][:, [1, 3]])
        assert (after[boxes][:, [0, 2]] + before[boxes][:, [2, 0]] == plain.shape[-1]).all()


def test_masks_and_crowds_are_left_out_where_they_are_not_there():
    image, target, _ = scene(2)
    del target["masks"]
    _, after = SMALL(image, target | {"ignore": np.zeros((0, 4), np.float32)})
    assert after.keys() == {"boxes", "labels", "ignore", "size"}
    assert after["ignore"].shape == (0, 4)


def test_a_crop_may_lose_everything():
    target = {
        "boxes": np.array([[0, 0, 3, 3]], np.float32), "labels": np.array([4]), "ignore": np.zeros((0, 4), np.float32),
        "masks": np.ones((1, 64, 64), bool),
    }  # fmt: skip
    counts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        x, after = SMALL(Image.new("RGB", (64, 64)), target)
        counts.add(len(after["boxes"]))
        assert after["masks"].shape == (len(after["boxes"]), *x.shape[1:])
    assert counts == {0, 1}


def test_the_draws_are_the_papers(monkeypatch):
    """Section A.3: of 640 x 480 images; all sizes on the way are noted, nothing is resampled."""
    way = []

    def resize(image, size):
        way.append(("resize", *size))
        return image[:, :1, :1].expand(3, *size)

    crop = detection_transforms._View.crop
    monkeypatch.setattr(detection_transforms, "resize", resize)
    monkeypatch.setattr(
        detection_transforms._View, "crop", lambda view, size: (way.append(("crop", *size)), crop(view, size))
    )
    monkeypatch.setattr(detection_transforms, "normalize", lambda image, *_: image)
    image = Image.new("RGB", (640, 480))
    target = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, int), "ignore": np.zeros((0, 4), np.float32)}
    torch.manual_seed(0)
    direct, first, crops = [], [], []
    for _ in range(600):
        way.clear()
        x, _ = TrainTransform()(image, target)
        assert max(x.shape) <= 1333
        if len(way) == 1:
            direct.append(way[0][1])
        else:
            (_, *before), (_, *cut), (_, *last) = way
            first.append(before[0])
            crops.append(cut)
            assert cut[0] <= before[0]
            assert cut[1] <= before[1]
            assert min(last) in TrainTransform().short_sides or max(last) == 1333
            assert abs(last[0] / last[1] - cut[0] / cut[1]) < 0.01
    assert abs(len(direct) - 300) < 60  # five standard deviations
    assert set(direct) == set(range(480, 801, 32))
    assert set(first) == {400, 500, 600}
    heights, widths = np.array(crops).T
    assert heights.min() >= 384
    assert heights[np.array(first) == 400].max() <= 400
    assert 590 < heights.max() <= 600
    assert 384 <= widths.min() < 395
    assert 590 < widths.max() <= 600


def test_the_long_side_is_limited():
    image = Image.new("RGB", (300, 60))
    target = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, int), "ignore": np.zeros((0, 4), np.float32)}
    assert TrainTransform((80,), 200, crop=False)(image, target)[0].shape == (3, 40, 200)


def test_only_torchs_generator_is_drawn_from_and_nothing_given_is_changed():
    image, target, _ = scene(3)
    before = {key: value.copy() for key, value in target.items()}
    results = []
    for other in (1, 2):
        random.seed(other)
        np.random.seed(other)
        torch.manual_seed(7)
        results.append(SMALL(image, target))
    assert results[0][0].equal(results[1][0])
    assert all(results[0][1][key].equal(results[1][1][key]) for key in before)
    assert all(np.array_equal(target[key], before[key]) for key in before)
    torch.manual_seed(8)
    assert results[0][0].shape != SMALL(image, target)[0].shape

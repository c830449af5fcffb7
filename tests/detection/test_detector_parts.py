"""Anchors, box coding, matching, sampling, pooling and masks against what their definitions say, computed the slow way."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from convnext.detection import losses, mask_head, matching
from convnext.detection.anchors import base_anchors, inside, level_anchors
from convnext.detection.box_head import pool
from convnext.detection.boxes import clip, decode, encode
from convnext.detection.mask_head import mask_targets, paste
from convnext.detection.matching import BACKGROUND, IGNORED, match, sample, sample_proposals
from convnext.detection.roi_align import roi_align
from convnext.detection.rpn import RPNHead


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_boxes(n, side=100.0, smallest=1.0):
    corner = torch.rand(n, 2) * (side - smallest)
    return torch.cat([corner, corner + smallest + torch.rand(n, 2) * (side - smallest - corner)], dim=1)


# -- anchors


def test_anchors_have_the_area_and_the_ratios_of_the_paper_and_are_not_rounded():
    sides = base_anchors(4)[:, 2:] - base_anchors(4)[:, :2]
    assert torch.allclose(sides.prod(dim=1), torch.full((3,), 32.0**2))
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))
    assert base_anchors(4)[0].tolist() == pytest.approx([-22.627417, -11.313708, 22.627417, 11.313708])


def test_anchors_of_a_level_go_row_by_row_three_at_a_position():
    anchors = level_anchors((2, 3), 8)
    assert anchors.shape == (18, 4)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [[8.0 * x, 8.0 * y] for y in range(2) for x in range(3) for _ in range(3)]  # on the corner of the cell
    assert torch.allclose(centres, torch.tensor(expected), atol=1e-5)
    assert torch.allclose(anchors[4 * 3 : 5 * 3] - torch.tensor([8.0, 8.0] * 2), base_anchors(8))


def test_inside_is_where_the_image_reaches():
    kept = inside((3, 4), 8, (9, 24)).view(3, 4, 3)
    assert kept.all(dim=2).tolist() == kept.any(dim=2).tolist() == [[True] * 3 + [False]] * 2 + [[False] * 4]


@pytest.mark.parametrize("whole", [False, True])
def test_proposals_learn_from_the_anchors_of_the_image(whole):
    head, levels = RPNHead(4, (4, 8), 0.0, whole), [torch.zeros(1, 4, 24, 24), torch.zeros(1, 4, 12, 12)]
    height, width = 40, 70  # padded to 64 x 96
    anchors, usable = head._usable(levels, (height, width))
    expected, k = [], 0
    for side, stride in ((24, 4), (12, 8)):
        base = base_anchors(stride).tolist()
        for y in range(side):
            for x in range(side):
                for x1, y1, x2, y2 in base:
                    fits = stride * x + x1 >= 0 and stride * y + y1 >= 0
                    fits = fits and stride * x + x2 < width and stride * y + y2 < height
                    if stride * y < 64 and stride * x < 96 and (fits or not whole):
                        expected.append(k)
                    k += 1
    assert usable.tolist() == expected
    assert torch.equal(anchors, torch.cat([level_anchors((24, 24), 4), level_anchors((12, 12), 8)])[expected])


# -- box coding


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_coding_is_undone_by_decoding(stds):
    sources, targets = random_boxes(200), random_boxes(200)
    assert torch.allclose(decode(sources, encode(sources, targets, stds), stds), targets, atol=1e-3)


def test_deltas_are_offsets_of_the_centre_and_logarithms_of_the_sides():
    deltas = encode(
        torch.tensor([[10.0, 20.0, 20.0, 40.0]]), torch.tensor([[12.0, 20.0, 32.0, 50.0]]), (0.1, 0.1, 0.2, 0.2)
    )
    expected = [(22 - 15) / 10 / 0.1, (35 - 30) / 20 / 0.1, math.log(20 / 10) / 0.2, math.log(30 / 20) / 0.2]
    assert deltas[0].tolist() == pytest.approx(expected, rel=1e-5)


def test_sides_are_limited_and_centres_are_not():
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    huge = decode(box, torch.tensor([[50.0, 0.0, 9.0, -9.0]]))[0]
    assert (huge[2] - huge[0]).item() == pytest.approx(10 * 1000 / 16, rel=1e-5)
    assert (huge[3] - huge[1]).item() == pytest.approx(10 * 16 / 1000, rel=1e-4)
    assert ((huge[0] + huge[2]) / 2).item() == pytest.approx(505.0)
    far = decode(box, torch.tensor([[80.0, 0.0, 0.0, 9.0]]), clip_to=(30, 40))[0]
    assert far.tolist() == [40.0, 0.0, 40.0, 30.0]
    assert clip(torch.tensor([-5.0, 2.0, 50.0, math.nan]), (30, 40)).tolist() == [0.0, 2.0, 40.0, 0.0]


# -- matching


def match_slowly(boxes, objects, positive, negative, low_quality):
    """The rules one after the other, for one candidate and one object at a time."""
    iou = box_iou(objects, boxes).tolist()
    positive, negative, low_quality = (t and np.float32(t) for t in (positive, negative, low_quality))  # as the IoU
    owner = []
    for j in range(len(boxes)):
        column = [row[j] for row in iou]
        best = max(column, default=0.0)
        owner.append(column.index(best) if best >= positive else BACKGROUND if best < negative else IGNORED)
    if low_quality is not None:
        for i, row in enumerate(iou):
            if max(row) >= low_quality:
                for j, value in enumerate(row):
                    if value == max(row):
                        owner[j] = i
    return owner


@pytest.mark.parametrize("thresholds", [(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.6, 0.6, None)])
@pytest.mark.parametrize("pairs", [2**23, 200])
def test_matching_follows_the_rules(thresholds, pairs, monkeypatch):
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", pairs)  # all objects at once, or a few
    seen = set()
    for _ in range(20):
        boxes = random_boxes(60, side=12.0).round()  # on a grid, so that there are ties
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        objects = boxes[torch.randperm(60)[:9]] + torch.randint(0, 2, (9, 4)) * torch.tensor([0.0, 0.0, 1.0, 1.0])
        ours = match(boxes, objects, *thresholds).tolist()
        assert ours == match_slowly(boxes, objects, *thresholds)
        seen |= set(ours)
    assert {BACKGROUND, 0, 8} <= seen
    assert (IGNORED in seen) == (thresholds[0] > thresholds[1])


def test_without_objects_all_is_background_and_without_candidates_nothing_is():
    assert match(random_boxes(5), torch.zeros(0, 4), 0.5, 0.5, 0.5).tolist() == [BACKGROUND] * 5
    assert match(torch.zeros(0, 4), random_boxes(5), 0.5, 0.5, 0.5).shape == (0,)


def test_samples_are_random_disjoint_and_as_many_as_asked():
    owner = torch.tensor([0] * 30 + [BACKGROUND] * 50 + [IGNORED] * 20)
    positives, negatives = sample(owner, 40, 0.5)
    assert (len(set(positives.tolist())), len(set(negatives.tolist()))) == (20, 20)
    assert (owner[positives] == 0).all()
    assert (owner[negatives] == BACKGROUND).all()
    assert set(sample(owner, 40, 0.5)[0].tolist()) != set(positives.tolist())
    assert [len(part) for part in sample(owner[25:], 40, 0.5)] == [5, 35]  # background fills what positives leave
    assert [len(part) for part in sample(owner, None, 0.5)] == [30, 50]


def test_objects_are_their_own_positives():
    objects = torch.tensor([[10.0, 10.0, 30.0, 30.0], [50.0, 50.0, 90.0, 60.0]])
    proposals = torch.tensor([[0.0, 0.0, 5.0, 5.0], [11.0, 10.0, 30.0, 30.0], [60.0, 0.0, 80.0, 5.0]])
    drawn = sample_proposals(proposals, objects, 0.5, False, None, 0.25)
    assert torch.equal(drawn.boxes, torch.cat([objects, proposals[[1, 0, 2]]]))
    assert drawn.objects.tolist() == [0, 1, 0]
    assert drawn.given.tolist() == [True, True, False, False, False]


# -- losses


def test_losses_are_the_definitions_in_fp64():
    a, b = random_boxes(20), random_boxes(20)
    one, two = a.double().numpy(), b.double().numpy()
    overlap = np.prod(np.clip(np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2]), 0, None), axis=1)
    union = np.prod(one[:, 2:] - one[:, :2], axis=1) + np.prod(two[:, 2:] - two[:, :2], axis=1) - overlap
    hull = np.prod(np.maximum(one[:, 2:], two[:, 2:]) - np.minimum(one[:, :2], two[:, :2]), axis=1)
    assert losses.giou(a, b).item() == pytest.approx((1 - overlap / union + (hull - union) / hull).sum(), rel=1e-5)
    d = np.abs(one - two)
    assert losses.smooth_l1(a, b, 0.0).item() == pytest.approx(d.sum(), rel=1e-5)
    smooth = np.where(d < 20, 0.5 * d**2 / 20, d - 10)
    assert losses.smooth_l1(a, b, 20.0).item() == pytest.approx(smooth.sum(), rel=1e-5)
    high, low = torch.randn(5) * 5, torch.randn(7) * 5
    expected = np.log1p(np.exp(-high.double().numpy())).sum() + np.log1p(np.exp(low.double().numpy())).sum()
    assert losses.objectness(high, low).item() == pytest.approx(expected, rel=1e-5)


# -- regions


def test_a_region_is_read_from_the_level_that_fits_its_size():
    levels = [torch.full((1, 2, 1024 // stride, 1024 // stride), float(i)) for i, stride in enumerate((4, 8, 16, 32))]
    sides = torch.tensor([1.0, 55.0, 56.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 1000.0])
    boxes = torch.stack([torch.zeros(10), torch.zeros(10), sides, sides], dim=1)[torch.randperm(10)]
    levels_of = pool(levels, (4, 8, 16, 32), [boxes], 7)[:, 0, 3, 3]
    expected = [min(max(math.floor(math.log2(side / 56 + 1e-6)), 0), 3) for side in boxes[:, 2].tolist()]
    assert levels_of.tolist() == expected
    assert set(expected) == {0, 1, 2, 3}


def test_pooled_regions_are_aligned_and_keep_their_order_and_image():
    """Features that say which column of which image they are at: pooled, they say where the cells' centres are."""
    levels = []
    for stride in (4, 8, 16, 32):
        columns = (torch.arange(512 // stride) + 0.5) * stride
        levels.append((columns + torch.tensor([0.0, 1000.0])[:, None])[:, None, None].expand(2, 1, 512 // stride, -1))
    boxes = [random_boxes(6, side=450.0, smallest=30.0) + 30 for _ in range(2)]
    pooled = pool([level.contiguous() for level in levels], (4, 8, 16, 32), boxes, 7)
    for i, box in enumerate(torch.cat(boxes)):
        centres = box[0] + (torch.arange(7) + 0.5) / 7 * (box[2] - box[0]) + 1000 * (i >= 6)
        assert torch.allclose(pooled[i, 0, 3], centres, atol=0.02)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_regions_to_the_bit(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(0)
    level, corners = torch.randn(2, 4, 32, 48), 60 * torch.rand(100, 2)
    regions = torch.cat([(torch.arange(100) % 2)[:, None], corners, corners + 60 * torch.rand(100, 2)], dim=1)
    alone = roi_align(level.requires_grad_(), regions, 7, 4)
    assert alone.requires_grad
    with torch.no_grad():
        shared = roi_align(level, regions, 7, 4)
    with torch.inference_mode():
        assert torch.equal(roi_align(level, regions, 7, 4), shared)
    assert torch.equal(shared, alone)
    assert not shared.requires_grad


def test_no_regions_are_pooled_to_nothing_that_can_still_be_differentiated():
    levels = [torch.zeros(1, 3, side, side, requires_grad=True) for side in (8, 4, 2, 1)]
    pooled = pool(levels, (4, 8, 16, 32), [torch.zeros(0, 4)], 7)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert (levels[0].grad == 0).all()


# -- masks


def test_mask_targets_are_the_majority_in_each_cell(monkeypatch):
    masks = torch.rand(5, 70, 80) < 0.5
    boxes = torch.tensor([[4.0, 6.0, 60.0, 62.0], [24.0, 14.0, 80.0, 70.0], [0.0, 0.0, 56.0, 56.0]])
    objects = torch.tensor([4, 0, 4])
    targets = mask_targets(masks, boxes, objects)
    for i, (x, y) in enumerate([(4, 6), (24, 14), (0, 0)]):  # cells of 2 x 2 pixels
        part = masks[objects[i], y : y + 56, x : x + 56].float()
        assert torch.equal(targets[i], (part.view(28, 2, 28, 2).mean(dim=(1, 3)) >= 0.5).float())
    monkeypatch.setattr(mask_head, "PIXELS_AT_ONCE", 1)  # one object at a time
    assert torch.equal(mask_targets(masks, boxes, objects), targets)


def test_pasted_masks_are_bilinear_between_cell_centres():
    masks = torch.rand(6, 28, 28)
    boxes = torch.tensor(
        [
            [3.2, 5.7, 40.1, 33.3],
            [-8.0, -3.0, 20.0, 90.0],  # larger than the image
            [30.0, 20.0, 75.0, 48.0],
            [10.0, 10.0, 11.0, 11.0],  # one pixel
            [200.0, 10.0, 240.0, 20.0],  # outside
            [5.0, 5.0, 5.0, 9.0],  # empty
        ]
    )
    height, width = 50, 60
    pasted = paste(masks, boxes, (height, width))
    assert pasted.shape == (6, height, width)
    for mask, box, ours in zip(masks.double().numpy(), boxes.double().numpy(), pasted.numpy(), strict=True):
        values = np.zeros((height, width))
        padded = np.pad(mask, 1)
        for y in range(height):
            for x in range(width):
                if box[2] > box[0]:
                    u = (x + 0.5 - box[0]) / (box[2] - box[0]) * 28 + 0.5  # in cells of the padded mask
                    v = (y + 0.5 - box[1]) / (box[3] - box[1]) * 28 + 0.5
                    if 0 <= u < 29 and 0 <= v < 29:
                        i, j = int(v), int(u)
                        row = padded[i : i + 2, j : j + 2] @ [1 - (u - j), u - j]
                        values[y, x] = row @ [1 - (v - i), v - i]
        sure = np.abs(values - 0.5) > 1e-4
        assert sure.mean() > 0.99
        assert (ours == (values >= 0.5))[sure].all()
    assert pasted[:4].any(dim=2).any(dim=1)[:3].all()
    assert not pasted[4:].any()

"""What is asked of a detector beside the reference's numbers: odd images, padding, options, precision, training."""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from convnext import models
from convnext.detection.detector import ARCHITECTURES, SIZES, Detector, build
from convnext.errors import ConvNextError
from convnext.models.recompute import recompute_blocks

KINDS = ["mask_rcnn", "cascade_mask_rcnn"]
H, W = 64, 96


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(kind="mask_rcnn", **options):
    backbone = models.build("convnext_atto", num_classes=None, **options)
    model = Detector(backbone, ARCHITECTURES[kind], num_classes=3, channels=16)
    model.rpn_samples, model.roi_samples = 32, 16
    return model


def target(boxes, masks=True):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    found = {"boxes": boxes, "labels": torch.arange(len(boxes)) % 3}
    if masks:
        found["masks"] = torch.zeros(len(boxes), H, W, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(found["masks"], boxes.round().long().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
    return found


OBJECTS = [[8.0, 8.0, 40.0, 40.0], [50.0, 10.0, 90.0, 60.0]]


def many(n):
    corner = torch.rand(n, 2) * torch.tensor([W - 12.0, H - 12.0])
    return torch.cat([corner, corner + 2 + 10 * torch.rand(n, 2)], dim=1)


CASES = {
    "objects": lambda: [target(OBJECTS), target(OBJECTS[:1])],
    "no objects": lambda: [target([]), target([])],
    "one image without": lambda: [target(OBJECTS), target([])],
    "crowds alone": lambda: [target([]) | {"ignore": torch.tensor(OBJECTS)}] * 2,
    "one pixel": lambda: [target([[3.0, 4.0, 4.0, 5.0]]), target([[95.0, 63.0, 96.0, 64.0]])],
    "200 objects": lambda: [target(many(200)), target(OBJECTS)],
    "no masks": lambda: [target(OBJECTS, masks=False)] * 2,
    "masks in one image": lambda: [target(OBJECTS), target(OBJECTS, masks=False)],
    "padding": lambda: [target(OBJECTS[:1]) | {"size": torch.tensor([40, 41])}, target(OBJECTS)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_losses_are_finite_and_reach_every_parameter(kind, case):
    model = small(kind).train()
    losses = model(torch.randn(2, 3, H, W), CASES[case]())
    sum(losses.values()).backward()
    stages = [""] if kind == "mask_rcnn" else ["s0.", "s1.", "s2."]
    heads = [f"{stage}loss_{what}" for stage in stages for what in ("cls", "bbox", "mask")]
    assert list(losses) == ["loss_rpn_cls", "loss_rpn_bbox", *heads]
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    boxes = sum(loss.item() for name, loss in losses.items() if "bbox" in name)
    masks = sum(loss.item() for name, loss in losses.items() if "mask" in name)
    nothing = case in ("no objects", "crowds alone")
    assert (boxes == 0) == nothing
    assert (masks == 0) == (nothing or case == "no masks")


def test_weights_that_diverged_give_nan_and_no_crash():
    for kind in KINDS:
        for module in ("backbone.norm0", "roi_head.bbox_head" + (".0" * (kind != "mask_rcnn")) + ".fc_reg"):
            model = small(kind).train()
            nn.init.constant_(model.get_submodule(module).bias, math.nan)
            assert sum(model(torch.randn(1, 3, H, W), [target(OBJECTS)]).values()).isnan()
            assert len(model.eval()(torch.randn(1, 3, H, W))) == 1


def test_no_proposals_leave_the_running_statistics_alone():
    model = small("cascade_mask_rcnn").train()
    model.rpn_head.proposals = lambda outputs, levels, sizes, *_: [(torch.zeros(0, 4), torch.zeros(0)) for _ in sizes]
    losses = model(torch.randn(2, 3, H, W), [target([]), target([])])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert [len(found["boxes"]) for found in model.eval()(torch.randn(2, 3, H, W))] == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_few_samples_are_little_work(kind):
    model, seen = small(kind).train(), {"bbox_head": [], "mask_head": []}
    for name, heads in (("bbox_head", model.roi_head.box_heads), ("mask_head", model.roi_head.mask_heads)):
        for head in heads:
            head.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(len(inputs[0])))
    model(torch.randn(2, 3, H, W), [target(many(30)), target(OBJECTS)])
    assert seen["bbox_head"][0] == 2 * 16
    assert max(seen["bbox_head"]) == 2 * 16
    assert 0 < max(seen["mask_head"]) <= 2 * 4
    model.roi_samples = None
    model(torch.randn(2, 3, H, W), [target(many(30)), target(OBJECTS)])
    assert seen["bbox_head"][-1] > 200


def test_samples_are_drawn_from_the_global_generator():
    model, x = small().eval(), torch.randn(1, 3, H, W)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(sum(model.losses(x, [target(OBJECTS)]).values()).item())
    assert found[0] == found[1] != found[2]


# -- prediction


def confident(kind="mask_rcnn"):
    """A model whose scores are above the threshold, with boxes of all kinds."""
    model = small(kind).eval()
    for head in model.roi_head.box_heads:
        nn.init.normal_(head.fc_cls.weight, std=0.3)
        nn.init.normal_(head.fc_reg.weight, std=0.05)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_detections_have_the_shapes_of_the_contract(kind):
    model, x = confident(kind), torch.randn(2, 3, H, W)
    for found in model(x):
        n = len(found["scores"])
        assert 0 < n <= 100
        assert (found["boxes"].shape, found["boxes"].dtype) == ((n, 4), torch.float32)
        assert (found["masks"].shape, found["masks"].dtype) == ((n, H, W), torch.bool)
        assert found["labels"].dtype == torch.int64
        assert set(found["labels"].tolist()) <= {0, 1, 2}
        assert (found["scores"].diff() <= 0).all()
        assert (found["scores"] > 0.05).all()
        x1, y1, x2, y2 = found["boxes"].unbind(1)
        assert ((x1 >= 0) & (y1 >= 0) & (x2 <= W) & (y2 <= H)).all()
        for k in range(3):  # suppressed within each class
            mine = found["boxes"][found["labels"] == k]
            assert (box_iou(mine, mine).triu(1) <= 0.5).all()
    for boxes, scores in model.proposals(x):
        assert len(boxes) == len(scores) <= 1000
        assert (scores.diff() <= 0).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
    assert not model(x)[0]["boxes"].requires_grad


def test_boxes_stay_in_the_image_and_come_out_at_the_size_that_is_asked():
    model, x = confident(), torch.randn(2, 3, H, W)
    inside, outside = [(H, W), (40, 50)], [(128, 288), (20, 100)]
    plain, scaled = model.predict(x, inside), model.predict(x, inside, outside)
    bare = model.predict(x, inside, outside, masks="none")
    for one, two, three, (h, w), (height, width) in zip(plain, scaled, bare, inside, outside, strict=True):
        assert (one["boxes"] <= torch.tensor([w, h, w, h])).all()
        assert one["masks"].shape[1:] == (h, w)
        assert torch.allclose(two["boxes"], one["boxes"] * torch.tensor([width / w, height / h] * 2))
        assert two["masks"].shape[1:] == (height, width)
        assert three.keys() == {"boxes", "scores", "labels"}
        assert torch.equal(two["boxes"], three["boxes"])
    both = model.predict(x)
    for i, whole in enumerate(model.predict(x[i : i + 1])[0] for i in range(2)):  # images do not see each other
        assert torch.allclose(both[i]["boxes"], whole["boxes"], atol=1e-3)
    with pytest.raises(ConvNextError, match="one \\(height, width\\) for each"):
        model.predict(x, inside[:1])
    with pytest.raises(ConvNextError, match="'paste' or 'none'"):
        model.predict(x, masks="boxes")


# -- names and options


def test_options_reach_their_parts():
    options = {"num_classes": 7, "in_chans": 1, "drop_path_rate": 0.3, "layer_scale_init_value": 0.0}
    with torch.device("meta"):
        model = build("cascade_mask_rcnn_convnext_atto", **options)
    assert model.config == {"name": "cascade_mask_rcnn_convnext_atto", **options}
    assert (model.num_classes, model.rpn_samples, model.roi_samples) == (7, 256, 512)
    assert model.backbone.stages[3][-1].drop_path_rate == 0.3
    assert not [name for name, _ in model.named_parameters() if name.endswith("gamma")]
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["roi_head.bbox_head.2.fc_cls.weight"] == (8, 1024)
    assert shapes["roi_head.mask_head.0.conv_logits.weight"] == (7, 256, 1, 1)
    assert shapes["backbone.downsample_layers.0.0.weight"] == (40, 1, 4, 4)


def test_a_typo_is_answered():
    assert len(SIZES) == 18
    with pytest.raises(ConvNextError, match="'mask_rcnn_convnext_tiny'"):
        build("mask_rcnn_convnext_tinny")


def test_targets_that_do_not_fit_are_refused():
    model, x = small(), torch.zeros(1, 3, H, W)
    with pytest.raises(ConvNextError, match="a dict for each image"):
        model(x, [])
    with pytest.raises(ConvNextError, match="boxes of shape \\(1, 4\\)"):
        model(x, [target(OBJECTS) | {"boxes": torch.zeros(1, 4)}])
    with pytest.raises(ConvNextError, match="masks of shape .*64 x 96"):
        model(x, [target(OBJECTS) | {"masks": torch.zeros(2, 32, 32, dtype=torch.bool)}])


def test_synchronised_norms_can_be_put_in_from_outside():
    model = small("cascade_mask_rcnn")
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert sum(type(m) is nn.SyncBatchNorm for m in synced.modules()) == 12
    assert synced.state_dict().keys() == model.state_dict().keys()


def test_checkpointing_the_backbone_changes_no_bit_but_runs_blocks_twice():
    options = {"drop_path_rate": 0.5, "layer_scale_init_value": 1.0}
    plain, saving = small(**options).train(), small(**options).train()
    saving.load_state_dict(plain.state_dict())
    recompute_blocks(saving.backbone)
    saving = copy.deepcopy(saving)  # as an average of the weights is made
    x, runs = torch.randn(2, 3, H, W), {}
    for label, model in (("plain", plain), ("saving", saving)):
        calls = []
        model.backbone.stages[2][1].pwconv1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(1)
        loss = sum(model(x, CASES["objects"]()).values())
        loss.backward()
        runs[label] = (loss.item(), len(calls))
    assert runs["plain"] == (runs["saving"][0], 1)
    assert runs["saving"][1] == 2
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


# -- precision and training


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_changes_little_and_losses_and_boxes_stay_fp32(kind):
    model, x = small(kind).eval(), torch.randn(1, 3, H, W)
    model.rpn_samples = None  # which candidates are positive depends on the anchors alone
    with torch.no_grad():
        exact = model.losses(x, [target(OBJECTS)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough, (boxes, scores) = model.losses(x, [target(OBJECTS)]), model.proposals(x)[0]
            found = confident(kind)(x)[0]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in rough.values())
    for name in ("loss_rpn_cls", "loss_rpn_bbox"):
        assert rough[name].item() == pytest.approx(exact[name].item(), rel=2e-2)  # bf16 keeps 8 bits
    assert {t.dtype for t in (boxes, scores, found["boxes"], found["scores"])} == {torch.float32}


@pytest.mark.parametrize("kind", ["mask_rcnn", pytest.param("cascade_mask_rcnn", marks=pytest.mark.slow)])
def test_one_image_is_learnt_and_found_again(kind):
    """Two squares of two classes, brighter than the rest: in a few steps from random weights to boxes and masks."""
    model = small(kind, layer_scale_init_value=0.0).train()
    model.rpn_samples, model.roi_samples = 128, 32
    truth = target(OBJECTS)
    x = torch.zeros(1, 3, H, W)
    x[0, 0][truth["masks"][0]] = 2.0
    x[0, 1][truth["masks"][1]] = 2.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(45):
        loss = sum(model(x, [truth]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()(x)[0]
    for i, box in enumerate(truth["boxes"]):
        best = int((found["scores"] * (found["labels"] == i)).argmax())
        assert found["labels"][best] == i
        assert found["scores"][best] > 0.5
        assert box_iou(box[None], found["boxes"][best][None]).item() > 0.6
        overlap = (found["masks"][best] & truth["masks"][i]).sum() / (found["masks"][best] | truth["masks"][i]).sum()
        assert overlap > 0.6

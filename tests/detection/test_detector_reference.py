"""The detectors against the reference's outputs, losses and gradients on drawn weights, and against Table 3."""

import ast

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import box_iou

import oracle
from convnext.detection.detector import build
from convnext.engine.optim import param_groups
from convnext.paper.downstream import detection
from convnext.weights import files

MASK, CASCADE = "mask_rcnn_convnext_tiny", "cascade_mask_rcnn_convnext_tiny"


def from_reference(case, model, seed, tmp_path):
    """A Tiny that was read from a file as the reference writes it, and what the reference says."""
    torch.save({"state_dict": oracle.state_dict(f"{case}.keys.txt", seed)}, tmp_path / "detector.pth")
    content, _ = files.read(tmp_path / "detector.pth")
    with torch.device("meta"):
        detector = build(model)
    detector.load_state_dict(content["state_dict"], assign=True)
    return detector.eval(), np.load(oracle.ORACLES / f"{case}.npz"), oracle.input((1, 3, 256, 320), seed)


def unpacked(masks):
    return torch.from_numpy(np.unpackbits(masks, axis=-1).astype(bool))


@pytest.mark.parametrize("model", [MASK, pytest.param(CASCADE, marks=pytest.mark.slow)])
def test_levels_proposals_and_detections_are_the_references(model, tmp_path):
    detector, expected, x = from_reference(f"{model}_256x320_seed0", model, 0, tmp_path)
    with torch.no_grad():
        levels, (found,) = detector.pyramid(x), detector(x)
        ((proposals, proposal_scores),) = detector.proposals(x)
    for i, level in enumerate(levels):
        ours = level.mean((0, 2, 3)) if i < 2 else level
        assert np.abs(ours.numpy() - expected[f"fpn{i}"]).max() < 1e-4
    assert proposals.shape == (1000, 4)
    iou = box_iou(torch.from_numpy(expected["proposals"]), proposals)
    assert (iou.max(dim=1).values > 0.99).sum() >= 995
    assert np.abs(proposal_scores.numpy() - expected["proposal_scores"]).max() < 1e-4

    boxes, scores, labels = (torch.from_numpy(expected[key]) for key in ("boxes", "scores", "labels"))
    assert len(found["boxes"]) == len(boxes) == 100
    same = (box_iou(boxes, found["boxes"]) > 0.99) & (labels[:, None] == found["labels"])
    same &= (scores[:, None] - found["scores"]).abs() < 1e-3
    assert same.any(dim=1).sum() >= 97
    theirs = same.any(dim=1).nonzero()[:, 0]
    ours = same[theirs].float().argmax(dim=1)
    agreement = (unpacked(expected["masks"])[theirs] == found["masks"][ours]).float().mean(dim=(1, 2))
    assert agreement.min() > 0.995


def losses_and_gradients(detector, expected, x):
    """Ours and the reference's, by its names, of all that it wrote down; nothing is drawn at random."""
    detector.rpn_samples = detector.roi_samples = None
    named = dict(detector.named_parameters())
    wanted = [key.removeprefix("gradnorm ") for key in expected.files if key.startswith("gradnorm ")]
    for name, parameter in named.items():  # the gradients of the others are not asked for, and take half of the time
        parameter.requires_grad_(name in wanted)
    targets = {key: torch.from_numpy(expected[key]) for key in ("boxes", "labels")}
    losses = detector.losses(x, [targets | {"masks": unpacked(expected["masks"])}])
    losses["total"] = sum(losses.values())
    losses["total"].backward()
    ours = {key: loss.item() for key, loss in losses.items()}
    return ours | {f"gradnorm {name}": named[name].grad.norm().item() for name in wanted}


@pytest.mark.parametrize("model", [MASK, pytest.param(CASCADE, marks=pytest.mark.slow)])
def test_losses_and_gradients_are_the_references(model, tmp_path):
    """Within a tenth of a percent. The cascade's three heads look at 2,005 regions each: minutes on one core."""
    detector, expected, x = from_reference(f"loss_{model}_256x320_seed3", model, 3, tmp_path)
    ours = losses_and_gradients(detector, expected, x)
    theirs = {key for key in expected.files if "loss" in key or "gradnorm" in key or key == "total"}
    assert ours.keys() == theirs
    for key, value in ours.items():
        assert value == pytest.approx(float(expected[key]), rel=1e-3), key


def test_the_cascades_losses_on_the_regions_around_the_objects(tmp_path):
    """The same reference in seconds: regions far from all objects matter to the class losses alone, and are left out."""
    detector, expected, x = from_reference(f"loss_{CASCADE}_256x320_seed3", CASCADE, 3, tmp_path)
    detector.rpn_samples = detector.roi_samples = None
    targets = {key: torch.from_numpy(expected[key]) for key in ("boxes", "labels")}
    all_of_them, counts = detector.rpn_head.proposals, {}

    def near(*arguments):
        ((boxes, scores),) = all_of_them(*arguments)
        kept = box_iou(boxes, targets["boxes"]).amax(dim=1) > 0.3
        counts.update(all=len(boxes) + len(targets["boxes"]), near=int(kept.sum()) + len(targets["boxes"]))
        return [(boxes[kept], scores[kept])]

    detector.rpn_head.proposals = near
    with torch.no_grad():
        losses = detector.losses(x, [targets | {"masks": unpacked(expected["masks"])}])
    assert counts["near"] < 100 < 2000 < counts["all"]
    for key in ("loss_rpn_cls", "loss_rpn_bbox", "s0.loss_mask", "s1.loss_mask", "s2.loss_mask"):
        assert losses[key].item() == pytest.approx(float(expected[key]), rel=1e-3), key
    # the sum over positives is divided by the number of regions, which later stages have without the objects' own boxes
    assert losses["s0.loss_bbox"].item() * counts["near"] / counts["all"] == pytest.approx(
        float(expected["s0.loss_bbox"]), rel=1e-3
    )


@pytest.mark.parametrize(
    ("model", "case"), [(MASK, MASK), (CASCADE, CASCADE), (MASK, f"loss_{MASK}"), (CASCADE, f"loss_{CASCADE}")]
)
def test_names_and_shapes_are_the_references(model, case):
    keys = next(oracle.ORACLES.glob(f"{case}_256x320_seed?.keys.txt"))
    expected = {
        name: ast.literal_eval(shape) for name, shape in (row.split("\t") for row in keys.read_text().splitlines())
    }
    with torch.device("meta"):
        detector = build(model)
    assert {name: tuple(tensor.shape) for name, tensor in detector.state_dict().items()} == expected


def test_layer_decay_groups_are_the_references():
    table = oracle.ORACLES / "groups_detection_tiny_layer_wise_6_decay0.95.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    expected = {name: (float(scale), float(decay)) for name, scale, decay in rows if " " not in name}
    with torch.device("meta"):
        detector = build(MASK)
    got = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in param_groups(detector, 0.05, 0.95, "layer")
        for name in group["names"]
    }
    assert got.keys() == dict(detector.named_parameters()).keys()
    for name, pair in got.items():
        if name.startswith("backbone."):
            assert pair == pytest.approx(expected.pop(name), rel=1e-12), name
        else:  # "any head parameter": the full rate
            assert pair == (1.0, 0.0 if name.endswith("bias") else 0.05), name
    assert not expected


@pytest.mark.parametrize(
    ("backbone", "pretrain", "method"),
    [("T", "1k", "mask"), *((size, "22k" if "L" in size else "1k", "cascade") for size in ("T", "S", "B", "L", "XL"))],
)
def test_macs_are_table_3s(backbone, pretrain, method):
    """Multiply-accumulates of convolutions and linear layers at 1280 x 800 with 1000 boxes and 100 masks, per stage."""
    row = detection(f"ConvNeXt-{backbone}", method, pretrain)
    size = {"T": "tiny", "S": "small", "B": "base", "L": "large", "XL": "xlarge"}[backbone]
    with torch.device("meta"):
        detector = build(f"{'cascade_' * (method == 'cascade')}mask_rcnn_convnext_{size}")
    # what the paper's counter adds, 0.02 to 0.05 %: one per element for the bias of a convolution, two for a batch norm
    extra = 0

    def add(module, inputs, output):
        nonlocal extra
        extra += output.numel() * (2 if isinstance(module, nn.BatchNorm2d) else int(module.bias is not None))

    for module in detector.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            module.register_forward_hook(add)
    with FlopCounterMode(display=False) as counter:
        detector.eval().macs_forward(torch.empty(1, 3, 800, 1280, device="meta"))
    macs = counter.get_total_flops() // 2
    assert macs / 1e9 == pytest.approx(row.gflops, rel=2e-3)
    assert round((macs + extra) / 1e9) == row.gflops

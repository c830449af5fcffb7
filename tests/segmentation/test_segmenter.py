"""The segmenter against the reference's outputs and losses, Table 4's counts, and what training asks of it."""

import ast
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import oracle
from convnext.benchmark.flops import count
from convnext.engine.optim import param_groups
from convnext.errors import ConvNextError
from convnext.paper.downstream import segmentation
from convnext.segmentation.pyramid import ConvNorm
from convnext.segmentation.segmenter import SIZES, build
from convnext.weights import files

OUTPUTS, LOSSES = "upernet_convnext_tiny_128x160_seed0", "loss_upernet_convnext_tiny_128x160_seed3"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(**options):
    return build("upernet_convnext_atto", **{"num_classes": 5, "channels": 16, "auxiliary_channels": 8} | options)


def from_reference(case, seed, tmp_path):
    """A Tiny that was read from a file as the reference writes it."""
    torch.save({"state_dict": oracle.state_dict(f"{case}.keys.txt", seed)}, tmp_path / "upernet.pth")
    content, _ = files.read(tmp_path / "upernet.pth")
    with torch.device("meta"):
        model = build("upernet_convnext_tiny")
    model.load_state_dict(content["state_dict"], assign=True)
    return model.eval()


# -- against the reference


def test_logits_of_both_heads_are_the_references(tmp_path):
    model, expected = from_reference(OUTPUTS, 0, tmp_path), np.load(oracle.ORACLES / f"{OUTPUTS}.npz")
    x = oracle.input((1, 3, 128, 160), seed=0)
    with torch.no_grad():
        heads, logits = model.heads(x), model(x)
    assert heads.keys() == set(expected.files)
    for name, ours in heads.items():
        assert np.abs(ours.numpy() - expected[name]).max() < 1e-4
    # the model's output is the decode head's, brought to the size of the image
    full = F.interpolate(torch.from_numpy(expected["decode"]), size=(128, 160), mode="bilinear", align_corners=False)
    assert (logits - full).abs().max() < 1e-4


def test_losses_and_gradients_are_the_references(tmp_path):
    model, expected = from_reference(LOSSES, 3, tmp_path), np.load(oracle.ORACLES / f"{LOSSES}.npz")
    targets = torch.from_numpy(expected["labels"])[None].long()
    assert (targets == 255).any()
    for p in model.parameters():
        p.requires_grad_(True)
    losses = model(oracle.input((1, 3, 128, 160), seed=3), targets)
    assert set(losses) == {"decode", "auxiliary"}
    total = sum(losses.values())
    total.backward()
    for name, ours in {**losses, "total": total}.items():
        assert ours.item() == pytest.approx(float(expected[name]), rel=1e-4)
    parameters, norms = dict(model.named_parameters()), [key for key in expected.files if key.startswith("gradnorm ")]
    assert norms
    for key in norms:
        assert parameters[key.removeprefix("gradnorm ")].grad.norm().item() == pytest.approx(
            float(expected[key]), rel=1e-4
        )


def test_names_and_shapes_are_the_references():
    with torch.device("meta"):
        model = build("upernet_convnext_tiny")
    lines = (oracle.ORACLES / f"{OUTPUTS}.keys.txt").read_text().splitlines()
    expected = {name: ast.literal_eval(shape) for name, shape in (line.split("\t") for line in lines)}
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == expected


def test_layer_decay_groups_are_the_references():
    table = oracle.ORACLES / "groups_segmentation_tiny_stage_wise_6_decay0.9.tsv"
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    expected = {name: (float(scale), float(decay)) for name, scale, decay in rows if " " not in name}
    with torch.device("meta"):
        model = build("upernet_convnext_tiny")
    got = {
        name: (group["lr_scale"], group["weight_decay"])
        for group in param_groups(model, 0.05, 0.9, "stage")
        for name in group["names"]
    }
    assert got.keys() == dict(model.named_parameters()).keys()
    for name, pair in got.items():
        if name.startswith("backbone."):
            assert pair == pytest.approx(expected.pop(name), rel=1e-12), name
        else:  # "any head parameter": the full rate
            assert pair == (1.0, 0.05 if name.endswith(("conv.weight", "conv_seg.weight")) else 0.0), name
    assert not expected


# -- Table 4


@pytest.mark.parametrize(
    ("size", "pretrain"),
    [("Tiny", "1k"), ("Small", "1k"), ("Base", "1k"), ("Base", "22k"), ("Large", "22k"), ("XLarge", "22k")],
)
def test_macs_and_params_are_table_4s(size, pretrain):
    row = segmentation(f"ConvNeXt-{ {'XLarge': 'XL'}.get(size, size[0]) }", pretrain)
    with torch.device("meta"):
        model = build(f"upernet_convnext_{size.lower()}")
    # what the paper's counter adds to convolutions and linear layers, 0.03 to 0.06 %: one per element for the bias of a
    # convolution, two for a batch norm, one for a ReLU
    extra = 0

    def add(module, inputs, output):
        nonlocal extra
        extra += output.numel() * (3 if isinstance(module, ConvNorm) else int(module.bias is not None))

    for module in model.modules():
        if isinstance(module, ConvNorm | nn.Conv2d):
            module.register_forward_hook(add)
    found = count(model, (3, row.crop, 4 * row.crop))
    assert found.macs / 1e9 == pytest.approx(row.gflops, rel=1e-3)
    assert round((found.macs + extra) / 1e9) == row.gflops
    assert round(found.params / 1e6) == row.params_m


# -- shapes and options


@pytest.mark.parametrize("size", [(64, 96), (65, 99), (32, 32)])
def test_logits_have_the_size_of_the_image(size):
    model = small().eval()
    x = torch.randn(2, 3, *size)
    heads = model.heads(x)
    assert model(x).shape == (2, 5, *size)
    assert heads["decode"].shape == (2, 5, size[0] // 4, size[1] // 4)
    assert heads["auxiliary"].shape == (2, 5, size[0] // 16, size[1] // 16)
    assert torch.equal(model.decode(x), heads["decode"])


def test_options_reach_their_parts():
    model = small(in_chans=1, drop_path_rate=0.3, layer_scale_init_value=0.0)
    assert model.backbone.stages[3][-1].drop_path_rate == 0.3
    assert not [name for name, _ in model.named_parameters() if name.endswith("gamma")]
    assert model.eval()(torch.randn(1, 1, 32, 32)).shape == (1, 5, 32, 32)
    assert (model.num_classes, model.config["name"]) == (5, "upernet_convnext_atto")
    again = build(**model.config)
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


def test_a_typo_is_answered():
    assert len(SIZES) == 9
    with pytest.raises(ConvNextError, match="'upernet_convnext_tiny'"):
        build("upernet_convnext_tinny")


def test_bfloat16_autocast_changes_little():
    model, x = small(layer_scale_init_value=1.0).eval(), torch.randn(1, 3, 64, 64)
    targets = torch.randint(0, 5, (1, 64, 64))
    with torch.no_grad():
        exact, exact_losses = model(x), model.losses(x, targets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough, rough_losses = model(x), model.losses(x, targets)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()  # bf16 keeps 8 bits
    for name, loss in rough_losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact_losses[name].item(), rel=1e-2)


# -- training


def test_the_loss_is_the_mean_over_all_pixels_ignored_ones_included():
    model, x = small().eval(), torch.randn(2, 3, 64, 64)
    targets = torch.randint(0, 5, (2, 64, 64))
    targets[:, :40] = 255
    with torch.no_grad():
        losses, heads = model.losses(x, targets), model.heads(x)
    for name, factor in (("decode", 1.0), ("auxiliary", 0.4)):
        full = F.interpolate(heads[name].double(), size=(64, 64), mode="bilinear", align_corners=False)
        likelihood = full.log_softmax(1).gather(1, targets.clamp(max=4)[:, None])[:, 0]
        expected = -likelihood[targets != 255].sum() / targets.numel()
        assert losses[name].item() == pytest.approx(factor * expected.item(), rel=1e-5)


def test_nothing_but_ignored_pixels_costs_nothing():
    model = small().train()
    losses = model(torch.randn(2, 3, 64, 64), torch.full((2, 64, 64), 255))
    sum(losses.values()).backward()
    assert [loss.item() for loss in losses.values()] == [0.0, 0.0]
    assert all((p.grad == 0).all() for p in model.parameters())


def test_one_image_is_enough_to_train_on():
    """Pooled to 1x1 it has one value per channel, which PyTorch's batch norm refuses."""
    model = small().train()
    lonely = model.decode_head.psp_modules[0][1].bn
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        lonely(torch.zeros(1, 16, 1, 1))
    others = model.decode_head.psp_modules[1][1].bn
    targets = torch.randint(0, 5, (1, 64, 64))
    sum(model(torch.randn(1, 3, 64, 64), targets).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert (lonely.running_mean == 0).all()
    assert (others.running_mean != 0).any()
    # two images have a variance, and are normalised by it
    model(torch.randn(2, 3, 64, 64), targets.expand(2, -1, -1))
    assert (lonely.running_mean != 0).any()


def test_one_value_is_normalised_by_the_running_statistics():
    layer = ConvNorm(3, 4, 1)
    nn.init.uniform_(layer.bn.running_mean)
    nn.init.uniform_(layer.bn.running_var, 1, 2)
    x = torch.randn(1, 3, 1, 1)
    assert torch.equal(layer.train()(x), copy.deepcopy(layer).eval()(x))


def test_synchronised_norms_can_be_put_in_from_outside():
    model = small()
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert not [m for m in synced.modules() if type(m) is nn.BatchNorm2d]
    assert synced.state_dict().keys() == model.state_dict().keys()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(synced.eval()(x), model.eval()(x))


def test_checkpointing_the_backbone_changes_no_bit_but_runs_blocks_twice():
    plain = small(drop_path_rate=0.5, layer_scale_init_value=1.0).train()
    saving = small(drop_path_rate=0.5, layer_scale_init_value=1.0, checkpoint_backbone=True).train()
    saving.load_state_dict(plain.state_dict())
    saving = copy.deepcopy(saving)  # as an average of the weights is made
    x, targets = torch.randn(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    runs = {}
    for label, model in (("plain", plain), ("saving", saving)):
        calls = []
        model.backbone.stages[2][1].pwconv1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(1)
        loss = sum(model(x, targets).values())
        loss.backward()
        runs[label] = (loss.item(), len(calls))
    assert runs["plain"][0] == runs["saving"][0]
    assert (runs["plain"][1], runs["saving"][1]) == (1, 2)
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    assert saving.eval()(x).shape == (2, 5, 64, 64)

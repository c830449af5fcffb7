"""The networks on their fused operations: logits and every gradient, what makes a block run its parts, and tracing.

As in tests/ops, the kernels run in Triton's interpreter in a process of their own, which is this file run as a program.
"""

import copy
import sys

import pytest
import torch
from torch import nn

from convnext.errors import ConvNextError
from convnext.models.convnext import ConvNeXt
from convnext.models.deployed import Deployed
from convnext.models.isotropic import IsotropicConvNeXt
from convnext.models.recompute import recompute_blocks, recompute_hidden
from convnext.ops import backend, onednn
from convnext.runtime import graphs
from interpreter import interpreted, run_cases
from recording import recorded

SIDE = 32  # of the images; the interpreter takes seconds for each, so default cases are isotropic: 2 x 2 pixels

# Error of an element, as a part of |element| + rms. One operation is within 1e-5 in fp32 (tests/ops); a gradient that came
# through four blocks and the norms between them has about eight of these errors, of either sign.
FP32 = 3e-5
# Under bf16 autocast PyTorch's own operations round after each of them, and are what the kernels are compared with: their
# mean error against fp64, times 4 because the interpreter cuts bf16 off: twice the error of rounding to nearest, always
# towards zero, so that it grows in sums.
AUTOCAST = 4.0

CASES = {  # model, layer scale, drop path, recompute, images: fp32
    "isotropic": ("isotropic", True, 0.5, ""),
    "hidden layers made again": ("isotropic", True, 0.5, "hidden"),
}
SLOW = {
    "neither": ("isotropic", False, 0.0, ""),
    "blocks run again": ("isotropic", True, 0.5, "blocks"),
} | {
    f"ConvNeXt, {layer_scale=} {drop_path=} {recompute}": ("convnext", layer_scale, drop_path, recompute)
    for layer_scale, drop_path in ((True, 0.5), (False, 0.0))
    for recompute in ("", "hidden", "blocks")
}


# -- what the process does, and the test on a GPU


def build(kind="convnext", layer_scale=True, drop_path=0.0, recompute="", classes=5):
    """A small network with weights of the sizes of a trained one, so that no branch is negligible."""
    options = {
        "num_classes": classes,
        "drop_path_rate": drop_path,
        "layer_scale_init_value": 1.0 if layer_scale else 0.0,
    }
    if kind == "isotropic":
        model = IsotropicConvNeXt(2, 40, **options)
    else:
        model = ConvNeXt((1, 1, 1, 1), (40, 80, 160, 320), **options)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        drawn = torch.randn(p.shape, generator=generator)
        p.data = drawn * p[0].numel() ** -0.5 if p.ndim > 1 else p.detach() + 0.3 * drawn
    if recompute == "hidden":
        recompute_hidden(model, (0,) if kind == "isotropic" else (0, 2))
    if recompute == "blocks":
        recompute_blocks(model)
    return model


def images(batch=2):
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def with_gradients(model, x, autocast=False) -> dict[str, torch.Tensor]:
    """Logits and the gradients of the image and of every parameter, by name; the same drop-path every time."""
    model.zero_grad()
    x = x.detach().clone().requires_grad_()
    torch.manual_seed(25)  # with which every block keeps the branch of one image or more, and not all of them keep all
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        logits = model(x)
    seed = torch.randn(logits.shape, generator=torch.Generator().manual_seed(4)).to(logits)
    logits.backward(seed)
    return {"logits": logits.detach(), "image": x.grad} | {name: p.grad.clone() for name, p in model.named_parameters()}


def errors(found, exact, mean=False) -> dict[str, float]:
    """The largest (or mean) error of an element, as a part of its size + the root mean square of all."""
    result = {}
    for name, e in exact.items():
        off = (found[name].double() - e).abs() / (e.abs() + e.square().mean().sqrt())
        result[name] = (off.mean() if mean else off.max()).item()
    return result


def exactly(model, x) -> dict[str, torch.Tensor]:
    with backend.backend("reference"):
        return with_gradients(copy.deepcopy(model).double(), x.double())


def compare(kind, layer_scale, drop_path, recompute, batch=2, device="cpu") -> dict[str, float]:
    model, x = build(kind, layer_scale, drop_path, recompute).to(device), images(batch).to(device)
    with backend.backend("triton"):
        found = with_gradients(model, x)
    return errors(found, exactly(model, x))


def compare_autocast(kind="isotropic", device="cpu") -> dict[str, tuple[float, float]]:
    """Mean errors under bf16 autocast: of the kernels and of PyTorch's operations."""
    model, x = build(kind, drop_path=0.5).to(device), images().to(device)
    exact = exactly(model, x)
    means = []
    for name in ("triton", "reference"):
        with backend.backend(name):
            means.append(errors(with_gradients(model, x, autocast=True), exact, mean=True))
    return {name: (means[0][name], means[1][name]) for name in exact}


def case_autocast():
    """bf16 autocast: as near to fp64 as PyTorch's own operations."""
    for name, (ours, theirs) in compare_autocast().items():
        assert ours <= AUTOCAST * theirs, (name, ours, theirs)


def case_parts():
    """A hook, or a part of another class, makes this block run its parts, and only this one."""
    model, x = build("isotropic").eval(), images()
    runs = []
    for block in model.blocks:
        block.forward_pair = lambda *given, inner=block.forward_pair: runs.append(1) or inner(*given)
    with backend.backend("triton"):
        expected = model(x)
        assert len(runs) == 2
        seen = []
        hook = model.blocks[1].norm.register_forward_hook(lambda module, given, y: seen.append(y.shape))
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
        assert (len(runs), seen) == (3, [(2, 2, 2, 40)])
        hook.remove()
        model.blocks[0].pwconv2 = adapted(model.blocks[0].pwconv2)
        changed = model(x)
    assert len(runs) == 4
    assert (changed - expected).abs().max() > 0.1


def adapted(layer):
    """A linear layer as an adapter replaces it: its own class, and something added to what it puts out."""

    class Adapted(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1.0

    new = Adapted(layer.in_features, layer.out_features)
    new.load_state_dict(layer.state_dict())
    return new


def case_memory():
    """What recomputing keeps less for the backward pass, to the element: 4 C of 5 C per block and pixel."""
    kept = {}
    for recompute in ("", "hidden"):
        model, x, sizes = build("isotropic", recompute=recompute), images(), []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t)
        with backend.backend("triton"), hooks:
            model(x)
        kept[recompute] = sum(sizes)
    assert kept[""] - kept["hidden"] == 2 * (2 * 2 * 2) * 4 * 40  # blocks, pixels, elements


def case_stream():
    """The residual stream under autocast has the dtype that PyTorch's own operations give it: fp32 with LayerScale."""
    for scaled in (True, False):
        block = build("isotropic", layer_scale=scaled).blocks[0]
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(1, 2, 2, 40).to(dtype)
            for grad in (True, False):
                with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
                    with backend.backend("triton"):
                        found = block(x)
                    with backend.backend("reference"):
                        assert found.dtype == block(x).dtype, (scaled, dtype, grad)


def case_pairs():
    """Blocks hand each other twins under autocast in training, and the bits are those of blocks called one by one, rounded once."""
    model, x = build("isotropic"), torch.randn(1, 2, 2, 40)
    with backend.backend("triton"), torch.autocast("cpu", torch.bfloat16):
        one = model.blocks(x)
        other = x
        for block in model.blocks:
            other = block(other)
        assert torch.allclose(one, other, rtol=2**-6, atol=2**-6)
        seen = []
        for block in model.blocks:
            block.forward_pair = lambda *given, inner=block.forward_pair: seen.append(given[1:]) or inner(*given)
        model.blocks(x)
        (first, pair), (second, last) = seen
        assert (first, pair, second.dtype, last) == (None, True, torch.bfloat16, False)
        seen.clear()
        with torch.no_grad():
            model.blocks(x)
        assert seen == [(None, True), (None, False)]


def case_thread():
    """Blocks that run again take the backend of their first run, though the backward pass comes after its `with`."""
    model, x = build("isotropic", recompute="blocks"), images()
    with backend.backend("triton"):
        loss = model(x).sum()
    calls, block = [], model.blocks[0]
    block.forward_pair = lambda *given, inner=block.forward_pair: calls.append(1) or inner(*given)
    loss.backward()
    assert calls == [1]


def case_compile():
    """One graph for forward and backward, on fake tensors, and the numbers of the uncompiled network."""
    model, x = build("isotropic", drop_path=0.5), images()
    with backend.backend("triton"):
        expected = with_gradients(model, x, autocast=True)
        found = with_gradients(torch.compile(model, backend="aot_eager", fullgraph=True), x, autocast=True)
    found = {name.removeprefix("_orig_mod."): t for name, t in found.items()}
    assert all(e <= 1e-5 for e in errors(found, {k: t.double() for k, t in expected.items()}).values())


def case_deploy():
    """Made where Triton is demanded, the copy takes the kernels; its constants are folded away."""
    model, x = build("isotropic").eval(), images()
    with torch.no_grad(), backend.backend("reference"):
        expected = model(x)
    for precision, limit in (("fp32", 1e-5), ("bf16", 0.05)):
        with backend.backend("triton"):
            found = model.deploy(precision)(x)
        assert relative(found, expected) < limit, (precision, relative(found, expected))
    with backend.backend("triton"):
        plain, rows = (model.deploy("bf16", bf16_rows=on)(x) for on in (False, True))
    assert 0 < relative(rows, plain) < 0.1


def relative(found, expected) -> float:
    return ((found - expected).norm() / expected.norm()).item()


CHECKS = {name: f for name, f in list(globals().items()) if name.startswith("case_")}


def main(names: list[str]) -> None:
    """Run cases by name, see `interpreter`."""
    run_cases(names, lambda name: CHECKS[name]() if name in CHECKS else compare(*(CASES | SLOW)[name]))


# -- the tests


@pytest.fixture(scope="module")
def quick():
    return interpreted(__file__, [*CASES, *CHECKS])


@pytest.fixture(scope="module")
def slow():
    return interpreted(__file__, SLOW)


def assert_exact(result, kind, layer_scale, *_):
    assert isinstance(result, dict), result
    assert set(result) == {"logits", "image", *(n for n, _ in build(kind, layer_scale).named_parameters())}
    assert all(e <= FP32 for e in result.values()), result  # a NaN is not


@pytest.mark.parametrize("name", CASES)
def test_logits_and_every_gradient_equal_fp64(quick, name):
    assert_exact(quick[name], *CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_logits_and_every_gradient_equal_fp64_on_the_table(slow, name):
    assert_exact(slow[name], *SLOW[name])


@pytest.mark.parametrize("name", CHECKS)
def test_the_network(quick, name):
    """What each `case_` says."""
    assert quick[name] is None, quick[name]


# -- without Triton


def test_a_watched_or_replaced_part_makes_a_block_run_its_parts():
    model = build("isotropic").eval()
    block = model.blocks[0]
    assert block.stock()
    for part in (block.dwconv, block.norm, block.pwconv1, block.pwconv2):
        for moment in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
            hook = getattr(part, f"register_{moment}_hook")(lambda *_: None)
            assert not block.stock()
            hook.remove()
            assert block.stock()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not block.stock()
    hook.remove()
    block.norm.forward = lambda y: y
    assert not block.stock()
    del block.norm.forward
    for name, value in (("dilation", (2, 2)), ("padding_mode", "circular"), ("stride", (2, 2)), ("padding", (2, 2))):
        before = getattr(block.dwconv, name)
        setattr(block.dwconv, name, value)
        assert not block.stock()
        setattr(block.dwconv, name, before)
    assert block.stock()
    block.pwconv1 = adapted(block.pwconv1)
    assert not block.stock()
    assert model.blocks[1].stock()


@pytest.mark.parametrize("kind", ["convnext", "isotropic"])
@pytest.mark.parametrize("layer_scale", [True, False])
def test_deployed_in_fp32_equals_the_model(kind, layer_scale):
    """Packed for oneDNN where it can be, and folded only, as other devices have it."""
    model, x = build(kind, layer_scale).eval(), images()
    with torch.no_grad(), backend.backend("reference"):
        expected = model(x)
    for name in ("auto", "reference"):
        with backend.backend(name):
            deployed = model.deploy("fp32")
            assert relative(deployed(x), expected) < 1e-5
            assert deployed.precision == "fp32"
            for key, y in deployed.feature_maps(x).items():
                assert relative(y, model.feature_maps(x)[key].detach()) < 1e-5
    assert not deployed(x).requires_grad


def test_a_type_that_the_processor_has_but_multiplies_slowly_is_not_taken(monkeypatch):
    model = build().eval()
    monkeypatch.setattr(onednn, "bf16", lambda: True)
    for faster, precision, why in ((True, "bf16", "multiplies bf16"), (False, "fp32", "fp32 faster than bf16")):
        monkeypatch.setattr(onednn, "_bf16_faster", lambda faster=faster: faster)
        deployed = model.deploy()
        assert deployed.precision == precision
        assert why in deployed.why
    monkeypatch.setattr(onednn, "bf16", lambda: False)
    assert "no arithmetic for bf16" in model.deploy().why


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_deployed_with_another_stem(stem_stride):
    """More channels than colours, and patches that overlap."""
    torch.manual_seed(0)
    model = ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), num_classes=5, in_chans=9, stem_stride=stem_stride).eval()
    x = torch.randn(2, 9, 35, 50)
    with torch.no_grad():
        assert relative(model.deploy("fp32")(x), model(x)) < 1e-5


def test_a_deployed_model_in_a_compiled_one():
    """The compiler leaves it alone: its weights are in an order that only oneDNN reads."""
    model, x = build().eval(), images()
    deployed = model.deploy("fp32")
    compiled = torch.compile(lambda x: deployed(2 * x) + 1, backend="eager")
    assert relative(compiled(x), deployed(2 * x) + 1) < 1e-6


def test_a_deployed_backbone_gives_the_same_maps():
    model, x = build(classes=None).eval(), images()
    with torch.no_grad():
        expected = model(x)
    found = model.deploy("fp32")(x)
    assert found.keys() == expected.keys()
    assert all(relative(found[name], expected[name]) < 1e-5 for name in expected)


@pytest.mark.parametrize("kind", ["convnext", "isotropic"])
def test_deployed_in_bf16_is_as_near_as_autocast(kind):
    """A hundred or so roundings to 8 bits, each off by 0.2 % at most and 0.1 % on average, in random directions: about 1 %."""
    model, x = build(kind).eval(), images(4)
    with torch.no_grad(), backend.backend("reference"):
        expected = model(x)
    for name in ("auto", "reference"):
        with backend.backend(name):
            deployed = model.deploy("bf16")
            found = deployed(x)
        assert found.dtype == torch.float32
        assert 1e-4 < relative(found, expected) < 0.02, name


def test_deploying_leaves_the_model_as_it_was():
    model, x = build(drop_path=0.5).train(), images()
    before = copy.deepcopy(model.state_dict())
    model.deploy("fp32")(x)
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_what_a_deployed_model_refuses():
    model = build("isotropic")
    deployed = model.deploy()
    assert deployed.precision in ("fp32", "bf16")
    assert deployed.why
    assert not deployed.eval().training
    with pytest.raises(ConvNextError, match="cannot be trained"):
        deployed.train()
    with pytest.raises(ConvNextError, match="deployed already"):
        deployed.deploy()
    with pytest.raises(ConvNextError, match="nothing to save"):
        deployed.state_dict()
    for precision in ("bf16", "int8"):
        with pytest.raises(ConvNextError, match="bf16_rows is for bf16 on a GPU; the model is on cpu"):
            model.deploy(precision, bf16_rows=True)
    with pytest.raises(ConvNextError, match="Did you mean 'bf16'"):
        model.deploy("bf61")


def test_a_deployed_model_replays_recordings_by_shape(monkeypatch):
    """With a recording of operations in place of CUDA's, which a CPU has not."""
    made = []
    monkeypatch.setattr(graphs, "recorded", lambda work: made.append(1) or recorded(work, list))
    monkeypatch.setattr(graphs, "aside", lambda work: work())
    model = ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), num_classes=None, layer_scale_init_value=1.0)
    plain = model.deploy("fp32")
    with pytest.raises(ConvNextError, match="cuda_graphs is for a GPU, and the model is on cpu"):
        model.deploy("fp32", cuda_graphs=True)
    fast = Deployed(plain.model, "fp32", "", torch.float32, graphs.Replays(most=2))
    torch.manual_seed(0)
    sides = (32, 64, 32, 32, 96, 64, 32)  # the third shape makes room by the oldest, which then comes again
    given = [torch.randn(2, 3, side, side) for side in sides]
    found = [fast(x) for x in given]
    for x, maps in zip(given, found, strict=True):
        for key, value in plain(x).items():
            torch.testing.assert_close(maps[key], value, rtol=1e-4, atol=1e-5)
    assert len(made) == 4
    assert set(fast.feature_maps(given[0])) == set(plain.feature_maps(given[0]))
    assert len(made) == 5
    copied = copy.deepcopy(fast)
    assert copied.graphs.most == 2
    assert not copied.graphs.kept
    torch.testing.assert_close(copied(given[0]), found[0])


if __name__ == "__main__":
    main(sys.argv[1:])

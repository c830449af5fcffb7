"""Tools as their users call them: TensorBoard, peft, captum, fvcore, torchinfo; counts, refusals, and models without a head."""

import io
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convnext import models
from convnext.errors import ConvNextError
from convnext.models.convnext import ConvNeXt
from convnext.ops import onednn
from convnext.ops.backend import backend
from interop.test_things_people_do import distance, images, make


def test_a_trace_as_the_first_call_leaves_onednn_usable():
    """In a new process, as a user's script does it."""
    code = """
import torch, convnext
from convnext.ops import onednn
model = convnext.create_model("convnext_atto", num_classes=3, layer_scale_init_value=0.5).eval()
x = torch.randn(1, 3, 64, 64)
with torch.no_grad():
    traced = torch.jit.trace(model, x, check_trace=False)
    assert onednn.usable(torch.float32) == torch.backends.mkldnn.is_available()
    torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)
state = torch.random.get_rng_state()
onednn._usable.clear()
onednn.usable(torch.float32)
assert torch.equal(state, torch.random.get_rng_state())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "isotropic", "roadmap"])
def test_tensorboard_draws_the_graph(kind, tmp_path):
    from torch.utils.tensorboard import SummaryWriter  # which imports slowly

    with SummaryWriter(tmp_path) as writer:
        writer.add_graph(make(kind), images())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 5000


@pytest.mark.parametrize("deployed", [False, True])
def test_flops_under_no_grad_are_the_papers(deployed):
    """Those of the plain model, which tests/models compares with the paper's; oneDNN's operators have formulas."""
    model, x = models.build("convnext_atto").eval(), torch.zeros(1, 3, 64, 64)
    fast, counts = model.deploy("fp32") if deployed else model, []
    for context, network in ((backend("reference"), model), (torch.no_grad(), fast)):
        with context, FlopCounterMode(display=False) as counter:
            network(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    if deployed and onednn.usable(torch.float32):  # the counter's own hooks make the plain model run its parts
        assert any("mkldnn" in str(op) for op in counter.get_flop_counts()["Global"])


# -- packages


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_peft_adapters_merge_and_unmerge():
    from peft import LoraConfig, get_peft_model

    model, x = make("classifier"), images()
    tuned = get_peft_model(model, LoraConfig(target_modules=["pwconv1", "pwconv2"], r=4)).eval()
    for name, p in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.2)
    with torch.no_grad(), backend("reference"):
        expected = tuned(x)
    with torch.no_grad():
        assert distance(expected, make("classifier")(x)) > 0.05
        inner = tuned.base_model.model
        assert distance(tuned(x), expected) < 1e-5
        assert distance(inner.deploy("fp32")(x), expected) < 1e-5
        merged = tuned.merge_and_unload()
        assert distance(merged(x), expected) < 1e-4
        assert distance(merged.deploy("fp32")(x), expected) < 1e-4


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_captum_explains_a_layer():
    from captum.attr import LayerGradCam

    model, x = make("classifier"), images()
    for layer in (model.stages[1][0].dwconv, model.stages[1][0].pwconv1, model.downsample_layers[0]):
        assert LayerGradCam(model, layer).attribute(x, target=1).abs().sum() > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_fvcore_and_torchinfo_see_every_layer():
    from fvcore.nn import FlopCountAnalysis
    from torchinfo import summary

    model, x = make("classifier"), images()
    with FlopCounterMode(display=False) as counter, backend("reference"):
        model(x)
    with torch.no_grad():
        count = FlopCountAnalysis(model, x).unsupported_ops_warnings(False)
        by_operator = count.by_operator()
        assert 2 * (by_operator["conv"] + by_operator["linear"]) == counter.get_total_flops()
        rows = {info.var_name for info in summary(model, input_data=x, verbose=0).summary_list}
    assert {"dwconv", "norm", "pwconv1", "pwconv2"} <= rows


# -- what is refused, and what has no head


@pytest.mark.parametrize("kind", ["classifier", "isotropic", "roadmap"])
@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda x: (255 * x).byte(), r"torch.uint8.*\(x / 255 - mean\) / std"),
        (lambda x: x.permute(0, 2, 3, 1), r"x\.permute\(0, 3, 1, 2\)"),
        (lambda x: x[0], r"x\[None\]"),
    ],
)
def test_wrong_images_get_the_remedy(kind, change, remedy):
    with pytest.raises(ConvNextError, match=remedy):
        make(kind)(change(images()))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_a_deployed_model_refuses_of_tools():
    deployed, x = make("classifier").deploy("fp32"), images()
    for use, reason in (
        (lambda: torch.jit.trace(deployed, x), "cannot be traced"),
        (lambda: torch.fx.symbolic_trace(deployed), "cannot be traced"),
        (lambda: deployed.half(), "stays in fp32"),
        (lambda: torch.func.grad(lambda x: deployed(x).sum())(x), "has no gradients"),
        (lambda: torch.save(deployed.state_dict(), io.BytesIO()), "nothing to save"),
    ):
        with pytest.raises(ConvNextError, match=reason):
            use()


@pytest.mark.parametrize("name", ["convnext_atto", "convnext_isotropic_small", "roadmap_resnet50_layer-norm"])
def test_no_classes_mean_features(name):
    options = {"width_mult": 0.25, "depth_mult": 0.3} if "roadmap" in name else {}
    model, x = models.build(name, num_classes=0, **options).eval(), images()
    with torch.no_grad():
        features = model(x)
    assert features.shape == (2, list(model.channels.values())[-1])
    assert not any(key.startswith("head") for key in model.state_dict())
    if "roadmap" not in name:
        assert features.mean(1).abs().max() < 1e-5  # normalised
        assert distance(model.deploy("fp32")(x), features) < 1e-5


def test_no_classes_are_the_input_of_the_classifier():
    whole, x = ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), num_classes=5).eval(), images()
    headless = ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), num_classes=0).eval()
    headless.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("head.")})
    assert torch.allclose(whole.head(headless(x)), whole(x), atol=1e-6)


def test_pretrained_is_answered():
    with pytest.raises(ConvNextError, match="use weights="):
        models.build("convnext_tiny", pretrained=True)


@pytest.mark.parametrize("kind", ["classifier", "backbone", "isotropic", "roadmap"])
def test_every_model_publishes_its_maps(kind):
    model, x = make(kind), torch.zeros(1, 3, 64, 32)
    maps = model.feature_maps(x)
    assert list(maps) == list(model.channels) == list(model.strides)
    for name, y in maps.items():
        stride = model.strides[name]
        assert y.shape == (1, model.channels[name], 64 // stride, 32 // stride)


@pytest.mark.parametrize("step", ["resnet", "width", "inverting", "kernel-7"])
def test_steps_of_the_roadmap_publish_their_maps(step):
    model = models.build(f"roadmap_resnet50_{step}", width_mult=0.125, depth_mult=0.3)
    for name, y in model.feature_maps(torch.zeros(2, 3, 64, 64)).items():
        assert y.shape == (2, model.channels[name], 64 // model.strides[name], 64 // model.strides[name])

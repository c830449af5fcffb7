"""The networks of tests/models/test_fused.py on a device, and what only a device can show."""

import pytest
import torch

from convnext import models
from convnext.models import block, drop_path
from convnext.models.recompute import recompute_hidden
from convnext.ops import backend
from models.test_fused import (
    CASES,
    FP32,
    SLOW,
    build,
    compare,
    compare_autocast,
    errors,
    exactly,
    images,
    relative,
    with_gradients,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def _comparable(monkeypatch):
    """fp32 is fp32, in cuDNN too, and drop-path is drawn on the CPU: a device draws others in fp64."""

    def drop_path_scale(x, rate, training):
        keep = 1.0 - rate
        return torch.empty(len(x)).bernoulli_(keep).div_(keep).to(x) if rate and training else None

    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for module in (block, drop_path):  # of the fused block, and of its parts
        monkeypatch.setattr(module, "drop_path_scale", drop_path_scale)


@pytest.mark.parametrize("name", CASES | SLOW)
def test_logits_and_every_gradient_equal_fp64(name):
    result = compare(*(CASES | SLOW)[name], device="cuda")
    assert all(e <= FP32 for e in result.values()), result


@pytest.mark.parametrize("kind", ["convnext", "isotropic"])
def test_as_near_to_fp64_as_pytorch_under_autocast(kind):
    """As tests/gpu/test_mlp_gpu.py allows for one operation."""
    for name, (ours, theirs) in compare_autocast(kind, "cuda").items():
        assert ours <= 1.5 * theirs + 1e-3, (name, ours, theirs)


def tiny(device="cuda", **options):
    """ConvNeXt-T with branches that are not negligible."""
    torch.manual_seed(0)
    return models.build("convnext_tiny", layer_scale_init_value=1.0, **options).to(device)


def test_tiny_at_224_in_training_is_as_near_to_fp64_as_pytorch():
    model, x = tiny(drop_path_rate=0.1).train(), torch.randn(8, 3, 224, 224, device="cuda")
    exact = exactly(model, x)
    means = []
    for name in ("triton", "reference"):
        with backend.backend(name):
            means.append(errors(with_gradients(model, x, autocast=True), exact, mean=True))
    for name in exact:
        assert means[0][name] <= 1.5 * means[1][name] + 1e-3, (name, means[0][name], means[1][name])


def test_triton_is_what_a_model_takes_by_itself():
    model, x = tiny().eval(), torch.randn(2, 3, 64, 64, device="cuda")
    calls = []
    block = model.stages[0][0]
    block.forward_pair = lambda *given, inner=block.forward_pair: calls.append(1) or inner(*given)
    with torch.no_grad():
        model(x)
        with backend.backend("reference"):
            model(x)
    assert calls == [1]


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_deployed(precision, limit):
    """Limits as on a CPU."""
    model, x = tiny().eval(), torch.randn(4, 3, 224, 224, device="cuda")
    with torch.no_grad(), backend.backend("reference"):
        expected = model(x)
    deployed = model.deploy(precision)
    assert relative(deployed(x), expected) < limit
    assert model.deploy().precision == "bf16"


def test_a_deployed_model_in_a_cuda_graph():
    deployed, x = tiny().eval().deploy("bf16"), torch.randn(1, 3, 224, 224, device="cuda")
    given, graph, aside = torch.zeros_like(x), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # compiles outside the capture
        expected = deployed(x)
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph):
        found = deployed(given)
    given.copy_(x)
    graph.replay()
    assert torch.equal(found, expected)


def test_one_graph_in_torch_compile():
    model, x = build("isotropic").cuda(), images().cuda()
    expected = with_gradients(model, x, autocast=True)
    found = with_gradients(torch.compile(model, fullgraph=True), x, autocast=True)
    found = {name.removeprefix("_orig_mod."): t for name, t in found.items()}
    exact = exactly(model, x)
    ours, theirs = (errors(one, exact, mean=True) for one in (found, expected))
    assert all(ours[name] <= 1.5 * theirs[name] + 1e-3 for name in exact), (ours, theirs)


def test_recomputing_hidden_layers_takes_less_memory():
    """4 C elements per pixel of every block are not kept: of 16 images, 16 * 2.15e6 * 4 * 2 bytes, and at least half of it
    is seen at the peak, where other things are in memory too."""
    model, x, peaks = tiny().train(), torch.randn(16, 3, 224, 224, device="cuda"), []
    for stages in ((), (0, 1, 2, 3)):
        recompute_hidden(model, stages)
        with_gradients(model, x, autocast=True)
        torch.cuda.reset_peak_memory_stats()
        with_gradients(model, x, autocast=True)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[0] - peaks[1] > 16 * 2.15e6 * 4 * 2 / 2, peaks


def test_the_same_bits_every_time():
    model, x = tiny(drop_path_rate=0.1).train(), torch.randn(8, 3, 64, 64, device="cuda")
    first, *others = (with_gradients(model, x, autocast=True) for _ in range(3))
    for name in (n for n in first if n.startswith("stages.")):  # cuDNN's convolutions outside the blocks need not be
        assert all(torch.equal(other[name], first[name]) for other in others), name

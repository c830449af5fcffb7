"""The arithmetic of timing, on a clock of the test's own, and what a step is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convnext.benchmark import ceilings, networks, prepare
from convnext.benchmark.configs import Config
from convnext.benchmark.throughput import Runner, percentile, run_rounds, spread, timed, warm_up
from convnext.errors import ConvNextError
from convnext.paper import COUNTED
from recording import recorded

TINY = Config("convnext_atto", batch=2, image_size=32)


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_percentiles_are_numpys(count):
    values = list(np.random.default_rng(count).exponential(size=count))
    for percent in (0, 20, 50, 80, 100):
        assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    assert spread(values)["p20"] <= spread(values)["p50"] <= spread(values)["p80"]


def test_warm_up_tells_the_first_step_from_the_others(clock, cpu):
    runner = Runner(TINY, clock.taking(9.0, 0.4, 0.3, 0.2))
    warm_up(runner, cpu, clock)
    assert runner.first_seconds == pytest.approx(9.0)
    assert runner.warmup_seconds == pytest.approx(0.4 + 0.3 + 3 * 0.2)
    assert runner.estimate == pytest.approx(0.2)
    slow = Runner(TINY, clock.taking(60.0, 30.0))
    warm_up(slow, cpu, clock)
    assert slow.step.calls == 2  # a minute-long step is not repeated to be sure


def test_samples_are_seconds_per_step_without_the_first_of_a_visit(clock, cpu):
    runner = Runner(TINY, clock.taking(50.0, 0.1, 0.2, 0.3, 0.4, 7.0), steps=4)
    assert timed(runner, cpu, clock) == pytest.approx(0.25)
    assert runner.step.calls == 5


def test_every_round_visits_every_configuration_and_begins_with_another(clock, cpu):
    runners = [Runner(TINY, clock.taking(t), estimate=t) for t in (0.1, 0.02, 3.0)]
    visits = []
    run_rounds(runners, cpu, 4, 0.5, clock, lambda runner, done: visits.append((done, runners.index(runner))))
    assert [runner.steps for runner in runners] == [5, 25, 1]
    assert visits == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 0), (2, 2), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    for runner, seconds in zip(runners, (0.1, 0.02, 3.0), strict=True):
        assert runner.samples == pytest.approx([seconds] * 4)
        assert runner.images_per_second == pytest.approx([2 / seconds] * 4)
        assert runner.step.calls == 4 * (runner.steps + 1)


def test_one_that_fails_is_left_out_from_then_on(clock, cpu):
    good, bad = (Runner(TINY, clock.taking(0.1), estimate=0.1) for _ in range(2))
    works = bad.step

    def fails_later():
        works()
        if works.calls > 8:
            raise RuntimeError("CUDA error:\n  no more")

    bad.step = fails_later
    run_rounds([good, bad], cpu, 3, 0.5, clock)
    assert (len(good.samples), good.error) == (3, None)
    assert (len(bad.samples), bad.error) == (1, "RuntimeError: CUDA error: no more")


def test_an_inference_step_sees_other_random_images_each_time(cpu, monkeypatch):
    seen = []

    class Echo(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    monkeypatch.setattr(networks, "build", lambda name, size: Echo())
    step = prepare.prepare(TINY, cpu)
    answers = [step() for _ in range(3)]
    assert all(not answer.requires_grad for answer in answers)
    assert len({x.data_ptr() for x in seen}) == 3
    assert all(0.9 < x.std() < 1.1 for x in seen)
    assert seen[0].shape == (2, 3, 32, 32)


def test_enough_images_that_a_cache_does_not_hold_them():
    assert prepare.rotations(Config("m", batch=1, image_size=8)) == prepare.MAX_ROTATED
    for config in (Config("m", batch=32, precision="bf16"), Config("m", batch=256), Config("m", batch=4096)):
        number = prepare.rotations(config)
        assert 2 <= number < prepare.MAX_ROTATED
        assert number * prepare.batch_bytes(config) > prepare.ROTATED_BYTES
    assert prepare.batch_bytes(Config("m", batch=2, image_size=8, precision="bf16")) == 2 * 3 * 8 * 8 * 2


@pytest.mark.parametrize("name", ["convnext_atto", "timm:convnext_atto"])
@pytest.mark.parametrize(("precision", "autocast"), [("fp32", False), ("bf16", True), ("bf16", False)])
def test_a_training_step_trains(cpu, monkeypatch, name, precision, autocast):
    made = []
    build = networks.build
    monkeypatch.setattr(networks, "build", lambda *given: made.append(build(*given)) or made[-1])
    step = prepare.prepare(Config(name, "train", 2, 32, precision, autocast, layout="nhwc"), cpu)
    (model,) = made
    before = [p.detach().clone() for p in model.parameters()]
    assert all(p.dtype == (torch.bfloat16 if precision == "bf16" and not autocast else torch.float32) for p in before)
    loss = step()
    assert 6 < loss.item() < 8  # the logarithm of 1,000
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    changed = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
    assert sum(changed) > 0.5 * len(changed)


def test_layout_and_type_of_the_images_and_of_a_peer(cpu, monkeypatch):
    made = []
    build = networks.build
    monkeypatch.setattr(networks, "build", lambda *given: made.append(build(*given)) or made[-1])
    prepare.prepare(Config("timm:convnext_atto", batch=1, image_size=32, precision="bf16", layout="nhwc"), cpu)
    convolution = next(m for m in made[0].modules() if isinstance(m, torch.nn.Conv2d) and m.weight.shape[1] > 1)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert convolution.weight.dtype == torch.bfloat16
    assert not made[0].training
    x = prepare.images(Config("m", batch=2, image_size=8, precision="fp16", layout="nhwc"), cpu, 1)[0]
    assert (x.dtype, x.is_contiguous(memory_format=torch.channels_last)) == (torch.float16, True)
    x = prepare.images(Config("m", "train", 2, 8, "bf16", autocast=True), cpu, 1)[0]
    assert (x.dtype, x.is_contiguous()) == (torch.float32, True)


def test_the_switches_of_a_configuration_are_put_back(cpu):
    from convnext.ops.backend import chosen

    def switches():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, chosen()

    before = switches()
    with prepare.arithmetic(Config("m", precision="tf32", backend="reference"), cpu):
        assert switches() == ("high", True, "reference")
        with prepare.arithmetic(Config("m"), cpu):
            assert switches()[:2] == ("highest", False)
    assert switches() == before


def test_every_compiled_configuration_has_code_of_its_own(monkeypatch):
    """torch.compile would share its results, and its limit on their number, among models of one class."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda f, **options: given.append((f, options)) or f)
    model = torch.nn.Linear(2, 2)
    for how in ("default", "default", "max-autotune", "freezing"):
        prepare.compiled(model, Config("m", compile=how))
    assert len({f.__code__ for f, _ in given}) == 4
    assert all(options["dynamic"] is False for _, options in given)
    assert given[2][1]["mode"] == "max-autotune"
    x = torch.randn(1, 2)
    assert torch.equal(given[0][0](x), model(x))
    assert prepare.compiled(model, Config("m")) is model


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convnext_tinny", "no classifier 'convnext_tinny'.* Did you mean 'convnext_tiny'"),
        ("timm:convnext_tinny", "timm has no classifier 'convnext_tinny'. Did you mean 'convnext_tiny'"),
        ("torchvision:convnext_tinny", "torchvision has no classifier 'convnext_tinny'. Did you mean 'convnext_tiny'"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier"),
        ("tim:convnext_tiny", "Did you mean 'timm'"),
    ],
)
def test_names_that_are_refused(name, said):
    with pytest.raises(ConvNextError, match=said):
        networks.check(name)


def test_a_peer_is_built_for_the_size_of_the_images_without_stochastic_depth():
    from torchvision.ops import StochasticDepth

    with torch.device("meta"):
        swin = networks.build("timm:swin_tiny_patch4_window7_224", 256)
        assert swin(torch.empty(1, 3, 256, 256)).shape == (1, 1000)
        theirs = networks.build("torchvision:convnext_tiny.IMAGENET1K_V1", 64)
    assert {m.p for m in theirs.modules() if isinstance(m, StochasticDepth)} == {0.0}
    ours, timm = (networks.counted(name, 224) for name in ("convnext_tiny", "timm:convnext_tiny.fb_in22k"))
    assert ours is not None
    assert (ours.params, ours.macs) == (timm.params, timm.macs)
    assert (ours.params, ours.macs) == (COUNTED["convnext_tiny"].params, COUNTED["convnext_tiny"].macs_224)
    assert networks.counted("torchvision:convnext_tiny", 224).macs == ours.macs


def test_a_convnext_of_timm_with_convolutions_in_place_of_linear_layers():
    with torch.device("meta"):
        linear, conv = (networks.build(f"timm:convnext_tiny{tag}") for tag in ("", ".conv_mlp"))
    found = [type(model.stages[0].blocks[0].mlp.fc1) for model in (linear, conv)]
    assert found == [nn.Linear, nn.Conv2d]
    assert [networks.counted(f"timm:convnext_tiny{tag}", 224).params for tag in ("", ".conv_mlp")] == [
        COUNTED["convnext_tiny"].params
    ] * 2
    with pytest.raises(ConvNextError, match="cannot build .*resnet18.conv_mlp"):
        networks.build("timm:resnet18.conv_mlp")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm:convnext_tiny.in12k_ft_in1k", "convnext_tiny"),
        ("timm:convnext_tiny.conv_mlp", "convnext_tiny"),
        ("torchvision:convnext_tiny.IMAGENET1K_V1", "convnext_tiny"),
        ("transformers:facebook/convnext-tiny-224", "convnext_tiny"),
        ("convnext_tiny", "convnext_tiny"),
        ("timm:swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224"),
    ],
)
def test_the_same_network_by_other_names(name, expected):
    assert networks.architecture(name) == expected


def test_ceilings_count_what_they_should(cpu, monkeypatch):
    calls = []
    monkeypatch.setattr(ceilings, "best", lambda call, device: calls.append(call()) or 0.004)
    assert ceilings.copy_bandwidth(cpu, 1000) == pytest.approx(2 * 1000 / 0.004)
    assert ceilings.matmul_rate("fp32", cpu, sides=(8, 32)) == pytest.approx(2 * 32**3 / 0.004)
    (_, mm, conv, *_) = calls
    torch.testing.assert_close(conv[0, :, :, 0], mm.t(), rtol=1e-4, atol=1e-5)  # the same product, transposed
    assert ceilings.measure((), cpu, {"copy_gb_per_second": 3.0, "matmul_tflops": {"fp32": 1.0}}) == {
        "copy_gb_per_second": 3.0,
        "matmul_tflops": {"fp32": 1.0},
    }


def test_no_larger_product_is_tried_when_one_takes_long_enough(cpu, monkeypatch):
    sides = []
    monkeypatch.setattr(ceilings, "best", lambda call, device: sides.append(call().shape[0]) or 1.0)
    assert ceilings.matmul_rate("fp32", cpu, sides=(8, 64)) == 2 * 8**3


def test_a_graph_computes_what_the_step_does(cpu, monkeypatch):
    """With a recording of operations in place of CUDA's: numbers of the host are constants of it, tensors are read anew."""
    monkeypatch.setattr(prepare.graphs, "recorded", lambda work: recorded(work, list))
    monkeypatch.setattr(prepare.graphs, "aside", lambda work: work())
    config = replace(TINY, model="convnext_atto", batch=1)
    plain, graph = (prepare.prepare(replace(config, graph=graph), cpu) for graph in (False, True))
    first, second = plain(), plain()
    torch.testing.assert_close(graph().clone(), first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(graph(), second, rtol=1e-4, atol=1e-5)
    train = prepare.prepare(replace(config, mode="train", graph=True), cpu, rotated=False)
    losses = [float(train()) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]

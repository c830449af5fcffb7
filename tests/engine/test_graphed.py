"""A step that is recorded once and replayed is the step: the same bits, whatever changes between replays."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from convnext.engine.ema import MovingAverage
from convnext.engine.graphed import GraphedStep, check_graph
from convnext.engine.optim import lr_to_device, make_optimizer, optimizer_tensors, set_lr
from convnext.engine.step import Step
from convnext.errors import ConvNextError
from convnext.models.convnext import ConvNeXt
from convnext.recipes.plan import make_plan
from convnext.recipes.schema import Classification, Optim, Runtime
from convnext.runtime.world import World
from recording import Through, recorded


def network() -> nn.Module:
    """With random numbers (drop-path, dropout), statistics that move, and LayerNorm."""
    torch.manual_seed(0)
    small = ConvNeXt((1, 1, 2, 1), (8, 16, 24, 32), num_classes=5, drop_path_rate=0.5, layer_scale_init_value=1.0)
    return nn.Sequential(nn.BatchNorm2d(3), small, nn.Dropout(0.5))


def losses(model, batch):
    return {"loss": model(batch).square().mean(), "other": model[0](batch).mean()}


def make(kind, device="cpu", precision="fp32"):
    model = network().to(device)
    optimizer = make_optimizer(model, Optim(lr=0.1))
    ema = MovingAverage(model, 0.5)
    step = kind(model, losses, optimizer, World(torch.device(device)), precision, clip_grad=1.0, ema=ema)

    def state() -> dict[str, torch.Tensor]:
        tensors = {**model.state_dict(), **{f"ema.{k}": v for k, v in ema.module.state_dict().items()}}
        scale = vars(step.loss_scale) if step.loss_scale else {}
        return tensors | optimizer_tensors(optimizer) | scale

    step.recorded = lambda work: recorded(work, lambda: list(state().values()))
    step.aside = lambda work: work()
    return step, optimizer, state


def batch_of(number: int, size: int = 2, device="cpu") -> torch.Tensor:
    batch = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    if number == 6:
        batch[0, 0, 0, 0] = float("nan")
    return batch.to(device)


def train(step, optimizer, state, device="cpu") -> list:
    """Results and states of ten steps: rates change, the seventh is not finite, the ninth has another size."""
    seen = []
    for number in range(10):
        set_lr(optimizer, 0.1 / (number + 1))
        with Through() if device == "cpu" else nullcontext():
            result = step([batch_of(number, 3 if number == 8 else 2, device)], 1, (0, number))
        seen.append((result, {key: value.clone() for key, value in state().items()}))
    return seen


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_replays_are_the_steps_to_the_bit(precision):
    plain, optimizer, state = make(Step, precision=precision)
    lr_to_device(optimizer, torch.device("cpu"))
    expected = train(plain, optimizer, state)
    recording = make(GraphedStep, precision=precision)
    found = train(*recording)
    assert recording[0].replay is not None
    for (result, tensors), (other, others) in zip(found, expected, strict=True):
        torch.testing.assert_close(result, other, rtol=0, atol=0, equal_nan=True)
        for key, value in others.items():
            torch.testing.assert_close(tensors[key], value, rtol=0, atol=0, msg=key)
    skipped = [result[1].item() for result, _ in found]
    assert skipped[1:] == [0, 0, 0, 0, 0, 1, 0, 0, 0]  # in fp16 the first, too, until the loss scale has halved
    assert recording[0].names == ["loss", "other"]


def test_a_rate_on_the_device_changes_the_last_bits_only():
    first, second = (train(*make(kind))[0][1] for kind in (Step, GraphedStep))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-5, atol=1e-6)


def test_what_the_host_draws_is_drawn_for_each_replay():
    drawn = []

    def mix(batch):
        drawn.append(torch.rand(()).item())
        return batch * drawn[-1]

    for kind in (Step, GraphedStep):
        step, optimizer, state = make(kind)
        step.mix = mix
        if kind is Step:
            lr_to_device(optimizer, torch.device("cpu"))
        last = train(step, optimizer, state)[-1][1]
        if kind is Step:
            expected = copy.deepcopy(last)
    assert len(set(drawn[:10])) == 10
    assert drawn[:10] == drawn[10:]
    assert all(torch.equal(last[key], value) for key, value in expected.items())


def test_a_loss_that_asks_the_host_cannot_be_recorded():
    step, optimizer, state = make(GraphedStep)
    step.losses = lambda model, batch: {"loss": model(batch).square().mean() * float(batch[0, 0, 0, 0] > 0)}
    with pytest.raises(ConvNextError, match=r"cannot be recorded as a CUDA graph \(.*not permitted.*\)\. Leave"):
        train(step, optimizer, state)


@pytest.mark.parametrize(
    ("world", "fields", "words"),
    [
        (World(torch.device("cpu")), {}, "needs a GPU, and this run is on cpu"),
        (World(torch.device("cuda"), size=2), {"device_batch": 4}, "for one process, and there are 2"),
        (World(torch.device("cuda")), {}, "2 micro-batches; give --device-batch 8"),
    ],
)
def test_what_cannot_be_recorded_is_told(world, fields, words):
    fields = {"epochs": 2, "total_batch": 8, "device_batch": 4, "optim": Optim(lr=1e-2, warmup_epochs=0.0)} | fields
    recipe = Classification(**fields, runtime=Runtime(cuda_graph=True))
    plan = make_plan(recipe, 32, world.size)
    with pytest.raises(ConvNextError, match=words):
        check_graph(recipe, plan, world)
    check_graph(Classification(**fields), plan, world)

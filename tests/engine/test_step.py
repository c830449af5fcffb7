"""One optimizer step: accumulation, clipping, skipping, loss scaling."""

import copy

import pytest
import torch
from torch import nn

from convnext.engine.ema import MovingAverage
from convnext.engine.optim import make_optimizer, optimizer_tensors
from convnext.engine.step import LossScale, Step
from convnext.recipes.schema import Optim
from convnext.runtime.precision import autocast, resolve_precision
from convnext.runtime.world import World

WORLD = World(torch.device("cpu"))


def mean_square(model, batch):
    return {"loss": model(batch).square().mean()}


def make(loss=mean_square, **options):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = make_optimizer(model, Optim(lr=0.1))
    ema = MovingAverage(model, 0.5)
    return model, optimizer, ema, Step(model, loss, optimizer, WORLD, ema=ema, **options)


def snapshot(model, optimizer, ema):
    state = {**model.state_dict(), **{f"ema.{k}": v for k, v in ema.module.state_dict().items()}}
    return {k: v.clone() for k, v in (state | optimizer_tensors(optimizer)).items()}


def test_accumulated_micro_batches_equal_one_batch():
    batch = torch.randn(8, 4)
    model, _, _, step = make()
    step([batch], 1, (0,))
    other, _, _, other_step = make()
    other_step(list(batch.split(2)), 4, (0,))
    torch.testing.assert_close(model.weight, other.weight)  # sums in another order: not to the bit


def test_returns_norm_skipped_and_loss():
    model, _, _, step = make()
    batch = torch.randn(8, 4)
    twin = copy.deepcopy(model)
    expected = mean_square(twin, batch)["loss"]
    expected.backward()
    norm = torch.stack([p.grad.norm() for p in twin.parameters()]).norm()
    got, skipped, loss = step([batch], 1, (0,)).tolist()
    assert loss == pytest.approx(expected.item())
    assert got == pytest.approx(norm.item())
    assert skipped == 0


def test_several_losses_are_summed_and_told_apart():
    def two(model, batch):
        out = model(batch)
        return {"square": out.square().mean(), "absolute": out.abs().mean()}

    def one(model, batch):
        return {"loss": sum(two(model, batch).values())}

    batch = torch.randn(8, 4)
    model, _, _, step = make(two)
    other, _, _, other_step = make(one)
    *_, square, absolute = step([batch], 1, (0,)).tolist()
    assert other_step([batch], 1, (0,))[2].item() == pytest.approx(square + absolute)
    assert torch.equal(model.weight, other.weight)
    assert step.names == ["square", "absolute"]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_non_finite_step_changes_nothing(poison, precision):
    def loss(model, batch):
        value = mean_square(model, batch)["loss"]
        if batch[0, 0] < 1e3:
            return {"loss": value}
        if poison == "loss":
            return {"loss": value * float("inf")}
        return {"loss": value + (model.weight[0, 0] - model.weight[0, 0]).sqrt()}

    model, optimizer, ema, step = make(loss, precision=precision)
    step([torch.randn(8, 4)], 1, (0,))
    before = snapshot(model, optimizer, ema)
    bad = torch.randn(8, 4)
    bad[0, 0] = 1e4
    assert step([bad], 1, (1,))[1] == 1
    after = snapshot(model, optimizer, ema)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert step([torch.randn(8, 4)], 1, (2,))[1] == 0
    assert not torch.equal(model.weight, before["weight"])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_clipping_holds_in_every_precision(precision):
    """AdamW divides the gradient's size away, so look at its first moment: (1 - beta1) times the clipped gradient."""
    _, optimizer, _, step = make(precision=precision, clip_grad=0.01)
    if step.loss_scale:
        step.loss_scale.scale.fill_(64.0)  # at the initial 65536 this batch overflows, rightly
    norm = step([10 * torch.randn(8, 4)], 1, (0,))[0]
    assert norm > 1
    moments = [v for k, v in optimizer_tensors(optimizer).items() if k.startswith("exp_avg.")]
    clipped = torch.stack([m.norm() for m in moments]).norm() / 0.1
    assert clipped.item() == pytest.approx(0.01, rel=1e-3)


def test_randomness_is_a_function_of_the_keys():
    def noisy(model, batch):
        return {"loss": (model(batch) * torch.rand(3)).square().mean()}

    batch = torch.randn(8, 4)
    results = []
    for keys in ((0, 1), (0, 1), (0, 2)):
        torch.rand(5)  # whatever was drawn before
        _, _, _, step = make(noisy)
        results.append(step([batch], 1, keys)[2].item())
    assert results[0] == results[1] != results[2]


def test_loss_scale_halves_and_doubles():
    scale = LossScale.on(torch.device("cpu"))
    scale.update(torch.tensor(1.0))
    assert scale.scale == 32768
    scale.good_steps.fill_(1999)
    scale.update(torch.tensor(0.0))
    assert scale.scale == 65536
    assert scale.good_steps == 0


def test_precision_names():
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"
    with autocast("bf16", torch.device("cpu")):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_skipped_step_leaves_the_statistics_of_batch_norm_and_their_average(value):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer, ema = make_optimizer(model, Optim(lr=0.1)), MovingAverage(model, 0.5)
    step = Step(model, mean_square, optimizer, WORLD, ema=ema)
    good, bad = torch.randn(2, 8, 4)
    bad[0, 0] = value
    step([good, good], 2, (0,))
    before = snapshot(model, optimizer, ema)
    _, skipped, _ = step([good, bad], 2, (1,)).tolist()
    after = snapshot(model, optimizer, ema)
    assert skipped == 1
    assert {name for name in before if not torch.equal(before[name], after[name])} == set()
    step([good, good], 2, (2,))
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])

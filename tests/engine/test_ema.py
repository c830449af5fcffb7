import torch
from torch import nn

from convnext.engine.ema import MovingAverage

ZERO, ONE = torch.tensor(0.0), torch.tensor(1.0)


def test_follows_parameters_and_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = MovingAverage(model, 0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
        model[1].running_mean.add_(2.0)
        model[1].num_batches_tracked.add_(7)
    ema.update(ZERO)
    after = ema.module.state_dict()
    torch.testing.assert_close(after["0.weight"], before["0.weight"] + 0.1)
    torch.testing.assert_close(after["1.running_mean"], before["1.running_mean"] + 0.2)
    assert after["1.num_batches_tracked"] == 7


def test_a_skipped_step_leaves_it_alone():
    model = nn.Linear(2, 2)
    ema = MovingAverage(model, 0.9)
    before = ema.module.weight.clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(ONE)
    assert torch.equal(ema.module.weight, before)


def test_its_parameters_are_its_own_and_need_no_gradient():
    model = nn.Linear(2, 2)
    ema = MovingAverage(model, 0.9)
    assert ema.module.weight.data_ptr() != model.weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert model.weight.requires_grad

"""CUDA graphs on a device: the training step, and deployed models."""

import pytest
import torch

from convnext import models
from convnext.engine.graphed import GraphedStep
from convnext.engine.optim import lr_to_device
from convnext.engine.step import Step
from convnext.runtime import graphs
from engine.test_graphed import make, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_replays_are_the_steps(precision):
    plain, optimizer, state = make(Step, "cuda", precision)
    lr_to_device(optimizer, torch.device("cuda"))
    expected = train(plain, optimizer, state, "cuda")
    step, optimizer, state = make(GraphedStep, "cuda", precision)
    step.recorded, step.aside = graphs.recorded, graphs.aside
    found = train(step, optimizer, state, "cuda")
    assert step.replay is not None
    for (result, tensors), (other, others) in zip(found, expected, strict=True):
        torch.testing.assert_close(result, other, rtol=1e-3, atol=1e-4, equal_nan=True)
        for key, value in others.items():
            torch.testing.assert_close(tensors[key], value, rtol=1e-3, atol=1e-3, msg=key)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_deployed_model_replays(precision):
    model = models.build("convnext_atto", layer_scale_init_value=1.0).cuda()
    plain, fast = model.deploy(precision), model.deploy(precision, cuda_graphs=True)
    for shape in ((1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 64, 64)):
        x, y = (torch.randn(shape, device="cuda") for _ in range(2))
        first, second = fast(x), fast(y)
        torch.testing.assert_close(first, plain(x))
        torch.testing.assert_close(second, plain(y))

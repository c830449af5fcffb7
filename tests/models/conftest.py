import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convnext import models


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def on_meta():
    """Build a model by name without memory for its weights."""

    def build(name, **options):
        with torch.device("meta"):
            return models.build(name, **options).eval()

    return build


@pytest.fixture
def macs():
    """Count multiply-accumulates of a meta model for one square image: the paper's "FLOPs"."""

    def count(model, side=224):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, side, side, device="meta"))
        assert counter.get_total_flops() % 2 == 0
        return counter.get_total_flops() // 2

    return count


@pytest.fixture
def params():
    """Count parameters."""
    return lambda model: sum(p.numel() for p in model.parameters())

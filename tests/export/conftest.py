"""Small models with blocks that count: at the paper's LayerScale of 1e-6 a fresh block would hide any mistake."""

import pytest
import torch
from small_models import classifier_of

from convnext import create_model
from convnext.data.pixels import DensePreprocess
from convnext.data.shapes import SEMANTIC
from convnext.models.convnext import ConvNeXt
from convnext.task.spec import Loaded


@pytest.fixture(scope="session")
def classifier() -> Loaded:
    torch.manual_seed(0)
    return classifier_of(ConvNeXt((1, 1, 2, 1), (8, 16, 24, 32), num_classes=5, layer_scale_init_value=1.0))


@pytest.fixture(scope="session")
def segmenter() -> Loaded:
    torch.manual_seed(0)
    options = {"num_classes": 4, "channels": 16, "auxiliary_channels": 8, "layer_scale_init_value": 1.0}
    model = create_model("upernet_convnext_atto", **options).eval()
    return Loaded(model, list(SEMANTIC), list(SEMANTIC), DensePreprocess(64, 256, crop=64), "a test")

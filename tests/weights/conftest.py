import pytest

import oracle
from convnext import models


@pytest.fixture
def random_model():
    """Build a model by name, every parameter of it random, LayerScale and norms too."""

    def build(name, seed=0, **options):
        model = models.build(name, **options).eval()
        model.load_state_dict({key: oracle.weight(key, t.shape, seed) for key, t in model.state_dict().items()})
        return model

    return build

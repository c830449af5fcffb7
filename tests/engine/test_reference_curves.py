"""Thirty steps beside the reference's own training loop: equal weights and batches give equal losses, to 1e-5."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import oracle
from convnext.engine import optim
from convnext.engine.ema import MovingAverage
from convnext.engine.schedule import learning_rate
from convnext.engine.step import Step
from convnext.models.convnext import ConvNeXt
from convnext.recipes.schema import Optim
from convnext.runtime.world import World

STEPS, WARM_UP, BATCH, CLASSES = 30, 5, 8, 10
ATTO, DEEP = ((2, 2, 6, 2), (40, 80, 160, 320)), ((1, 1, 27, 1), (16, 32, 64, 128))
CASES = {  # file: architecture, layer decay, EMA, accumulation
    "curve_atto_smoothing_ema_seed40": (ATTO, None, 0.99, 1),
    "curve_deep_layer_decay_seed41": (DEEP, 0.8, 0.9, 1),
    "curve_atto_soft_accumulation_seed42": (ATTO, None, 0.999, 2),
}


def batch(i: int, seed: int, soft: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Micro-batch i: images (8, 3, 64, 64) and labels (8,), or probabilities (8, 10)."""
    images = torch.from_numpy(oracle.draw(f"input{i}", (BATCH, 3, 64, 64), seed))
    if soft:
        return images, torch.from_numpy(2 * oracle.draw(f"target{i}", (BATCH, CLASSES), seed)).softmax(1)
    labels = (np.abs(oracle.draw(f"target{i}", (BATCH,), seed)) * 1000).astype("int64") % CLASSES
    return images, torch.from_numpy(labels)


def drawn(architecture, seed: int) -> ConvNeXt:
    """The reference's initial weights: its parameter names are ours."""
    model = ConvNeXt(*architecture, num_classes=CLASSES)
    model.load_state_dict({name: oracle.weight(name, tuple(v.shape), seed) for name, v in model.state_dict().items()})
    return model.train()


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if "deep" in c else pytest.mark.slow) for c in CASES])
def test_losses_and_weights_are_the_references(case):
    architecture, layer_decay, decay, accumulation = CASES[case]
    expected = np.load(oracle.ORACLES / f"{case}.npz")
    seed, soft, losses = int(case[-2:]), "soft" in case, []
    options = Optim(lr=1e-3, weight_decay=0.05, warmup_epochs=float(WARM_UP), layer_decay=layer_decay)
    schedule = options.schedule(1, STEPS)
    assert np.allclose([learning_rate(schedule, step) for step in range(STEPS)], expected["lr"], rtol=1e-6, atol=1e-12)

    def loss(model, pair):
        value = F.cross_entropy(model(pair[0]), pair[1], label_smoothing=0.0 if soft else 0.1)
        losses.append(value.item())
        return {"loss": value}

    model = drawn(architecture, seed)
    optimizer = optim.make_optimizer(model, options)
    ema = MovingAverage(model, decay)
    step = Step(model, loss, optimizer, World(torch.device("cpu")), ema=ema)
    for number in range(STEPS):
        optim.set_lr(optimizer, learning_rate(schedule, number))
        micro = range(number * accumulation, (number + 1) * accumulation)
        step((batch(i, seed, soft) for i in micro), accumulation, (0, number))
    assert np.abs(np.array(losses) - expected["losses"]).max() < 1e-5
    tensors = {"final": model.state_dict(), "ema": ema.module.state_dict()}
    for key in expected.files:
        which, _, name = key.partition(" ")
        if which in tensors:
            assert tensors[which][name].norm().item() == pytest.approx(float(expected[key]), rel=1e-5), key

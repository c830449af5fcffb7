"""The loop of timm's `train.py` (which its package does not hold), of its own parts, around our network and around timm's."""

import pytest
import timm
import torch
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler, random_seed

import convnext
from convnext.models import convnext as stages
from convnext.weights import timm as names_of_timm
from pictures import draw_classes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZES = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
EPOCHS, BATCH = 2, 8


def trained(model: torch.nn.Module, photos: str, folder) -> list[float]:
    """The losses of all steps; checkpoints are in the folder."""
    random_seed(42, 0)
    cpu = torch.device("cpu")
    loader = create_loader(
        create_dataset("", root=photos, split="train", is_training=True), input_size=(3, 32, 32), batch_size=BATCH,
        is_training=True, re_prob=0.25, auto_augment="rand-m9-mstd0.5-inc1", num_workers=0, use_prefetcher=False, device=cpu,
    )  # fmt: skip
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=2)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, "cosine", EPOCHS, warmup_epochs=1, warmup_lr=1e-5)
    average, scaler, losses = ModelEmaV3(model, decay=0.9), NativeScaler(device="cpu"), []
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=folder, recovery_dir=folder)
    assert epochs == EPOCHS
    for epoch in range(epochs):
        model.train()
        for x, target in loader:
            x, target = mixup(x, target)
            loss = SoftTargetCrossEntropy()(model(x), target)
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            average.update(model)
            losses.append(loss.item())
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch, metric=-loss.item())
    return losses


def test_the_loop_gives_timms_losses_and_its_checkpoint_opens(tmp_path):
    photos = str(draw_classes(tmp_path / "photos/train", {"across": 12, "down": 12}, 32).parent)
    convnext.timm_register()
    torch.manual_seed(0)
    theirs = timm.create_model("convnext_atto", num_classes=2, **SIZES)
    ours = timm.create_model("convnext_atto.ours", num_classes=2, **SIZES)
    ours.load_state_dict(names_of_timm.to_ours(theirs.state_dict()))
    losses = []
    for name, model in (("theirs", theirs), ("ours", ours)):
        (tmp_path / name).mkdir()
        losses.append(trained(model, photos, tmp_path / name))
    assert len(losses[0]) == EPOCHS * 24 // BATCH
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    opened = stages.ConvNeXt(**SIZES, num_classes=2).eval()
    convnext.load_weights(opened, tmp_path / "ours" / "last.pth.tar", which="raw")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(opened(x), ours.eval()(x), atol=1e-6)

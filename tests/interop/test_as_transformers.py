"""Our classifiers in transformers' pipelines and Trainer: the answers of `Trained.predict`, and training that learns."""

import numpy as np
import pytest
import torch
from PIL import Image

import convnext
from convnext import models
from convnext.classification.transforms import Preprocess
from convnext.errors import ConvNextError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # whose import takes longest, and whose warnings

CLASSES = ["cat", "dog", "fish", "owl"]
KINDS = {
    "convnext_atto": {"stem_stride": 2},
    "convnext_isotropic_small": {},
    "roadmap_resnet50_layer-norm": {"width_mult": 0.125, "depth_mult": 0.3},
}


def checkpoint(kind: str, folder, preprocess: Preprocess) -> str:
    torch.manual_seed(0)
    model = models.build(kind, num_classes=4, layer_scale_init_value=0.5, **KINDS[kind])
    for p in model.parameters():  # so that images differ
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
    metadata = {"classes": CLASSES, "preprocess": vars(preprocess)}
    return str(convnext.save_weights(model, folder / f"{kind}.safetensors", metadata=metadata))


def pictures(folder) -> list[str]:
    """Three, one of them lying on its side by its EXIF orientation."""
    generator, files = np.random.default_rng(0), []
    for i, (height, width) in enumerate(((60, 90), (90, 60), (64, 64))):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height))
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 0 else 1
        files.append(str(folder / f"{i}.png"))
        coarse.save(files[-1], exif=exif)
    return files


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_answers_as_predict_does(kind, tmp_path):
    from transformers import pipeline

    trained = convnext.load(checkpoint(kind, tmp_path, Preprocess(size=64, crop_ratio=0.8)), precision="fp32")
    files = pictures(tmp_path)
    model, processor = convnext.to_transformers(trained)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    expected = [{each.label: each.probability for each in answer.top(4)} for answer in trained.predict(files)]
    assert max(abs(a - b) for a, b in zip(*(answer.values() for answer in expected[:2]), strict=True)) > 1e-3
    for pipe in (
        pipeline("image-classification", model=model, image_processor=processor),
        pipeline("image-classification", model=str(tmp_path / "saved")),
    ):
        for answers in (pipe(files), pipe([Image.open(file) for file in files], batch_size=3)):
            found = [{each["label"]: each["score"] for each in answer} for answer in answers]
            assert [list(answer) for answer in found] == [list(answer) for answer in expected]
            for one, other in zip(found, expected, strict=True):
                assert one == pytest.approx(other, abs=1e-5)


def test_what_the_wrapper_refuses(tmp_path):
    _, processor = convnext.to_transformers(checkpoint("convnext_atto", tmp_path, Preprocess.for_size(32)))
    with pytest.raises(ConvNextError, match="has no options do_resize"):
        processor(Image.new("RGB", (40, 40)), do_resize=False)
    with pytest.raises(ConvNextError):
        convnext.to_transformers(tmp_path / "nothing")


@pytest.mark.slow
def test_the_trainer_trains_and_continues(tmp_path):
    """HF's Trainer with gradient checkpointing and accumulation, as its users write it, and its checkpoint."""
    from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

    model, _ = convnext.to_transformers(checkpoint("convnext_atto", tmp_path, Preprocess.for_size(32)))
    generator = torch.Generator().manual_seed(0)
    rows = [{"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": i % 4} for i in range(16)]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        gradient_checkpointing=True, learning_rate=1e-3, logging_steps=1, save_steps=3, report_to=[], use_cpu=True,
        seed=0, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-6").eval()
    x = torch.stack([row["pixel_values"] for row in rows])
    with torch.no_grad():
        assert torch.equal(again(x).logits, model.eval()(x).logits)
    resumed = Trainer(
        model=AutoModelForImageClassification.from_config(again.config), args=arguments, train_dataset=rows
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.state.global_step == 6
    with torch.no_grad():
        assert torch.allclose(resumed.model.eval()(x).logits, again(x).logits, atol=1e-4)


@pytest.mark.slow
def test_another_number_of_labels(tmp_path):
    """As fine-tuning scripts open a checkpoint: the head is fresh, all else the checkpoint's."""
    from transformers import AutoModelForImageClassification

    model, _ = convnext.to_transformers(checkpoint("convnext_atto", tmp_path, Preprocess.for_size(32)))
    model.save_pretrained(tmp_path / "saved")
    other = AutoModelForImageClassification.from_pretrained(
        tmp_path / "saved", num_labels=9, ignore_mismatched_sizes=True
    )
    x = torch.randn(2, 3, 32, 32)
    assert other(x, labels=torch.tensor([0, 8])).logits.shape == (2, 9)
    assert torch.equal(other.network.stages[0][0].dwconv.weight, model.network.stages[0][0].dwconv.weight)
    assert 0 < other.network.head.weight.std() < 0.1

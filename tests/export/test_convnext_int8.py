"""The format convnext-int8: the answers of the checkpoint, damage noticed, and what runs where int8 is missing."""

from typing import Any

import pytest
import torch
from small_models import classifier_of, exported

import convnext
from convnext import create_model
from convnext.data.pixels import DensePreprocess
from convnext.detection.spec import SPEC as DETECTION
from convnext.errors import ConvNextError
from convnext.export import convnext_int8, formats
from convnext.export.images import drawn
from convnext.export.runtime import open_exported, read_metadata
from convnext.models.int8 import Int8Block
from convnext.models.sparing import error
from convnext.ops import onednn_int8
from convnext.segmentation.spec import SPEC as SEGMENTATION
from convnext.task.compare import Tolerance
from convnext.task.spec import Loaded
from convnext.weights import files
from convnext.weights.digest import digest

pytestmark = pytest.mark.skipif(bool(onednn_int8.lacking()), reason="no int8 products here")
FORMAT = convnext_int8.NAME
LOST = 0.01  # of the mean square of the logits; 8 bits lose about 0.001


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return classifier_of(create_model("convnext_atto", num_classes=5, layer_scale_init_value=1.0), 32)


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "m.int8.safetensors"
    report = exported(
        trained, path, FORMAT, "int8", images=drawn(32, 4), calibration=drawn(32, 4), tolerance=Tolerance(None, 50)
    )
    assert report.metadata.kept == []
    return path


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_file_answers_as_its_checkpoint(file, trained, images):
    opened = open_exported(file)
    with torch.no_grad():
        assert error([trained.module(images)], [opened.loaded.module(images)]) < LOST
    assert opened.loaded.classes == trained.classes
    assert opened.loaded.module.note == ""
    assert file.stat().st_size < 0.4 * sum(p.numel() * 4 for p in trained.module.parameters())


def test_it_is_opened_by_its_name(file, images):
    model = convnext.load(file, precision="int8")
    assert (model.precision, model.is_exported, model.device.type) == ("int8", True, "cpu")
    with pytest.raises(ConvNextError, match="its own precision"):
        convnext.load(file, precision="bf16")
    assert model.predict(images[0].sigmoid()).probabilities.shape == (5,)


def test_what_is_read_is_what_was_written(file, trained):
    network = convnext_int8.read(file, read_metadata(file))
    blocks = [name for name, _ in trained.module.named_modules() if name.endswith(".dwconv")]
    assert len(network.rounded) == len(blocks)
    again = file.with_name("again.int8.safetensors")
    convnext_int8.save(network, again, read_metadata(file))
    assert convnext_int8.read(again, read_metadata(again)).rounded.keys() == network.rounded.keys()
    first, second = (files.read(path)[0] for path in (file, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    runs = network.runnable()
    assert sum(isinstance(m, Int8Block) for m in runs.modules()) == len(blocks)


def test_without_the_operators_the_weights_become_numbers(file, trained, images, monkeypatch):
    monkeypatch.setattr(onednn_int8, "_lacking", "int8 needs a better processor.")
    module = open_exported(file).loaded.module
    assert str(module.note).startswith("int8 needs a better processor. So the file's weights compute in ")
    with torch.no_grad():
        assert error([trained.module(images)], [module(images)]) < LOST
    with pytest.raises(ConvNextError, match="better processor. Export on a machine that has it"):
        exported(trained, file.with_name("n.int8.safetensors"), FORMAT, "int8", calibration=drawn(64, 1))


def test_a_flipped_byte_is_noticed(file, tmp_path):
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    damaged = tmp_path / "d.int8.safetensors"
    damaged.write_bytes(content)
    with pytest.raises(ConvNextError, match="damaged"):
        open_exported(damaged)


STEM = "model.stages.0.0"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(f"{STEM}.pwconv1.input"),
        lambda t: t.pop(f"{STEM}.pwconv2.weight"),
        lambda t: t.pop("model.head.bias"),
        lambda t: t.update({f"{STEM}.pwconv1.input": torch.tensor([0.1, 300.0], dtype=torch.float64)}),
        lambda t: t.update({f"{STEM}.pwconv1.input": torch.tensor([0.1, 0.5], dtype=torch.float64)}),
        lambda t: t.update({f"{STEM}.pwconv1.input": torch.tensor([float("nan"), 3.0], dtype=torch.float64)}),
        lambda t: t.update({f"{STEM}.pwconv1.input": torch.zeros(7, dtype=torch.float64)}),
        lambda t: t.update({f"{STEM}.pwconv1.scale": torch.full((160,), torch.inf)}),
        lambda t: t.update({f"{STEM}.pwconv1.weight": torch.zeros(160, 80, dtype=torch.int8)}),
        lambda t: t.update({f"{STEM}.pwconv1.weight": torch.zeros(160, 40)}),
        lambda t: t.update({f"{STEM}.factors": torch.zeros(40)}),
        lambda t: t.update({"model.stages.9.0.scale": torch.zeros(40)}),
        lambda t: t.update({f"{STEM}.dwconv.weight": torch.zeros(40, 1, 5, 5)}),
    ],
)
def test_tensors_that_do_not_belong_are_refused(change, file, tmp_path):
    tensors, text = files.read(file)
    assert text is not None
    change(tensors)
    wrong = tmp_path / "w.int8.safetensors"
    files.write_safetensors(wrong, tensors, {"format": "pt", "convnext": text, "sha256": digest(tensors, text)})
    with pytest.raises(ConvNextError, match="is not what the model that it names has"):
        open_exported(wrong)


def test_a_renamed_file_is_told(file, tmp_path):
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(file.read_bytes())
    with pytest.raises(ConvNextError, match=r"ended in \.int8\.safetensors"):
        convnext.load(renamed)


def test_models_without_a_name_are_refused(classifier, tmp_path):
    with pytest.raises(ConvNextError, match="builds by its name, and ConvNeXt has none"):
        exported(classifier, tmp_path / "m.int8.safetensors", FORMAT, "int8", calibration=drawn(64, 1))


def test_the_name_of_the_file_and_its_precision(tmp_path):
    form, precision = formats.choose(FORMAT, None)
    assert (precision, formats.choose("onnx", None)[1]) == ("int8", "fp32")
    assert formats.default_file(tmp_path / "best.safetensors", form, "int8").name == "best.int8.safetensors"
    formats.require_all(form, "int8")  # which asks for no quantiser of somebody else's
    with pytest.raises(ConvNextError, match="not written in fp32"):
        formats.choose(FORMAT, "fp32")


@pytest.mark.slow
def test_a_segmenter_with_its_backbone_in_int8(segmenter, tmp_path):
    path = tmp_path / "s.int8.safetensors"
    spec: Any = SEGMENTATION
    report = exported(
        segmenter, path, FORMAT, "int8", spec, images=drawn(64, 3), calibration=drawn(64, 3),
        tolerance=Tolerance(None, 80),
    )  # fmt: skip
    assert report.comparison.agreement >= 80
    module = open_exported(path).loaded.module
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert error([segmenter.module(x)], [module(x)]) < LOST
    assert segmenter.classes == open_exported(path).loaded.classes


@pytest.mark.slow
def test_a_detector_with_its_backbone_in_int8(tmp_path):
    torch.manual_seed(0)
    spec: Any = DETECTION
    model = create_model("mask_rcnn_convnext_atto", num_classes=3, layer_scale_init_value=1.0).eval()
    trained = Loaded(model, list("abc"), list("abc"), DensePreprocess(96, 128), "a test")
    report = exported(
        trained, tmp_path / "d.int8.safetensors", FORMAT, "int8", spec, images=drawn(96, 2), calibration=drawn(96, 2),
        tolerance=Tolerance(None, 80), batch=1, free_size=True,
    )  # fmt: skip
    module: Any = open_exported(report.file).loaded.module
    assert {key: len(value) for key, value in module.predict(torch.randn(1, 3, 96, 128))[0].items()} == dict.fromkeys(
        ("boxes", "scores", "labels", "masks"), 100
    )

"""Detectors in the formats that carry them: the same things found in pictures of any shape, and in those without any."""

from dataclasses import replace

import pytest
import torch
from small_models import exported as exported_as

from convnext import models
from convnext.data.pixels import DensePreprocess
from convnext.data.shapes import SHAPES
from convnext.detection.categories import category_ids
from convnext.detection.compare import compare_detectors
from convnext.detection.detector import ARCHITECTURES, Detector
from convnext.detection.spec import SPEC
from convnext.errors import ConvNextError
from convnext.export import formats
from convnext.export.images import ImageSet, drawn
from convnext.export.run import describe
from convnext.export.runtime import backend_of, open_exported, opened
from convnext.task.spec import Loaded

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}


def detector_of(kind: str, background: float = 0.0) -> Loaded:
    """A narrow one of random weights, so large that some regions are surely something, unless `background` is."""
    torch.manual_seed(0)
    model = Detector(
        models.build("convnext_atto", num_classes=None, layer_scale_init_value=1.0),
        ARCHITECTURES[kind],
        num_classes=3,
        channels=32,
    )
    with torch.no_grad():
        for head in model.roi_head.box_heads:
            head.fc_cls.weight *= 4
            head.fc_cls.bias[-1] = background
            head.fc_reg.weight *= 20
        model.rpn_head.rpn_cls.weight *= 10
    return Loaded(model.eval(), list(SHAPES), list(SHAPES), DensePreprocess(128, 256), "a test")


def scenes(count: int = 2) -> ImageSet:
    """Drawn pictures, every other one cut to half of its height."""
    whole = drawn(160, count)
    return replace(whole, image=lambda i: whole.image(i).crop((0, 0, 160, 80 if i % 2 else 160)))


def exported(loaded, file, format, precision="fp32", size=None):
    return exported_as(
        loaded, file, format, precision, SPEC, batch=1, size=size, free_size=size is None, images=scenes()
    )


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        pytest.param("mask_rcnn", "onnx", marks=pytest.mark.slow),
        pytest.param("mask_rcnn", "torch-export", marks=pytest.mark.slow),
        pytest.param("mask_rcnn", "openvino", marks=pytest.mark.slow),
        pytest.param("cascade_mask_rcnn", "torch-export", marks=pytest.mark.slow),
        pytest.param("cascade_mask_rcnn", "onnx", marks=pytest.mark.slow),
        pytest.param("cascade_mask_rcnn", "openvino", marks=pytest.mark.slow),
    ],
)
def test_the_same_things_are_found_in_pictures_of_any_size(kind, format, tmp_path):
    trained = detector_of(kind)
    report = exported(trained, tmp_path / f"m{SUFFIXES[format]}", format)
    found = report.comparison
    assert found.agreement == 100
    assert found.found >= 100
    assert found.difference < 1e-5
    assert found.sizes == ((128, 128), (128, 256))
    trained_again = open_exported(report.file, trust=True).loaded
    assert (trained_again.classes, category_ids(trained_again.classes)) == (list(SHAPES), [1, 2, 3])
    batch = torch.randn(2, 3, 160, 128)
    insides, outsides = [(150, 128), (160, 100)], [(75, 64), (320, 200)]
    for got, expected in zip(
        trained_again.module.predict(batch, insides, outsides),
        trained.module.predict(batch, insides, outsides),
        strict=True,
    ):
        assert torch.equal(got["labels"], expected["labels"])
        torch.testing.assert_close(got["scores"], expected["scores"], atol=1e-5, rtol=0)
        torch.testing.assert_close(got["boxes"], expected["boxes"], atol=1e-2, rtol=0)
        assert got["masks"].shape == expected["masks"].shape
        assert (got["masks"] ^ expected["masks"]).float().mean() < 1e-4
    assert "masks" not in trained_again.module.predict(batch[:1], masks="none")[0]


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
def test_nothing_is_found_where_nothing_is(format, tmp_path):
    """Every size inside the graph that depends on the number of things is then 0."""
    trained = detector_of("mask_rcnn", background=20.0)
    file = tmp_path / f"m{SUFFIXES[format]}"
    metadata = describe(SPEC, trained, format, "fp32", batch=1, size=None, smallest=SPEC.smallest_side(trained.module))
    backend_of(format).write(trained.module, file, metadata)
    found = opened(file, metadata).predict(torch.randn(1, 3, 128, 160))[0]
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
        "masks": (0, 128, 160),
    }
    if format == "torch-export":
        with pytest.raises(ConvNextError, match="nothing to compare: give --images"):
            exported(trained, file, format)


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
def test_a_square_that_pictures_are_padded_to(format, tmp_path):
    trained = detector_of("mask_rcnn")
    trained.preprocess = DensePreprocess(128, 128)
    report = exported(trained, tmp_path / f"m{SUFFIXES[format]}", format, size=(128, 128))
    assert report.comparison.agreement == 100
    with pytest.raises(ConvNextError, match="exported for 128 x 128. Export without --image-size"):
        open_exported(report.file, trust=True).loaded.module.predict(torch.zeros(1, 3, 160, 128))


def test_what_is_not_written_for_detectors():
    for format, precision in (("aot-inductor", "fp32"), ("onnx", "int8"), ("torch-export", "bf16")):
        with pytest.raises(ConvNextError, match="A detector is not written as"):
            formats.check_task(*formats.choose(format, precision), SPEC)


def found(**changes):
    """Two things in a picture."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :10, :10] = masks[1, 20:40, 20:40] = True
    return {
        "boxes": boxes,
        "scores": torch.tensor([0.9, 0.3]),
        "labels": torch.tensor([0, 1]),
        "masks": masks,
    } | changes


class Fixed:
    """A detector that always finds the same."""

    def __init__(self, **changes):
        self.found = found(**changes)

    def predict(self, x, image_sizes):
        return [self.found]


def compared(**changes):
    view = lambda i: torch.zeros(3, 64, 64)  # noqa: E731
    return compare_detectors(Fixed(), Fixed(**changes), ["a.jpg"], view, ["cat", "dog"])


def test_a_comparison_says_what_differs():
    limits = SPEC.tolerance("fp32")
    same = compared()
    assert (same.failure(limits), same.found, same.agreement, same.difference) == (None, 4, 100, 0)
    assert same.masks == 100
    other = compared(labels=torch.tensor([0, 0]))
    assert other.agreement == 50
    assert "dog in a.jpg, score 0.300 in PyTorch alone; cat in a.jpg, score 0.300 in the file" in other.failure(limits)
    moved = compared(boxes=found()["boxes"] + torch.tensor([[0.0, 0, 0, 0], [15, 0, 15, 0]]))
    assert moved.agreement == 50
    scored = compared(scores=torch.tensor([0.9, 0.25]))
    assert scored.agreement == 100
    assert "up to 5.00e-02, more than 0.001: dog in a.jpg, 0.300000 in PyTorch and 0.250000" in scored.failure(limits)
    unseen = compared(scores=torch.tensor([0.9, 0.06]))  # below what must be found, but there
    assert (unseen.agreement, unseen.found) == (100, 3)

"""Every format carries every kind of model: the same logits, whatever the number of pictures, at two resolutions."""

import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import classifier_of, exported

from convnext import create_model, extras
from convnext.classification.spec import SPEC as CLASSIFICATION
from convnext.classification.transforms import Preprocess
from convnext.data.find import find_images
from convnext.data.images import decode
from convnext.errors import ConvNextError
from convnext.export import aot, formats
from convnext.export.images import ImageSet, drawn, of_files, spread
from convnext.export.runtime import open_exported, read_metadata
from convnext.models.convnext import ConvNeXt
from convnext.segmentation.sliding import predict_labels
from convnext.segmentation.spec import SPEC as SEGMENTATION
from convnext.tasks import resized

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
LIMIT = 1e-4  # of logits of about 1 in fp32; different kernels come to 1e-6
SMALL = [("onnx", 8), ("onnx", 32), ("onnx", 48), ("openvino", 8), ("openvino", 32)]
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
SIZES = ("convnext_tiny", "convnext_small", "convnext_base")


@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.slow), "torch-export"])
def test_a_classifier_of_any_size_and_number_of_pictures(format, classifier, tmp_path):
    report = exported(classifier, tmp_path / f"m{SUFFIXES[format]}", format, free_size=True)
    assert report.comparison.difference < LIMIT
    assert report.comparison.agreement == 100
    assert report.comparison.sizes == ((64, 64), (96, 96))
    opened = open_exported(report.file, trust=True).loaded.module
    for shape in ((1, 3, 64, 64), (3, 3, 96, 80), (8, 3, 101, 64)):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(opened(x), classifier.module(x), atol=LIMIT, rtol=0)
    with pytest.raises(ConvNextError, match="at least 64 pixels"):
        opened(torch.zeros(1, 3, 32, 64))
    files = {path.suffix for path in tmp_path.iterdir()}
    assert files == {SUFFIXES[format]} | ({".bin"} if format == "openvino" else set())


def stride_8() -> ConvNeXt:
    """A network for images of 8 px, as that of the digits: its stem keeps them as they are."""
    torch.manual_seed(0)
    return ConvNeXt((1, 1, 2, 1), (8, 16, 24, 32), num_classes=5, layer_scale_init_value=1.0, stem_stride=1)


@pytest.mark.slow
@pytest.mark.parametrize(("format", "side"), SMALL)
def test_a_file_of_any_size_takes_the_size_of_its_model(format, side, classifier, tmp_path):
    small = replace(classifier, preprocess=Preprocess.for_size(side)) if side > 8 else classifier_of(stride_8(), side)
    report = exported(small, tmp_path / f"m{SUFFIXES[format]}", format, free_size=True)
    assert report.comparison.sizes[0] == (side, side)
    opened = open_exported(report.file, trust=True).loaded.module
    for height, width in ((side, side), (side, 3 * side), (5 * side, side + 1)):
        x = torch.randn(2, 3, height, width)
        with torch.no_grad():
            torch.testing.assert_close(opened(x), small.module(x), atol=LIMIT, rtol=0)
    with pytest.raises(ConvNextError, match=f"at least {side} pixels"):
        opened(torch.zeros(1, 3, side - 1, side))


def test_the_least_size_of_a_file_is_that_of_its_model_or_the_format_says_why_not(classifier, tmp_path):
    small = replace(classifier, preprocess=Preprocess.for_size(32))
    forms = formats.FORMATS
    sides = [formats.smallest_side(forms["onnx"], CLASSIFICATION, each) for each in (small, classifier)]
    assert sides == [32, 64]
    with pytest.raises(ConvNextError, match="images of 32 px, and files of the format torch-export .* take 64 px"):
        exported(small, tmp_path / "m.pt2", "torch-export", free_size=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_classifier_compiled_by_inductor(classifier, tmp_path):
    report = exported(classifier, tmp_path / "m.aoti.pt2", "aot-inductor", free_size=True)
    assert report.comparison.difference < LIMIT
    again = resized(open_exported(report.file, trust=True), 96).loaded
    x = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(again.module(x), classifier.module(x), atol=LIMIT, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_papers_sizes(name, tmp_path):
    torch.manual_seed(0)
    trained = classifier_of(create_model(name, layer_scale_init_value=1.0))
    report = exported(trained, tmp_path / "m.xml", "openvino", free_size=True)
    assert report.comparison.difference < LIMIT
    assert report.comparison.agreement == 100
    assert len(report.comparison.sizes) == 2


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not PHOTOS.exists(), reason="needs ../shared/data/photos")
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("name", SIZES)
def test_the_papers_sizes_on_photos(name, format, tmp_path):
    torch.manual_seed(0)
    trained = classifier_of(create_model(name, layer_scale_init_value=1.0), 160)
    report = exported(
        trained, tmp_path / f"m{SUFFIXES[format]}", format, images=of_files([str(PHOTOS)], 24), free_size=True
    )
    assert report.comparison.difference < LIMIT
    assert report.comparison.agreement == 100
    assert report.comparison.sizes == ((160, 160), (240, 240))


@pytest.mark.parametrize(
    ("name", "format", "options"),
    [
        pytest.param("convnext_isotropic_small", "onnx", {}, marks=pytest.mark.slow),
        *(
            pytest.param(
                *("roadmap_resnet50_separate-downsampling", format, {"width_mult": 0.125, "depth_mult": 0.34}),
                marks=[pytest.mark.slow] * (format != "onnx"),
            )
            for format in SUFFIXES
        ),
    ],
)
def test_other_networks(name, format, options, tmp_path):
    torch.manual_seed(0)
    trained = classifier_of(create_model(name, num_classes=7, **options))
    assert exported(trained, tmp_path / f"m{SUFFIXES[format]}", format).comparison.difference < LIMIT


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_fixed_number_of_pictures_takes_any_other(format, classifier, tmp_path):
    report = exported(classifier, tmp_path / f"m{SUFFIXES[format]}", format, batch=2)
    opened = open_exported(report.file, trust=True).loaded.module
    assert opened.metadata.batch == 2
    x = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(opened(x), classifier.module(x), atol=LIMIT, rtol=0)
    with pytest.raises(ConvNextError, match="exported for 64 x 64"):
        opened(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ConvNextError, match="--image-size 96"):
        resized(open_exported(report.file, trust=True), 96)


@pytest.mark.parametrize(
    "format", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "torch-export"))]
)
def test_a_segmenter_labels_pictures_as_it_does_in_pytorch(format, segmenter, tmp_path):
    report = exported(segmenter, tmp_path / f"m{SUFFIXES[format]}", format, spec=SEGMENTATION)
    assert report.comparison.difference < LIMIT
    again = open_exported(report.file, trust=True).loaded
    picture = drawn(150, 1).image(0)
    labels = [predict_labels(s.module, picture, s.preprocess, crop=64) for s in (segmenter, again)]
    assert (labels[0] == labels[1]).float().mean() > 0.999
    assert again.module(torch.zeros(1, 3, 40, 64)).shape == (1, 4, 40, 64)


@pytest.mark.parametrize(
    ("format", "precision", "limit"),
    [
        ("onnx", "fp16", 0.01),  # of logits of about 1: weights of 11 bits
        pytest.param("openvino", "fp16", 0.01, marks=pytest.mark.slow),
        ("openvino", "bf16", 0.1),  # 8 bits in every step
        ("torch-export", "bf16", 0.1),
        pytest.param("torch-export", "fp16", 0.02, marks=pytest.mark.slow),
    ],
)
def test_lower_precisions(format, precision, limit, classifier, tmp_path):
    report = exported(classifier, tmp_path / f"m{SUFFIXES[format]}", format, precision)
    assert 0 < report.comparison.difference < limit
    assert read_metadata(report.file).precision == precision


@pytest.mark.slow
def test_half_precision_halves_the_file(classifier, tmp_path):
    sizes = [exported(classifier, tmp_path / f"{p}.onnx", "onnx", p).bytes for p in ("fp32", "fp16")]
    weights = sum(p.numel() for p in classifier.module.parameters() if p.ndim > 1)
    assert sizes[0] - sizes[1] > 1.8 * weights


@pytest.mark.parametrize("format", SUFFIXES)
def test_a_file_says_what_it_is_and_nothing_about_this_machine(format, classifier, tmp_path):
    file = exported(classifier, tmp_path / f"m{SUFFIXES[format]}", format).file
    metadata = read_metadata(file)
    assert (metadata.task, metadata.format, metadata.precision) == ("classification", format, "fp32")
    assert metadata.classes == classifier.classes
    assert open_exported(file, trust=True).loaded.preprocess == classifier.preprocess
    assert metadata.size == (64, 64)
    contents = [file.read_bytes()]
    if format == "torch-export":
        with zipfile.ZipFile(file) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
    home = str(Path(__file__).parents[2]).encode()
    assert not any(home in content for content in contents)


def test_an_onnx_file_has_plain_operators_and_named_axes(classifier, tmp_path):
    import onnx

    proto = onnx.load(exported(classifier, tmp_path / "m.onnx", "onnx", free_size=True).file)
    assert {node.domain for node in proto.graph.node} == {""}
    axes = [axis.dim_param or axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    assert sum(node.op_type == "Conv" for node in proto.graph.node) == 9  # a stem, 5 depthwise, 3 downsampling


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_broken_and_foreign_files(suffix, tmp_path):
    file = tmp_path / f"m{suffix}"
    file.write_bytes(b"nothing of the kind")
    file.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ConvNextError, match=re.escape(file.name)):
        read_metadata(file)


def test_an_archive_of_another_origin(tmp_path):
    file = tmp_path / "m.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/version", "1")
    with pytest.raises(ConvNextError, match="does not say what it is"):
        read_metadata(file)


@pytest.mark.slow
def test_an_openvino_file_without_its_weights(classifier, tmp_path):
    file = exported(classifier, tmp_path / "m.xml", "openvino").file
    file.with_suffix(".bin").unlink()
    with pytest.raises(ConvNextError, match="m.bin must stand beside it"):
        open_exported(file, trust=True)


@pytest.mark.parametrize(
    ("format", "precision", "said"),
    [
        ("onnx", "bf16", "openvino: fp32, fp16, bf16, int8"),
        ("tensorrt", "fp32", "There are: onnx"),
        ("torch-export", "int8", "int8"),
    ],
)
def test_pairs_that_there_are_not(format, precision, said):
    with pytest.raises(ConvNextError, match=said):
        formats.choose(format, precision)


@pytest.mark.parametrize(("module", "extra"), [("onnxscript", "export"), ("openvino", "export"), ("nncf", "int8")])
def test_a_missing_extra_is_named(module, extra, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    format = "onnx" if module == "onnxscript" else "openvino"
    commands = {extras.CLONE: f"uv sync --inexact --extra {extra}", tmp_path: f'pip install "convnext[{extra}]"'}
    for place, command in commands.items():
        monkeypatch.setattr(extras, "CLONE", place)
        with pytest.raises(ConvNextError, match=re.escape(command)):
            formats.require_all(*formats.choose(format, "int8"))


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(aot.shutil, "which", lambda name: None)
    with pytest.raises(ConvNextError, match="no compiler here"):
        aot.check_compiler()


def test_pictures(tmp_path):
    assert spread(10, 5) == [0, 2, 4, 6, 8]
    assert spread(3, 5) == [0, 1, 2]
    for i in range(4):
        drawn(64).image(i).save(tmp_path / f"{i}.png")
    found = of_files([str(tmp_path)], 2)
    assert isinstance(found, ImageSet)
    assert found.names == ("0.png", "2.png")
    assert found.image(1).tobytes() == decode(find_images([str(tmp_path)])[2]).tobytes()

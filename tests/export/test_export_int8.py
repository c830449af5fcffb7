"""int8: trained models keep their answers, and layers that cost too much are found and spared."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from convnext.classification.spec import SPEC
from convnext.errors import ConvNextError
from convnext.export import int8, onnx, openvino
from convnext.export.graph import trace
from convnext.export.images import drawn
from convnext.export.run import describe, export, viewed
from convnext.segmentation.spec import SPEC as SEGMENTATION
from convnext.task.compare import Tolerance

BACKENDS = {"onnx": onnx, "openvino": openvino}


def described(loaded, spec, format):
    return describe(spec, loaded, format, "int8", size=(64, 64), smallest=64)


def viewer(images, loaded, metadata):
    return viewed(images, SPEC.views(loaded, metadata)[0])


@pytest.mark.slow
@pytest.mark.parametrize("format", BACKENDS)
def test_the_layers_of_both_tasks_are_found_again(format, classifier, segmenter):
    for trained, spec in ((classifier, SPEC), (segmenter, SEGMENTATION)):
        metadata = described(trained, spec, format)
        module = trace(trained.module, metadata).module()
        layers = BACKENDS[format].layers(BACKENDS[format].build(trained.module, metadata))
        places = int8._places(module, layers)
        assert len(places) == len(set(places)) == len(layers)


def test_a_network_with_other_layers_is_refused(classifier):
    metadata = described(classifier, SPEC, "onnx")
    module = trace(classifier.module, metadata).module()
    with pytest.raises(ConvNextError, match="not found again"):
        int8._places(module, [("conv", "a", 1), ("linear", "b", 2)])


def test_rounding_to_256_values():
    x = torch.linspace(-1, 3, 1000).reshape(2, 500)
    y = int8.rounded(x, None)
    assert len(y.unique()) == 256
    assert (x - y).abs().max() <= 4 / 255 / 2 + 1e-6
    assert (x - int8.rounded(x, 0)).abs().max() < (x - y).abs().max()  # each row has its own range


def test_the_layer_with_an_outlier_disturbs_most(classifier):
    metadata = described(classifier, SPEC, "onnx")
    trained = replace(classifier, module=deepcopy(classifier.module))
    with torch.no_grad():
        trained.module.stages[2][1].pwconv2.weight[0, 0] = 30.0
    module = trace(trained.module, metadata).module()
    images = torch.stack([viewer(drawn(64), classifier, metadata)(i) for i in range(3)])
    changes = int8.disturbances(module, images)
    names = [int8._name(node) for node in int8._layers(module)]
    assert len(changes) == len(names)
    assert all(change >= 0 for change in changes)
    plain = int8.disturbances(trace(classifier.module, metadata).module(), images)
    k = names.index("stages.2.1.pwconv2")
    assert changes[k] > 10 * plain[k]
    torch.testing.assert_close(int8.disturbances(module, images[:2], batch=2), int8.disturbances(module, images[:2]))


@pytest.mark.slow
def test_layers_are_spared_until_the_agreement_is_there(classifier, tmp_path):
    metadata, said, asked = described(classifier, SPEC, "openvino"), [], []
    view = viewer(drawn(64), classifier, metadata)

    def agreement(network, kept):
        asked.append(kept)
        return 90.0 + len(kept)

    first = 4  # the stem and the three downsampling layers, which always stay
    _, kept = int8.quantize(classifier.module, metadata, [view(i) for i in range(4)], agreement, 96.0, said.append)
    assert [len(names) for names in asked] == [first, first + 1, first + 2]
    assert kept == asked[-1]
    assert set(asked[0]) < set(asked[1]) < set(asked[2])
    assert len(said) == 3
    with pytest.raises(ConvNextError, match="Give more images"):
        int8.quantize(classifier.module, metadata, [view(0)], lambda network, kept: 0.0, 99.0)


@pytest.mark.slow
@pytest.mark.parametrize("format", BACKENDS)
def test_quantised_logits_are_near(format, classifier, tmp_path):
    metadata = described(classifier, SPEC, format)
    file = tmp_path / ("m.onnx" if format == "onnx" else "m.xml")
    report = export(SPEC, classifier, metadata, file, drawn(64), Tolerance(0.1, 80), drawn(64))  # of logits of about 1
    assert report.comparison.difference > 1e-4  # it is quantised
    assert report.metadata.kept == [f"downsample_layers.{k}.{k > 0:d}" for k in range(4)]


def test_int8_without_images(classifier, tmp_path):
    metadata = described(classifier, SPEC, "openvino")
    with pytest.raises(ConvNextError, match="--calibration"):
        export(SPEC, classifier, metadata, tmp_path / "m.xml", drawn(64), Tolerance(None, 99))
    assert list(tmp_path.iterdir()) == []

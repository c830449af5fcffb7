"""A model as `convnext export` would write it: for ONNX Runtime, for OpenVINO in fp32, bf16 and int8, and our own int8."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from convnext.benchmark.configs import Config
from convnext.classification.spec import SPEC
from convnext.export import int8
from convnext.export.formats import FORMATS, require_all
from convnext.export.runtime import backend_of, opened
from convnext.task.exported import Metadata

CALIBRATION = 8  # random images: the speed does not depend on the ranges that they give


@dataclass(frozen=True)
class Runtime:
    """The format of the file, and its precision where that is not the configuration's."""

    format: str
    precision: str | None = None


RUNTIMES = {
    "onnxruntime": Runtime("onnx"),
    "openvino": Runtime("openvino"),
    "openvino-int8": Runtime("openvino", "int8"),
    "convnext-int8": Runtime("convnext-int8", "int8"),
}


def convert(model: nn.Module, config: Config) -> nn.Module:
    """The model in `config.runtime`, for images (B, 3, H, W) of the configuration's batch and size, in fp32.

    Raises:
        ConvNextError: an extra is missing, or the runtime cannot carry the model.
    """
    runtime = RUNTIMES[config.runtime]
    form, precision = FORMATS[runtime.format], runtime.precision or config.precision
    require_all(form, precision)
    classes = [str(i) for i in range(getattr(model, "num_classes", None) or 1000)]
    size = (config.image_size, config.image_size)
    built = {**getattr(model, "config", {}), "num_classes": len(classes)}
    metadata = Metadata(SPEC.name, config.model, form.name, precision, classes, {}, config.batch, size, build=built)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{form.suffix}"
        backend = backend_of(form.name)
        if precision == "int8":
            images = list(torch.randn(CALIBRATION, 3, *size))
            network, _ = int8.quantize(model.eval(), metadata, images, lambda network, kept: 100.0, 0.0)
            backend.save(network, file, metadata)
        else:
            backend.write(model.eval(), file, metadata)
        return opened(file, metadata)

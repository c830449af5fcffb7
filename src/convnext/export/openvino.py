"""OpenVINO: an .xml with its .bin beside it; inputs and outputs are named as in `Metadata`.

On processors that have it, OpenVINO computes in bf16 unless it is told not to: the precision stands in the file's
metadata, and `load` asks for exactly that one.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.extras import require
from convnext.task.exported import KEY, Metadata

HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}


def write(model: nn.Module, file: Path, metadata: Metadata) -> None:
    save(build(model, metadata), file, metadata)


def save(network: Any, file: Path, metadata: Metadata) -> None:
    """Write an ov.Model with its metadata, as `file` and its .bin."""
    network.set_rt_info(metadata.to_json(), [KEY])
    require("openvino", "export").save_model(network, str(file), compress_to_fp16=metadata.precision == "fp16")


def build(model: nn.Module, metadata: Metadata) -> Any:
    """The ov.Model of a model, in fp32."""
    from convnext.export.graph import trace, without_future_warnings  # tracing takes seconds to import

    with without_future_warnings():
        network = require("openvino", "export").convert_model(trace(model, metadata), extension=[_nms()])
    height, width = metadata.size or (-1, -1)
    network.reshape({network.inputs[0]: [metadata.batch or -1, metadata.in_chans, height, width]})
    for ports, names in ((network.inputs, metadata.inputs), (network.outputs, metadata.outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return network


def _nms() -> Any:
    """torchvision's suppression, which OpenVINO's reader of traced graphs does not know."""
    ops = require("openvino.opset13", "export")

    def convert(context: Any) -> list:
        boxes, scores = (ops.unsqueeze(context.get_input(i), axis) for i, axis in ((0, 0), (1, [0, 1])))
        threshold = context.get_values_from_const_input(2)
        kept = ops.non_max_suppression(
            boxes, scores, np.int64(2**31), np.float32(threshold), np.float32(-np.inf), sort_result_descending=True
        )
        return [ops.squeeze(ops.gather(kept.output(0), np.array([2], np.int64), np.int64(1)), 1).output(0)]

    return require("openvino.frontend.pytorch", "export").ConversionExtension("torchvision.nms.default", convert)


def layers(network: Any) -> list[tuple[str, str, int]]:
    """(conv or linear, name, number of weights) of each layer; those of a kind in the order of the traced graph.

    The names begin with those of the traced graph, which count: convolution_3, linear_12.
    """
    kinds = {"Convolution": "conv", "GroupConvolution": "conv", "MatMul": "linear"}
    found = []
    for op in network.get_ops():
        name, kind = op.get_friendly_name(), kinds.get(op.get_type_name())
        if kind:
            number = re.search(r"_(\d+)$", name.partition("/")[0])
            found.append((int(number[1]) if number else 0, kind, name, _weights(op)))
    return [layer[1:] for layer in sorted(found)]


def _weights(op: Any) -> int:
    """The number of values in the constant that an operation has as its second input."""
    node = op.input_value(1).get_node()
    while node.get_type_name() != "Constant" and node.get_input_size():
        node = node.input_value(0).get_node()
    return math.prod(node.get_output_shape(0)) if node.get_type_name() == "Constant" else 0


def load(file: Path, metadata: Metadata) -> Callable[..., list[Tensor]]:
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[metadata.precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = require("openvino", "export").compile_model(_read(file), "CPU", settings)

    def run(*inputs: Tensor) -> list[Tensor]:
        found = compiled({name: x.numpy() for name, x in zip(metadata.inputs, inputs, strict=True)})
        return [torch.from_numpy(found[name]) for name in metadata.outputs]

    return run


def read_metadata(file: Path) -> str | None:
    """The JSON in the file's rt_info."""
    network = _read(file)
    return str(network.get_rt_info([KEY]).value) if network.has_rt_info([KEY]) else None


def _read(file: Path) -> Any:
    if not file.with_suffix(".bin").exists():
        raise ConvNextError(f"{file} has no weights: {file.with_suffix('.bin').name} must stand beside it.")
    try:
        return require("openvino", "export").Core().read_model(str(file))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConvNextError(f"{file} cannot be opened by OpenVINO ({reason}). Export the checkpoint again.") from error

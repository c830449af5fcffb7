"""ONNX: one file for ONNX Runtime and others; inputs and outputs are named as in `Metadata`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.extras import require
from convnext.task.exported import KEY, Metadata

LIMIT = 2**31 - 2**20  # bytes of one protobuf
MATRIX = 2  # dimensions from which a tensor is a weight: in fp16, the vectors stay fp32


def write(model: nn.Module, file: Path, metadata: Metadata) -> None:
    save(build(model, metadata), file, metadata)


def save(proto: Any, file: Path, metadata: Metadata) -> None:
    """Write an ONNX model with its metadata and without what the exporter noted about its own work."""
    bare(proto)
    require("onnx", "export").helper.set_model_props(proto, {KEY: metadata.to_json()})
    file.write_bytes(proto.SerializeToString())


def build(model: nn.Module, metadata: Metadata) -> Any:
    """The onnx.ModelProto of a model in fp32, or with fp16 weights."""
    from convnext.export.graph import trace, without_future_warnings  # tracing takes seconds to import

    for module in ("onnx", "onnxscript"):
        require(module, "export")
    program = trace(model, metadata)
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size > LIMIT:
        raise ConvNextError(
            f"{metadata.model} has {size / 1e9:.1f} GB of weights, and one ONNX file holds 2 GB. Use another format."
        )
    with without_future_warnings():
        exported: Any = torch.onnx.export(
            program,
            (),
            input_names=[*metadata.inputs],
            output_names=[*metadata.outputs],
            dynamo=True,
            verbose=False,
        )
    proto = exported.model_proto
    _name_axes(proto, metadata)
    if metadata.precision == "fp16":
        halve_weights(proto)
    return proto


def _name_axes(proto: Any, metadata: Metadata) -> None:
    """Call free axes batch, height and width, where the tracer calls them s77 and the like."""
    free = [d.dim_param for d in proto.graph.input[0].type.tensor_type.shape.dim]
    names = {symbol: name for symbol, name in zip(free, ("batch", "", "height", "width"), strict=True) if symbol}
    for value in (*proto.graph.input, *proto.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = names.get(
                    axis.dim_param, "objects"
                )  # else: the number of objects that a detector finds
    del proto.graph.value_info[:]  # the sizes inside, which runtimes infer themselves


def bare(proto: Any) -> None:
    """Without the notes of the exporter on every node: they name classes and files, and nothing reads them."""
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")


def halve_weights(proto: Any) -> None:
    """Store the matrices and kernels in fp16 and cast them when the file is loaded: half the size, fp32 arithmetic."""
    onnx = require("onnx", "export")
    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < MATRIX:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + ".fp16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def layers(proto: Any) -> list[tuple[str, str, int]]:
    """(conv or linear, name, number of weights) of each layer; those of a kind in the order of the traced graph."""
    kinds = {"Conv": "conv", "MatMul": "linear", "Gemm": "linear"}
    size = {tensor.name: math.prod(tensor.dims) for tensor in proto.graph.initializer}
    return [
        (kinds[node.op_type], node.name, size.get(node.input[1], 0))
        for node in proto.graph.node
        if node.op_type in kinds
    ]


def load(file: Path, metadata: Metadata) -> Callable[..., list[Tensor]]:
    session = _session(file, optimise=True)

    def run(*inputs: Tensor) -> list[Tensor]:
        given = {name: x.numpy() for name, x in zip(metadata.inputs, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run([*metadata.outputs], given)]

    return run


def read_metadata(file: Path) -> str | None:
    """The JSON in the file's metadata_props."""
    return _session(file, optimise=False).get_modelmeta().custom_metadata_map.get(KEY)


def _session(file: Path, optimise: bool):
    ort = require("onnxruntime", "export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base of their own
        reason = " ".join(str(error).split())[:200]
        raise ConvNextError(
            f"{file} cannot be opened by ONNX Runtime ({reason}). Export the checkpoint again."
        ) from error

"""Post-training quantisation to int8, by NNCF for other runtimes, and which layers to spare when it costs too much.

NNCF measures the range of every activation on calibration images. Only convolutions and linear layers are quantised, with
one range for all channels of an activation. The convolutions that cut a map into patches (stem and downsampling) are not:
they are a few percent of the work, and next to quantised depthwise convolutions OpenVINO 2026.4 computes something else
(docs/log.md). Where the agreement that is then measured falls short, the layers that disturb the logits most when they
alone are rounded stay in fp32 too (`models.sparing`).

Legend: B images, K classes.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from convnext.errors import ConvNextError
from convnext.export.formats import FORMATS, silence_cuda_warning
from convnext.export.graph import trace
from convnext.export.runtime import backend_of
from convnext.extras import require
from convnext.models.sparing import spare
from convnext.task.exported import Metadata

RANKED_ON = 4  # images
SPARED = ("Add", "Multiply", "MVN", "ReduceMean", "Subtract", "Divide", "Mul", "LayerNormalization", "Sub", "Div")
"""Operations between the layers, by their names in OpenVINO and ONNX: their rounding costs more than that of the layers."""
ADVICE = "Give more images that look like those of the task (--calibration), a lower --agreement, or --precision fp16 or bf16."
LAYERS = {torch.ops.aten.conv2d.default: "conv", torch.ops.aten.linear.default: "linear"}


def quantize(
    model: nn.Module,
    metadata: Metadata,
    calibration: Sequence[Tensor],
    agreement: Callable[[Any, list[str]], float],
    goal: float,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Any, list[str]]:
    """The network in the representation of its format, quantised, and the layers that stayed in fp32.

    Args:
        calibration: images (3, H, W) as the model sees them; a few hundred.
        agreement: of such a network, with the list of its fp32 layers, with the model: percent of equal top-1.
        goal: the least agreement.

    Raises:
        ConvNextError: NNCF is not installed, or the goal is not reached with half of the layers in fp32.
    """
    if FORMATS[metadata.format].rebuilt:
        return backend_of(metadata.format).quantize(model, metadata, calibration, agreement, goal, say)
    silence_cuda_warning()
    nncf = require("nncf", "int8")
    advanced = require("nncf.quantization.advanced_parameters", "int8")
    nncf.set_log_level(logging.ERROR)
    backend = backend_of(metadata.format)
    network = backend.build(model, metadata)
    module = trace(model, metadata).module()
    names = [_name(node) for node in _layers(module)]
    places = _places(module, backend.layers(network))
    batch = metadata.batch or 1
    inputs = [
        torch.stack([calibration[(start + i) % len(calibration)] for i in range(batch)])
        for start in range(0, len(calibration), batch)
    ]
    dataset = nncf.Dataset(inputs, lambda x: {"images": x.numpy()})
    patches = [k for k, node in enumerate(_layers(module)) if _cuts_patches(node, module)]

    def kept_names(kept: list[int]) -> list[str]:
        return [names[k] for k in sorted({*patches, *kept})]

    def build(kept: list[int]) -> tuple[Any, float]:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            quantised = nncf.quantize(
                network,
                dataset,
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER,  # moves outliers from activations into weights
                subset_size=len(inputs),
                ignored_scope=nncf.IgnoredScope(
                    names=[places[k] for k in {*patches, *kept}], types=list(SPARED), validate=False
                ),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_quantization_params=advanced.QuantizationParameters(per_channel=False)
                ),
            )
        return quantised, agreement(quantised, kept_names(kept))

    def disturbing() -> list[int]:
        changes = disturbances(module, torch.stack(list(calibration[:RANKED_ON])), metadata.batch)
        return sorted(set(range(len(names))) - {*patches}, key=lambda k: -changes[k])

    def attempt(kept: list[int], reached: float) -> None:
        stay = len(kept_names(kept))
        say(f"int8 with {stay} of {len(names)} layers in fp32: top-1 agrees in {reached:.2f} %.")

    quantised, kept = spare(len(names), build, disturbing, goal, ADVICE, attempt)
    return quantised, kept_names(kept)


@torch.no_grad()
def disturbances(module: nn.Module, images: Tensor, batch: int | None = None) -> list[float]:
    """The mean square change of the logits when one layer alone computes on int8 values, for each layer in order.

    Args:
        module: of a traced program.
        images: (B, 3, H, W); `batch`: how many of them a call takes, None for any number.
    """
    batch = batch or len(images)
    images = images[torch.arange(-(-len(images) // batch) * batch) % len(images)]
    parts = images.split(batch)
    exact = [module(part) for part in parts]
    found = []
    for node in _layers(module):
        rounded = _Rounded(module, node)
        changes = [(rounded.run(part) - plain).square().mean() for part, plain in zip(parts, exact, strict=True)]
        found.append(float(torch.stack(changes).mean()))
    return found


class _Rounded(Interpreter):
    """Runs a graph in which one layer's input and weight are rounded to 8 bits: per tensor and per output channel."""

    def __init__(self, module: nn.Module, layer: Node):
        super().__init__(module)
        self.layer = layer

    def run_node(self, n: Node) -> Any:
        if n is not self.layer:
            return super().run_node(n)
        (x, weight, *rest), options = self.fetch_args_kwargs_from_env(n)
        target: Any = n.target
        return target(rounded(x, None), rounded(weight, 0), *rest, **options)


def rounded(x: Tensor, axis: int | None) -> Tensor:
    """x at 256 evenly spaced values between its extremes, over all of it or for each index of `axis`."""
    dims = [i for i in range(x.ndim) if i != axis]
    low, high = x.amin(dims, keepdim=True).clamp(max=0), x.amax(dims, keepdim=True).clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-12)
    return ((x - low) / step).round() * step + low


def _layers(module: Any) -> list[Node]:
    """The convolutions and linear layers of a traced module, in the order in which they are computed."""
    return [node for node in module.graph.nodes if node.target in LAYERS]


def _cuts_patches(node: Node, module: Any) -> bool:
    """True if a convolution's windows lie side by side: its stride is its kernel's side, and not 1."""
    kernel = module.get_parameter(_weight(node)).shape[2:]
    stride: Any = node.args[3] if len(node.args) > 3 else [1]
    return len(kernel) == 2 and tuple(kernel) == tuple(stride) and kernel[0] > 1


def _name(node: Node) -> str:
    return _weight(node).removeprefix("model.").removesuffix(".weight")


def _weight(node: Node) -> str:
    """The name of the parameter that a layer multiplies with."""
    return str(cast(Node, node.args[1]).target)


def _places(module: Any, layers: Sequence[tuple[str, str, int]]) -> list[str]:
    """The names that a network has for the layers of the traced module; by their kind, order and number of weights.

    Raises:
        ConvNextError: they do not correspond.
    """
    rows = {kind: iter([row for row in layers if row[0] == kind]) for kind in LAYERS.values()}
    found = []
    for node in _layers(module):
        _, name, weights = next(rows[LAYERS[cast(Any, node.target)]], (None, None, -1))
        if weights != module.get_parameter(_weight(node)).numel():
            raise ConvNextError(
                f"The layer {_name(node)} is not found again in the converted network, so int8 cannot spare layers of this "
                "model. Use --format onnx, or --precision fp16."
            )
        found.append(name)
    return found

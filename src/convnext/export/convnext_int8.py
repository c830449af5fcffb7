"""This package's own int8: safetensors with the blocks' rounded layers, for PyTorch on a CPU (`models.int8`).

The file holds the graph that every format is made of (`TaskSpec.graph`): fp32 tensors, and for each of the blocks' linear
layers, beside its bias, an int8 `weight`, its `scale` (N,), and as `input` the step and zero point of what it reads; for each
block whose LayerNorm is smoothed its `factors` (C,). Where a machine cannot multiply bytes the weights become numbers again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convnext import tasks
from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.models.deploy import PRECISIONS, Deployable, choose
from convnext.models.deployed import Deployed
from convnext.models.int8 import RoundedBlock
from convnext.models.quantise import Quantised, installed
from convnext.models.sparing import spare
from convnext.ops import onednn_int8
from convnext.ops.onednn_int8 import HIGHEST, Rounded
from convnext.task.exported import KEY, Metadata
from convnext.weights import files
from convnext.weights.digest import digest

NAME = "convnext-int8"
LAYERS = "pwconv1", "pwconv2"
ADVICE = "Give more images that look like those of the task (--calibration), a lower --agreement, or use bf16."


@dataclass
class Network:
    """A graph on the CPU, and those blocks of it that are in int8, by their names in the graph."""

    graph: nn.Module
    rounded: dict[str, RoundedBlock]

    def runnable(self) -> nn.Module:
        """The graph for inference on this machine, in place; it cannot be saved afterwards."""
        chosen, why = choose("auto", torch.device("cpu"))
        name, backbone = backbone_of(self.graph)
        rounded = {key.removeprefix(f"{name}."): value for key, value in self.rounded.items()}
        if onednn_int8.lacking():
            rounded = {}
        network = installed(backbone, rounded, PRECISIONS[chosen])
        how = ("int8", "asked for") if rounded else (chosen, why)
        self.graph.set_submodule(name, Deployed(network, *how, PRECISIONS[chosen]))
        return self.graph.eval()


def backbone_of(graph: nn.Module) -> tuple[str, nn.Module]:
    """The ConvNeXt in a graph, with its name there.

    Raises:
        ConvNextError: there is none.
    """
    found = next(((name, part) for name, part in graph.named_modules() if isinstance(part, Deployable)), None)
    if found is None:
        raise ConvNextError(f"The format {NAME} is for ConvNeXts, and this model is none. Use openvino or onnx.")
    return found


def quantize(
    model: nn.Module,
    metadata: Metadata,
    calibration: Sequence[Tensor],
    agreement: Callable[[Any, list[str]], float],
    goal: float,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Any, list[str]]:
    """The network, quantised, and the blocks that were spared; arguments as those of `export.int8.quantize`.

    Raises:
        ConvNextError: this machine has no int8, the model cannot be built again by a name, has other blocks than ConvNeXt's,
            or the goal is not reached with half of them spared.
    """
    if lacking := onednn_int8.lacking():
        raise ConvNextError(f"{lacking} Export on a machine that has it; the file can be used on any.")
    if not metadata.build:
        raise ConvNextError(
            f"The format {NAME} needs a model that `convnext.create_model` builds by its name, and {metadata.model} has "
            "none. Use openvino or onnx, or `model.deploy('int8', calibration=images)`."
        )
    graph = tasks.get(metadata.task).graph(model, torch.float32)
    name, backbone = backbone_of(graph)
    made = Quantised(backbone, calibration)

    def names(kept: Sequence[int]) -> list[str]:
        return [made.names[k] for k in sorted(kept)]

    def build(kept: list[int]) -> tuple[Network, float]:
        spared = names(kept)
        rounded = {f"{name}.{block}": r for block, r in made.rounded.items() if block not in spared}
        network = Network(graph, rounded)
        return network, agreement(network, spared)

    def attempt(kept: list[int], reached: float) -> None:
        say(f"int8 with {len(kept)} of {len(made.names)} blocks spared: top-1 agrees in {reached:.2f} %.")

    network, kept = spare(len(made.names), build, made.disturbances, goal, ADVICE, attempt)
    return network, names(kept)


def save(network: Network, file: Path, metadata: Metadata) -> None:
    """Write the tensors with the metadata and a digest over both."""
    tensors = network.graph.state_dict()
    for block, rounded in network.rounded.items():
        for layer, name in zip((rounded.first, rounded.last), LAYERS, strict=True):
            plain, stem = layer.plain(), f"{block}.{name}"
            tensors |= {f"{stem}.weight": plain.weight, f"{stem}.scale": plain.scale, f"{stem}.bias": plain.bias}
            tensors[f"{stem}.input"] = torch.tensor([plain.step, plain.zero], dtype=torch.float64)
        if rounded.factors is not None:
            tensors[f"{block}.factors"] = rounded.factors
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = metadata.to_json()
    files.write_safetensors(file, tensors, {"format": "pt", KEY: text, files.DIGEST_KEY: digest(tensors, text)})


def read_metadata(file: Path) -> str | None:
    """The JSON in the file's header; the weights are not read."""
    return files.read_header(file)


def load(file: Path, metadata: Metadata) -> Callable[..., Sequence[Tensor]]:
    graph = read(file, metadata).runnable()
    return graph if len(metadata.outputs) > 1 else lambda images: [graph(images)]


def note() -> str:
    """A sentence about how files compute on this machine, if not in int8."""
    lacking = onednn_int8.lacking()
    return f"{lacking} So the file's weights compute in {choose('auto', torch.device('cpu'))[0]}." if lacking else ""


@torch.no_grad()
def read(file: Path, metadata: Metadata) -> Network:
    """The graph and the rounded layers in a file.

    Raises:
        ConvNextError: the file is damaged, or its tensors are not those of the model that it names.
    """
    tensors, _ = files.read(file)
    files.check_tensors(file, tensors)
    spec = tasks.get(metadata.task)
    graph = spec.graph(spec.build(**metadata.build).eval(), torch.float32)
    rounded = {}
    for name, block in graph.named_modules():
        if isinstance(block, Block) and f"{name}.{LAYERS[0]}.scale" in tensors:
            first, last = (_layer(file, tensors, f"{name}.{layer}") for layer in LAYERS)
            factors = tensors.pop(f"{name}.factors", None)
            rounded[name] = RoundedBlock(first, last, factors)
            _check(file, name, rounded[name], block)
            block.pwconv1.weight.data, block.pwconv2.weight.data = _numbers(rounded[name])
            tensors |= {f"{name}.{layer}.weight": block.get_parameter(f"{layer}.weight") for layer in LAYERS}
    own = graph.state_dict()
    wrong = [
        name
        for name in {*own, *tensors}
        if name not in own or name not in tensors or not _alike(own[name], tensors[name])
    ]
    if wrong:
        raise _unfit(file, min(wrong))
    graph.load_state_dict(tensors)
    return Network(graph, rounded)


def _layer(file: Path, tensors: dict[str, Tensor], name: str) -> Rounded:
    """One of a block's layers, taken out of `tensors` but for the bias."""
    try:
        weight, scale, read = (tensors.pop(f"{name}.{part}") for part in ("weight", "scale", "input"))
        bias = tensors[f"{name}.bias"]
    except KeyError as error:
        raise _unfit(file, str(error.args[0])) from None
    sound = weight.dtype == torch.int8 and weight.ndim == 2 and read.dtype == torch.float64 and read.shape == (2,)
    for t in (scale, bias):
        sound = sound and t.dtype == torch.float32 and t.shape == weight.shape[:1] and bool(t.isfinite().all())
    step, zero = (float(value) for value in read) if read.shape == (2,) else (0.0, -1.0)
    if not (sound and 0 < step < float("inf") and zero in range(HIGHEST + 1)):
        raise _unfit(file, name)
    return Rounded(weight, scale, bias, step, int(zero))


def _check(file: Path, name: str, rounded: RoundedBlock, block: Block) -> None:
    """Raises ConvNextError where the layers are not of this block's shape."""
    shapes = block.pwconv1.weight.shape, block.pwconv2.weight.shape
    factors = rounded.factors
    if (rounded.first.weight.shape, rounded.last.weight.shape) != shapes or (
        factors is not None
        and not (factors.dtype == torch.float32 and factors.shape == shapes[1][:1] and bool((factors > 0).all()))
    ):
        raise _unfit(file, name)


def _numbers(rounded: RoundedBlock) -> tuple[Tensor, Tensor]:
    """The weights of the two layers in fp32, without the factors."""
    first = rounded.first.dequantised()
    return first if rounded.factors is None else first * rounded.factors, rounded.last.dequantised()


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)


def _unfit(file: Path, name: str) -> ConvNextError:
    return ConvNextError(
        f"{file} cannot be used: {name!r} in it is not what the model that it names has. It is damaged or was put together "
        "from two; export the checkpoint again."
    )

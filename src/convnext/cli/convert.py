"""`convnext convert IN OUT --format F`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from convnext.cli.parsing import parse
from convnext.console import stdout
from convnext.errors import ConvNextError
from convnext.weights.fetched import fetched

DESCRIPTION = """Rewrite a checkpoint for another library. The format of the input is told from its names.

    convnext convert convnext_tiny_1k_224_ema.pth tiny.safetensors
    convnext convert runs/quickstart/best.safetensors digits.pth --format timm
    convnext convert convnext_tiny.in1k tiny-hf/ --format transformers"""


@dataclass(frozen=True)
class Arguments:
    input: tyro.conf.Positional[str]
    """A checkpoint file or folder of any known format, or a name of the catalog."""
    output: tyro.conf.Positional[Path]
    """The file to write; for transformers, the folder."""
    format: Literal["safetensors", "official", "timm", "torchvision", "transformers"] = "safetensors"
    """safetensors is ours: the weights with the preprocessing and class names."""
    weights: Literal["auto", "raw", "ema"] = "auto"
    """Which weights of a training checkpoint that holds both."""
    overwrite: bool = False
    """Replace an output that is there already; the input itself is never replaced."""


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "convert", DESCRIPTION)

    from convnext import tasks
    from convnext.weights.load import read_checkpoint
    from convnext.weights.save import save_weights

    source, output = Path(arguments.input), arguments.output
    if output.exists() and source.exists() and output.samefile(source):
        raise ConvNextError(f"{output} is the input itself. Give another name for the output.")
    occupied = any(output.iterdir()) if output.is_dir() else output.exists()
    if occupied and not arguments.overwrite:
        raise ConvNextError(f"{output} is there already. Give --overwrite to replace it, or another name.")
    checkpoint = read_checkpoint(fetched(arguments.input), arguments.weights)
    if told := checkpoint.metadata.get("model") or tasks.of_checkpoint(checkpoint).identify(checkpoint.tensors):
        checkpoint.metadata |= {"model": told, "num_classes": told.get("num_classes")}
    written = save_weights(checkpoint.tensors, arguments.output, arguments.format, checkpoint.metadata)
    model = (checkpoint.metadata.get("model") or {}).get("name", "a model of unknown size")
    stdout().print(
        f"{arguments.input} ({checkpoint.format}, {model}, {len(checkpoint.tensors)} tensors) -> {written} ({arguments.format})"
    )
    return 0

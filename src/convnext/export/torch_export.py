"""torch.export: the graph and the weights in one .pt2, for `torch.export.load(file).module()(images)`."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.task.exported import KEY, Metadata
from convnext.weights.metadata import LONGEST_TEXT

ENTRY = f"{KEY}.json"


def write(model: nn.Module, file: Path, metadata: Metadata) -> None:
    from convnext.export.graph import DTYPES, trace  # tracing takes seconds to import

    program = trace(model, metadata, DTYPES[metadata.precision])
    torch.export.save(program, file, extra_files={ENTRY: metadata.to_json()})


def load(file: Path, metadata: Metadata) -> Callable[..., Sequence[Tensor]]:
    module = torch.export.load(file).module()
    # not the module itself, which refuses `eval()`
    return module.forward if len(metadata.outputs) > 1 else lambda images: [module(images)]


def read_metadata(file: Path) -> str | None:
    """The JSON in the archive."""
    with zipfile.ZipFile(file) as archive:
        name = next((name for name in archive.namelist() if name.endswith(f"extra/{ENTRY}")), None)
        if name and archive.getinfo(name).file_size > LONGEST_TEXT:
            raise ConvNextError(
                f"The metadata in {file} has more than {LONGEST_TEXT:,} bytes. Export the checkpoint again."
            )
        return archive.read(name).decode() if name else None

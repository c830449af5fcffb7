"""Open an exported file of any format: a module that is called like the model it was made of."""

import importlib
import zipfile
import zlib
from dataclasses import asdict, replace
from pathlib import Path

from convnext import tasks
from convnext.errors import ConvNextError
from convnext.export.formats import FORMATS, of_file
from convnext.task.exported import Exported, Metadata

BACKENDS = {
    "onnx": "onnx",
    "openvino": "openvino",
    "torch-export": "torch_export",
    "aot-inductor": "aot",
    "convnext-int8": "convnext_int8",
}


def backend_of(format: str):
    """The module that writes, loads and reads the metadata of a format."""
    return importlib.import_module(f"convnext.export.{BACKENDS[format]}")


def is_exported(name: str | Path) -> bool:
    """True if a path is that of an exported file, by its suffix."""
    path = Path(name)
    return bool(of_file(path)) and path.is_file()


def read_metadata(name: str | Path) -> Metadata:
    """The metadata of an exported file.

    Raises:
        ConvNextError: the file is damaged, not from `convnext export`, or needs an extra that is not installed.
    """
    file = Path(name)
    try:
        text = backend_of(of_file(file)[0].name).read_metadata(file)
    except (zipfile.BadZipFile, UnicodeDecodeError, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise ConvNextError(
            f"{file} cannot be read: it is damaged or incomplete ({error}). Export the checkpoint again."
        ) from error
    metadata = Metadata.from_json(text, file)
    if metadata.format not in FORMATS:
        raise ConvNextError(
            f"{file} says that its format is {metadata.format!r}, which is none of {', '.join(FORMATS)}."
        )
    if FORMATS[metadata.format] not in of_file(file):
        raise ConvNextError(f"{file} says that its format is {metadata.format}, which no {file.suffix} file has.")
    spec = tasks.get(metadata.task)
    return replace(metadata, inputs=spec.inputs, outputs=spec.outputs, pads=spec.pads)


def open_exported(name: str | Path, trust: bool = False) -> tasks.Opened:
    """The model in an exported file.

    Args:
        trust: open formats that can run code of whoever made them.

    Raises:
        ConvNextError: as `read_metadata`; the format needs `trust`, or the file does not fit this machine.
    """
    file, metadata = Path(name), read_metadata(name)
    if FORMATS[metadata.format].runs_code and not trust:
        raise ConvNextError(
            f"{file} is a file of the format {metadata.format}, which can run code of whoever made it when it is opened. If "
            "you made it or trust its origin, give --trust (in Python trust=True). Files in the formats onnx and openvino, "
            "and checkpoints, hold no code."
        )
    spec = tasks.get(metadata.task)
    return tasks.Opened(spec, spec.load(opened(file, metadata), described(metadata), str(name)))


def opened(file: Path, metadata: Metadata) -> Exported:
    """The module for a file that is described by `metadata`."""
    spec = tasks.get(metadata.task)
    backend = backend_of(metadata.format)
    module = spec.exported(file, metadata, backend.load(file, metadata)).eval()
    module.note = backend.note() if FORMATS[metadata.format].rebuilt else ""
    return module


def described(metadata: Metadata) -> dict:
    """The metadata in the form that a checkpoint has it."""
    return {**asdict(metadata), "split": metadata.data, "data": metadata.data.get("data")}

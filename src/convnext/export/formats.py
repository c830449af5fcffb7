"""The formats of an export: suffix, what each precision means in it, and which packages it needs."""

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext.errors import ConvNextError, nearest


@dataclass(frozen=True)
class Format:
    """Attributes:
    suffix: of the file; what comes before it is free.
    precisions: precision -> what is stored and what is computed in.
    needs: module -> the extra that brings it.
    detectors: the precisions for detectors.
    """

    name: str
    suffix: str
    precisions: dict[str, str]
    needs: dict[str, str]
    detectors: tuple[str, ...]


_ALL = "weights and arithmetic in "
_INT8 = "int8 weights and activations of convolutions and linear layers, the rest fp32"

FORMATS = {
    form.name: form
    for form in (
        Format(
            "onnx",
            ".onnx",
            {"fp32": _ALL + "fp32", "fp16": "weights in fp16, arithmetic in fp32", "int8": _INT8},
            {"onnx": "export", "onnxscript": "export", "onnxruntime": "export"},
            ("fp32", "fp16"),
        ),
        Format(
            "openvino",
            ".xml",
            {
                "fp32": _ALL + "fp32",
                "fp16": "weights in fp16, arithmetic in fp32 on a CPU",
                "bf16": "weights in fp32, arithmetic in bf16",
                "int8": _INT8,
            },
            {"openvino": "export"},
            ("fp32", "fp16", "bf16"),
        ),
        Format(
            "torch-export",
            ".pt2",
            {"fp32": _ALL + "fp32", "bf16": _ALL + "bf16", "fp16": _ALL + "fp16"},
            {},
            ("fp32",),
        ),
        Format(
            "aot-inductor",
            ".pt2",
            {"fp32": _ALL + "fp32", "bf16": _ALL + "bf16", "fp16": _ALL + "fp16"},
            {},
            (),
        ),
    )
}
SUFFIXES = tuple(dict.fromkeys(form.suffix for form in FORMATS.values()))


def choose(name: str, precision: str) -> Format:
    """The format of that name, if it has that precision.

    Raises:
        ConvNextError: there is no such format, or it has no such precision.
    """
    if name not in FORMATS:
        raise ConvNextError(f"There is no format {name!r}.{nearest(name, FORMATS)} There are: {', '.join(FORMATS)}.")
    form = FORMATS[name]
    if precision not in form.precisions:
        pairs = "; ".join(f"{other.name}: {', '.join(other.precisions)}" for other in FORMATS.values())
        raise ConvNextError(f"The format {name} is not written in {precision}. There are {pairs}.")
    return form


def check_detector(form: Format, precision: str) -> None:
    """Raises ConvNextError where a detector is not written in this format and precision."""
    if precision not in form.detectors:
        there = "; ".join(
            f"{other.name}: {', '.join(other.detectors)}" for other in FORMATS.values() if other.detectors
        )
        raise ConvNextError(f"A detector is not written as {form.name} in {precision}. There are {there}.")


def require(module: str, extra: str = "export") -> Any:
    """A module that comes with an extra.

    Raises:
        ConvNextError: it cannot be imported; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConvNextError(
            f'This needs {module}, which cannot be imported ({error}). Install it: pip install "convnext[{extra}]"'
        ) from None


def require_all(form: Format, precision: str) -> None:
    """Every module that a format needs in that precision, before any work is done."""
    for module, extra in form.needs.items():
        require(module, extra)
    if precision == "int8":
        require("nncf", "int8")


def hush() -> None:
    """Have nobody told that there is no CUDA here: what is exported runs on a CPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def default_file(source: Path, form: Format, precision: str) -> Path:
    """Beside the checkpoint: NAME[.PRECISION].onnx, .xml, .pt2, .aoti.pt2."""
    kind = ".aoti" if form.name == "aot-inductor" else ""
    return source.with_name(f"{source.stem}{'' if precision == 'fp32' else '.' + precision}{kind}{form.suffix}")

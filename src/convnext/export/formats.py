"""The formats of an export: suffix, meaning of each precision, and the packages that it needs."""

import logging
from dataclasses import dataclass
from pathlib import Path

from convnext.errors import ConvNextError, nearest
from convnext.extras import require
from convnext.task.spec import Loaded, TaskSpec


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        suffix: of the file; anything may come before it.
        precisions: precision -> types of the stored weights and of the arithmetic.
        needs: module -> the extra that brings it.
        quantiser: module and extra that int8 needs beside.
        rebuilt: True if this package builds the network by its name and runs it, and quantises by its own code.
        runs_code: True if opening a file can run code of whoever made it.
        guarded: True if a file of a free size takes no side below those that it was traced for.
    """

    name: str
    suffix: str
    precisions: dict[str, str]
    needs: dict[str, str]
    quantiser: tuple[str, str] = ("nncf", "int8")
    rebuilt: bool = False
    runs_code: bool = False
    guarded: bool = False


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
        ),
        Format(
            "torch-export",
            ".pt2",
            {"fp32": _ALL + "fp32", "bf16": _ALL + "bf16", "fp16": _ALL + "fp16"},
            {},
            runs_code=True,
            guarded=True,
        ),
        Format(
            "aot-inductor",
            ".pt2",
            {"fp32": _ALL + "fp32", "bf16": _ALL + "bf16", "fp16": _ALL + "fp16"},
            {},
            runs_code=True,
            guarded=True,
        ),
        Format(
            "convnext-int8",
            ".int8.safetensors",
            {
                "int8": "int8 weights and activations of the blocks' linear layers, the rest bf16 or fp32 as the CPU has it"
            },
            {},
            rebuilt=True,
        ),
    )
}


def choose(name: str, precision: str | None) -> tuple[Format, str]:
    """The format of that name, and the precision: that one, or the first that the format has.

    Raises:
        ConvNextError: there is no such format, or it has no such precision.
    """
    if name not in FORMATS:
        raise ConvNextError(f"There is no format {name!r}.{nearest(name, FORMATS)} There are: {', '.join(FORMATS)}.")
    form = FORMATS[name]
    if precision is not None and precision not in form.precisions:
        pairs = "; ".join(f"{other.name}: {', '.join(other.precisions)}" for other in FORMATS.values())
        raise ConvNextError(f"The format {name} is not written in {precision}. There are {pairs}.")
    return form, precision or next(iter(form.precisions))


def check_task(form: Format, precision: str, spec: TaskSpec) -> None:
    """Raises ConvNextError where models of a task are not written in this format and precision."""
    allowed = {other: spec.precisions(other) for other in FORMATS}
    if (here := allowed[form.name]) is not None and precision not in here:
        there = "; ".join(f"{other}: {', '.join(found)}" for other, found in allowed.items() if found)
        raise ConvNextError(f"A {spec.noun} is not written as {form.name} in {precision}. There are {there}.")


def require_all(form: Format, precision: str) -> None:
    """Import every module that a format needs in that precision, before any work is done."""
    for module, extra in form.needs.items():
        require(module, extra)
    if precision == "int8" and not form.rebuilt:
        require(*form.quantiser)


def silence_cuda_warning() -> None:
    """Silence PyTorch's warning about missing CUDA."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def default_file(source: Path, form: Format, precision: str) -> Path:
    """Beside the checkpoint: NAME[.PRECISION].onnx, .xml, .pt2, .aoti.pt2, .int8.safetensors."""
    kind = ".aoti" if form.name == "aot-inductor" else ""
    said = precision == "fp32" or form.suffix.startswith(f".{precision}.")
    return source.with_name(f"{source.stem}{'' if said else '.' + precision}{kind}{form.suffix}")


def of_file(file: Path) -> list[Format]:
    """The formats whose files end like this one."""
    return [form for form in FORMATS.values() if file.name.lower().endswith(form.suffix)]


def smallest_side(form: Format, spec: TaskSpec, loaded: Loaded) -> int:
    """Least side in pixels that a file of a free size takes: the traced one, or the model's own if that is less.

    Raises:
        ConvNextError: the format takes no side as small as the model's own.
    """
    traced, own = spec.smallest_side(loaded.module), spec.side(loaded)
    if own >= traced or spec.pads:
        return traced
    if form.guarded:
        raise ConvNextError(
            f"{loaded.source} is for images of {own} px, and files of the format {form.name} whose size is free take {traced} px "
            "or more. Leave size out of --dynamic, give --format onnx, or another --image-size."
        )
    return own

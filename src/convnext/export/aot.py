"""AOTInductor: the graph compiled to a library for this machine's processor, in one .pt2, which runs without Python too."""

import logging
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError
from convnext.export.formats import silence_cuda_warning
from convnext.export.torch_export import ENTRY, read_metadata
from convnext.task.exported import Metadata

__all__ = ["load", "read_metadata", "write"]


def write(model: nn.Module, file: Path, metadata: Metadata) -> None:
    from convnext.export.graph import DTYPES, trace  # tracing takes seconds to import

    check_compiler()
    program = trace(model, metadata, DTYPES[metadata.precision])
    silence_cuda_warning()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of what the compiler itself imports
        torch._inductor.aoti_compile_and_package(program, package_path=str(file))
    with zipfile.ZipFile(file, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/{ENTRY}", metadata.to_json())


def load(file: Path, metadata: Metadata) -> Callable[..., list[Tensor]]:
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # it warns of CUDA_HOME where there is no GPU
    try:
        compiled = torch._inductor.aoti_load_package(str(file))
    except RuntimeError as error:
        raise ConvNextError(
            f"{file} cannot be loaded: {' '.join(str(error).split())[:200]}. It is compiled for the processor, the system and "
            "the version of PyTorch that it was made with: export the checkpoint again on this machine."
        ) from error
    return lambda images: [compiled(images)]


def check_compiler() -> None:
    """Raises ConvNextError where there is no C++ compiler that Inductor would find."""
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        compiler = get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError):
        compiler = ""
    if not compiler or shutil.which(compiler) is None:
        raise ConvNextError(
            f"aot-inductor compiles C++, and there is no compiler here (looked for {compiler or 'g++ and clang++'}). Install "
            "one, such as the package g++ of a Linux distribution, or name one in the variable CXX. The format torch-export "
            "needs none."
        )

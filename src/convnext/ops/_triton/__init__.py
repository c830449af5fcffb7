"""Triton kernels: imported only when used, so that the package needs no Triton where it has no GPU.

A module with kernels lists in `VARIANTS` the forms of them that the paper's models launch, so that they can be compiled,
and their registers and spills read, without a device (`benchmarks/compile_kernels.py`).
"""

from typing import Any, NamedTuple


class Variant(NamedTuple):
    """One compiled form of one kernel.

    `signature` has the type of every argument that is not constexpr, by name and in order, in Triton's spelling ("*bf16",
    "*fp32", "i32", "i64", "fp32"); `constexprs` has the value of every other argument. Pointers are taken as aligned to
    16 bytes, as those of PyTorch's allocator are; an integer that is a multiple of 16 is written "i32:16" or "i64:16".
    """

    name: str
    function: Any  # what @triton.jit returned
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 2
    measured: bool = (
        False  # taken only where it was measured to be the fastest, so it may be too large for other devices
    )
    registers: int | None = None  # of a thread, at most

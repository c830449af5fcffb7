"""Compile every Triton kernel of the package for three GPU generations, without a GPU, and read what ptxas made of it.

    python benchmarks/compile_kernels.py --out results/compile_kernels.json

Per kernel and architecture: registers per thread, bytes of shared memory per program, bytes of stack per thread. Triton has
no arrays, so a stack above 0 is spilled registers: ptxas prefers to keep a few constants of the outer loops there when this
admits more warps. More than 32 bytes are a sign of spills where the work is done, and the exit status is then 1. A register
count r allows 65536 / (32 r) warps per multiprocessor. About 3 s for each; `--match` takes a part of the names, a regular
expression.
"""

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from convnext.ops import _triton

ARCHITECTURES = (80, 90, 100)  # A100, H100 and H200, B200
STACK_LIMIT = 32
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def variants() -> list[_triton.Variant]:
    """Kernels that the modules of `convnext.ops._triton` list."""
    names = [module.name for module in pkgutil.iter_modules(_triton.__path__)]
    return [v for name in sorted(names) for v in importlib.import_module(f"{_triton.__name__}.{name}").VARIANTS]


def compile_variant(variant: _triton.Variant, architecture: int):
    """Compile one kernel: `asm["ptx"]`, `asm["cubin"]`, `metadata.shared`."""
    types = {name: variant.signature.get(name, "constexpr") for name in variant.function.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, t in enumerate(types.values()) if t.startswith("*") or t.endswith(":16")
    }
    types = {name: t.removesuffix(":16") for name, t in types.items()}
    source = ASTSource(variant.function, types, constexprs=variant.constexprs, attrs=aligned)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and stack of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        run = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", run.stdout + run.stderr)
    return {"registers": int(found[1]), "stack": int(found[2])}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    parser.add_argument("--match", default="", help="only names in which this regular expression is found")
    parser.add_argument("--arch", type=int, nargs="*", default=ARCHITECTURES)
    arguments = parser.parse_args(argv)
    table, spilled = {}, []
    for variant in variants():
        if not re.search(arguments.match, variant.name):
            continue
        row = table[variant.name] = {}
        for architecture in arguments.arch:
            kernel = compile_variant(variant, architecture)
            used = resources(kernel.asm["cubin"])
            row[f"sm_{architecture}"] = [used["registers"], kernel.metadata.shared, used["stack"]]
            spilled += [f"{variant.name} sm_{architecture}"] if used["stack"] > STACK_LIMIT else []
        print(f"{variant.name:50s}", row, flush=True)
    if arguments.out:
        head = {"triton": triton.__version__, "columns": ["registers", "shared bytes", "stack bytes"]}
        rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in table.items())
        arguments.out.write_text(f'{json.dumps(head)[:-1]},\n  "kernels": {{\n{rows}\n  }}\n}}\n')
    if spilled:
        sys.exit(f"more than {STACK_LIMIT} bytes of registers were spilled by {', '.join(spilled)}")


if __name__ == "__main__":
    main()

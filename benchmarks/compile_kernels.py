"""Compile every Triton kernel of the package for four GPU generations, without a GPU, and read what ptxas made of it.

    python benchmarks/compile_kernels.py --out results/compile_kernels.json [--against results/compile_kernels.json]

Per kernel and architecture: registers per thread, bytes of shared memory per program, bytes of stack per thread, programs
that fit onto a multiprocessor, and instructions of the longest inner loop. Triton has no arrays, so a stack above 0 is
spilled registers: ptxas prefers to keep a few constants of the outer loops there when this admits more warps. More than 32
bytes are a sign of spills where the work is done. The exit status is 1 for those, for a kernel that fits onto no
multiprocessor, and for one of which fewer programs fit than `--against` says. About 3 s for each; `--match` takes a part of
the names, a regular expression. Rows that the file has of other kernels and generations stay in it.
Forms that no device of a generation takes are left out there.
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

# KiB of shared memory and warps of a multiprocessor: A100, H100 and H200, B200, consumer devices of that generation
ARCHITECTURES = {80: (164, 64), 90: (228, 64), 100: (228, 64), 120: (100, 48)}
TALL = (90, 100)  # with the shared memory that `_triton.mlp.TALL` asks for
STACK_LIMIT = 32
COLUMNS = (
    "registers",
    "shared bytes",
    "stack bytes",
    "programs per multiprocessor",
    "instructions of the longest loop",
)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def variants() -> list[_triton.Variant]:
    """Kernels that the modules of `convnext.ops._triton` list."""
    names = [module.name for module in pkgutil.iter_modules(_triton.__path__)]
    modules = (importlib.import_module(f"{_triton.__name__}.{name}") for name in sorted(names))
    return [variant for module in modules for variant in getattr(module, "VARIANTS", ())]  # some have parts only


def compile_variant(variant: _triton.Variant, architecture: int):
    """Compile one kernel: `asm["ptx"]`, `asm["cubin"]`, `metadata.shared`."""
    types = {name: variant.signature.get(name, "constexpr") for name in variant.function.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, t in enumerate(types.values()) if t.startswith("*") or t.endswith(":16")
    }
    types = {name: t.removesuffix(":16") for name, t in types.items()}
    source = ASTSource(variant.function, types, constexprs=variant.constexprs, attrs=aligned)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, "enable_fp_fusion": True}
    options |= {"maxnreg": variant.registers} if variant.registers else {}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def resources(cubin: bytes) -> dict[str, int]:
    """Registers and stack of a compiled kernel, and the instructions of its longest loop that holds no other."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        used, code = (
            subprocess.run([CUOBJDUMP, how, file.name], capture_output=True, text=True, check=True).stdout
            for how in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", used)
    return {"registers": int(found[1]), "stack": int(found[2]), "loop": longest_loop(code)}


def longest_loop(sass: str) -> int:
    """Instructions from the target of a branch backwards to the branch, in the longest such piece without another in it."""
    code = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]*);", sass)]
    branches = [(re.search(r"\bBRA\S*\s.*?0x([0-9a-f]+)", text), at) for at, text in code]
    loops = [(int(to[1], 16), at) for to, at in branches if to and int(to[1], 16) < at]
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    return max((sum(a <= at <= b for at, _ in code) for a, b in inner), default=0)


def programs(registers: int, shared: int, warps: int, architecture: int) -> int:
    """How many programs fit onto a multiprocessor; each takes 1 KiB of shared memory more than it asked for."""
    memory, most = ARCHITECTURES[architecture]
    rounded = -(-registers // 8) * 8  # registers are handed out by eights
    return min(65536 // (32 * rounded * warps), (memory << 10) // (shared + 1024), most // warps)


def taken(variant: _triton.Variant, architecture: int, names: set[str]) -> bool:
    """True if the package may launch this form there: no TMA, no persistent ones; little memory, the little ones."""
    if variant.measured:
        return architecture >= 90
    stem, _, width = variant.name.rpartition("_")
    return architecture in TALL or f"{stem}_little_{width}" not in names


def write(table: dict[str, dict[str, list]], path: Path) -> None:
    """Write the rows, a line for each kernel."""
    head = json.dumps({"triton": triton.__version__, "columns": COLUMNS})
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in table.items())
    path.write_text(f'{head[:-1]},\n  "kernels": {{\n{rows}\n  }}\n}}\n')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    parser.add_argument("--match", default="", help="only names in which this regular expression is found")
    parser.add_argument("--arch", type=int, nargs="*", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    parser.add_argument(
        "--against", type=Path, help="an earlier JSON, whose programs per multiprocessor must still fit"
    )
    arguments = parser.parse_args(argv)
    before = json.loads(arguments.against.read_text())["kernels"] if arguments.against else {}
    names = {variant.name for variant in variants()}
    known = json.loads(arguments.out.read_text())["kernels"] if arguments.out and arguments.out.exists() else {}
    table, complaints = {name: row for name, row in known.items() if name in names}, []
    for variant in variants():
        if not re.search(arguments.match, variant.name):
            continue
        row = table.setdefault(variant.name, {})
        for architecture in arguments.arch:
            if not taken(variant, architecture, names):
                row.pop(f"sm_{architecture}", None)
                continue
            kernel = compile_variant(variant, architecture)
            used, shared = resources(kernel.asm["cubin"]), kernel.metadata.shared
            fit = programs(used["registers"], shared, variant.num_warps, architecture)
            each = variant.constexprs.get("BM", 0) * variant.constexprs.get("BH", 0) / (32 * variant.num_warps)
            slots = round(used["loop"] / each, 1) if each else None
            row[f"sm_{architecture}"] = [used["registers"], shared, used["stack"], fit, used["loop"], slots]
            had = before.get(variant.name, {}).get(f"sm_{architecture}", [0] * 4)[3]
            title = f"{variant.name} sm_{architecture}"
            if used["stack"] > STACK_LIMIT:
                complaints.append(f"{title}: {used['stack']} bytes of registers were spilled")
            if not fit and not variant.measured:
                complaints.append(f"{title}: no program fits")
            if fit < had:
                complaints.append(f"{title}: {fit} programs fit onto a multiprocessor, and {had} did")
        print(f"{variant.name:50s}", row, flush=True)
        if arguments.out:
            write(table, arguments.out)
    if complaints:
        sys.exit("\n".join(complaints))


if __name__ == "__main__":
    main()

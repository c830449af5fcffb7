"""The cost of comparing weights with their digest: files of three sizes read with and without it, in turn.

    python benchmarks/digest_cost.py --out results/digest_cost.json

The files are in the system's cache, as on a second use; every byte of the tensors is touched in both cases, as a model's first
forward does. Reported are medians over the rounds. Run it on an idle machine.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from convnext import models
from convnext.benchmark.rows import environment
from convnext.weights import files
from convnext.weights.save import save_weights

SIZES = ("convnext_tiny", "convnext_base", "convnext_large")


def seconds(path: Path, verify: bool) -> float:
    """Of reading a file and touching all of its tensors."""
    began = perf_counter()
    tensors, _ = files.read(path, verify)
    for tensor in tensors.values():
        tensor.sum()
    return perf_counter() - began


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = []
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            path = save_weights(models.build(name), Path(folder) / "x.safetensors")
            size = path.stat().st_size
            times: dict[bool, list[float]] = {True: [], False: []}
            for number in range(arguments.rounds + 1):
                for verify in (True, False) if number % 2 else (False, True):
                    times[verify].append(seconds(path, verify))
        plain, verified = (1e3 * median(times[verify][1:]) for verify in (False, True))  # the first fills the cache
        rows.append(
            {
                "model": name,
                "megabytes": round(size / 1e6),
                "read_ms": round(plain, 1),
                "verified_ms": round(verified, 1),
                "digest_ms": round(verified - plain, 1),
            }
        )
        print(rows[-1])
    result = environment(torch.device("cpu")) | {
        "what": "milliseconds of reading weights, without and with comparing the digest in the file",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

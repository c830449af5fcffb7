"""How evenly the convolution's programs fill a GPU, by orders of its rows: a model without a device.

    python benchmarks/waves.py --out results/waves.json

A multiprocessor has four schedulers that start one instruction a cycle each; a warp alone starts `--rate` of one. Programs
(two warps) are handed out in order to the first multiprocessor with room, and share it. A program's instructions are those
that compile_kernels.py counted of its loops, times the rows that it reads. The result is the time over that of work spread
evenly: 1.00 is full use, and what is over it is waiting at the end. Memory is left out.
"""

import argparse
import heapq
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from convnext.files import to_json

TABLE = Path(__file__).parents[1] / "results/compile_kernels.json"
STAGES = {"stage 0": (96, 56), "stage 1": (192, 28), "stage 2": (384, 14), "stage 3": (768, 7)}  # (channels, side)
EDGE = 0.58  # an input row that one of the two output rows sees, of one that both see: 300 of 516 instructions
CHUNKS = 3  # of the channels of a stage, one after the other
NORM = {96: 111 / 8, 192: 115 / 4, 384: 119 / 2, 768: 122}  # instructions for a column of an output row, all channels
MULTIPROCESSORS = 132  # of an H100 or H200


def order(batch: int, pairs: int, group: int) -> Iterator[int]:
    """Pairs of rows as `_triton.depthwise.place` hands them out; group 0: image by image from the top, as before it."""
    if not group:
        yield from (pair for _ in range(batch) for pair in range(pairs))
        return
    for unit in range(batch * pairs):
        rank = unit % (group * pairs) // group
        yield (pairs - 1) // 2 + (rank + 1) // 2 * (rank % 2 * 2 - 1)


def instructions(pair: int, side: int, main: float, norm: float) -> float:
    """Of the two warps of the program of a pair of rows."""
    y = 2 * pair
    both = min(y + 3, side - 1) - max(y - 2, 0) + 1
    one = (y >= 3) + (y + 4 < side)
    return 2 * (CHUNKS * main * (both + EDGE * one) + norm * side * min(2, side - y))


def time_of(programs: Sequence[float], fit: int, rate: float) -> float:
    """Cycles until all programs are done, of which `fit` share a multiprocessor."""

    def speed(number: int) -> float:  # of one program among so many
        warps = [2 * number // 4 + (i < 2 * number % 4) for i in range(4)]
        return sum(min(1.0, rate * each) for each in warps) / number

    todo = iter(programs)
    resident: list[list[float]] = [[] for _ in range(MULTIPROCESSORS)]
    for each in resident * fit:  # the first wave goes round
        each.extend(next(([work] for work in todo), []))
    now = [0.0] * MULTIPROCESSORS
    ends = [(min(r) / speed(len(r)), i) for i, r in enumerate(resident) if r]
    heapq.heapify(ends)
    end = 0.0
    while ends:
        end, i = heapq.heappop(ends)
        done = (end - now[i]) * speed(len(resident[i]))
        left = [work - done for work in resident[i] if work - done > 1e-6]
        left += [work for _ in range(len(resident[i]) - len(left)) for work in next(([w] for w in todo), [])]
        resident[i], now[i] = left, end
        if left:
            heapq.heappush(ends, (end + min(left) / speed(len(left)), i))
    return end


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--rate", type=float, default=0.6, help="instructions a cycle of a warp alone")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    compiled = json.loads(TABLE.read_text())["kernels"]
    rows = []
    for stage, (channels, side) in STAGES.items():
        _, _, _, fit, loop, _ = compiled[f"depthwise_inference_bf16_{channels}x{side}"]["sm_90"]
        pairs = (side + 1) // 2
        for batch in arguments.batches:
            row = {"stage": stage, "batch": batch, "mib": round(batch * side * side * channels * 2 / 2**20, 1)}
            for name, group in {"from the top": 0, "image by image": 1, "all images": batch}.items():
                work = [instructions(pair, side, loop, NORM[channels]) for pair in order(batch, pairs, group)]
                even = sum(work) / (4 * MULTIPROCESSORS)
                row[name] = round(time_of(work, fit, arguments.rate) / even, 3)
            rows.append(row)
            print(row, flush=True)
    if arguments.out:
        command = f"python benchmarks/waves.py --rate {arguments.rate:g}"
        arguments.out.write_text(to_json({"command": command, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

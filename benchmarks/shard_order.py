"""Megabytes a second of shards that no memory holds, read in sequence, in block order and in random order.

    python benchmarks/shard_order.py --folder DIR --out results/shard_order.json

Shards of images of 100 kB are written to a folder of the disk that is meant, and before each pass the system is told to forget
them. All passes read every image once, through the reader of training, in one process and in turn.
"""

import argparse
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from convnext.benchmark.rows import environment
from convnext.classification.shards import ShardDataset
from convnext.data.blocks import Blocks
from convnext.data.sampler import epoch_order


def write(folder: Path, shards: int, images: int, size: int) -> list[Path]:
    """Shards of noise that has an image's name."""
    numbers, files = np.random.default_rng(0), []
    for shard in range(shards):
        files.append(folder / f"{shard:06d}.tar")
        with tarfile.open(files[-1], "w") as tar:
            for i in range(images):
                for ending, content in (("jpg", numbers.bytes(size)), ("cls", b"0")):
                    member = tarfile.TarInfo(f"{i:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        handle = os.open(files[-1], os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return files


def forget(files: list[Path]) -> None:
    """Have the system drop what it holds of the files."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="default: the folder of temporary files")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--images", type=int, default=1000, help="in each shard")
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    seconds: dict[str, list[float]] = {"sequence": [], "block": [], "full": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        files = write(Path(folder), arguments.shards, arguments.images, 100_000)
        dataset = ShardDataset(files)
        orders = {
            "sequence": np.arange(len(dataset)),
            "block": epoch_order(len(dataset), 0, 0, Blocks(dataset.blocks(), arguments.window)),
            "full": epoch_order(len(dataset), 0, 0),
        }
        for _ in range(arguments.rounds):
            for name, order in orders.items():
                forget(files)
                began = time.perf_counter()
                for i in order.tolist():
                    dataset.source(i)
                seconds[name].append(time.perf_counter() - began)
    size = arguments.shards * arguments.images * 0.1
    rows = {
        name: {"megabytes_per_second": round(size / median(each)), "seconds": [round(s, 2) for s in each]}
        for name, each in seconds.items()
    }
    for name, row in rows.items():
        print(f"{name:10} {row['megabytes_per_second']:6,} MB/s")
    if arguments.out:
        facts = environment(torch.device("cpu")) | {"command": "python benchmarks/shard_order.py", "megabytes": size}
        facts |= {"shards": arguments.shards, "window": arguments.window, "rounds": arguments.rounds}
        arguments.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

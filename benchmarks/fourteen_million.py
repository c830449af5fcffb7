"""Start-up and memory with millions of images: generated shards, of which only the index is there.

    python benchmarks/fourteen_million.py --out results/fourteen_million.json

Each size runs in a process of its own: open the shards, take the fingerprint, start loading processes, and wait for the first
batch; all samples are one small image. Memory is told after 30 batches more. A process's own memory is what it alone has
written; its resident set also has the pages of the indexes that it read, which all processes share and the system takes
back when it needs them, and those of its parent. `no data` is the same with images in memory: what a process forked from one
that has imported PyTorch costs by itself.
"""

import argparse
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np

CLASSES = 21_841
SIZES = (1_400_000, 14_000_000)
SHARDS = 1000


def generate(folder: Path, images: int, shards: int) -> None:
    """`shards` sparse tar files, all samples of which are the same image, with their indexes."""
    from PIL import Image

    from convnext.data.shards import ENDING, _pack, _state

    picture = BytesIO()
    Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(picture, "JPEG")
    content, each = picture.getvalue(), images // shards
    numbers = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    for shard in range(shards):
        file = folder / "train" / f"{shard:06d}.tar"
        file.write_bytes(content)
        labels = numbers.integers(0, CLASSES, each).tolist()
        samples = [(f"n{label:08d}_{shard}_{i}", 0, len(content), label) for i, label in enumerate(labels)]
        file.with_name(file.name + ENDING).write_bytes(_pack(samples, _state(file)))
    for name in ("000000.tar", "000000.tar" + ENDING):
        (folder / "val").mkdir(exist_ok=True)
        shutil.copy2(folder / "train" / name, folder / "val" / name)  # the index knows the tar's time


def memory(pid: int | str) -> dict[str, float]:
    """Megabytes of a process: written by it alone, and its resident set."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return {"own": round(kilobytes["Private_Dirty"] / 1024, 1), "resident": round(kilobytes["Rss"] / 1024, 1)}


def measure(folder: Path | None, workers: int) -> dict:
    """Seconds and megabytes of one start, in this process; without a folder, of loading a few images in memory."""
    from convnext.classification.augment import TrainTransform, collate_augmented
    from convnext.classification.dataset import ArrayDataset
    from convnext.classification.open import fingerprint, open_parts
    from convnext.classification.transforms import Preprocess
    from convnext.data.loader import TrainSamples, train_loader
    from convnext.data.sampler import TrainBatches
    from convnext.recipes.schema import Augment

    before, began = memory("self"), time.perf_counter()
    if folder:
        train = open_parts(str(folder), 0.1, 0)[0]
    else:
        train = ArrayDataset("grey", np.full((4096, 32, 32, 3), 128, np.uint8), np.zeros(4096), ["grey"])
    opened = time.perf_counter()
    fingerprint(train)
    known = time.perf_counter()
    samples = TrainSamples(train, TrainTransform(Preprocess.for_size(224), Augment()), 0)
    order = TrainBatches(len(train), 0, 64, 1, 10 * (len(train) // 64))
    batches = iter(train_loader(samples, order, workers, False, collate_augmented))
    next(batches)
    first = time.perf_counter()
    for _ in range(30):
        next(batches)
    loaders = [memory(child.pid) for child in multiprocessing.active_children()]
    main = memory("self")
    return {
        "images": len(train),
        "open_seconds": round(opened - began, 2),
        "fingerprint_seconds": round(known - opened, 2),
        "first_batch_seconds": round(first - began, 2),
        "main_mb": round(main["resident"] - before["resident"], 1),
        "worker_own_mb": max(each["own"] for each in loaders),
        "worker_resident_mb": max(each["resident"] for each in loaders),
    }


def in_a_process(*argv: str) -> dict:
    done = subprocess.run([sys.executable, __file__, *argv], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of images")
    parser.add_argument("--shards", type=int, default=SHARDS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--child", help="measure one folder and print it")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.child is not None:
        print(json.dumps(measure(Path(arguments.child) if arguments.child else None, arguments.workers)))
        return 0
    rows = {"no data": in_a_process("--child", "", "--workers", str(arguments.workers))}
    for images in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder), images, arguments.shards)
            rows[f"{images:,}"] = in_a_process("--child", folder, "--workers", str(arguments.workers))
    for name, row in rows.items():
        print(name, row)
    if arguments.out:
        import torch

        from convnext.benchmark.rows import environment

        facts = environment(torch.device("cpu")) | {"command": "python benchmarks/fourteen_million.py"}
        facts |= {"classes": CLASSES, "shards": arguments.shards, "workers": arguments.workers}
        arguments.out.write_text(json.dumps(facts | {"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

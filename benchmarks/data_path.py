"""The loader of training without a model: what a cache gains in the second epoch, and how long a fast device waits for data.

    python benchmarks/data_path.py --out results/data_path.json

JPEG files of 500 x 375 pixels are written to a folder, and loaded with the transforms of Table 5 (ConvNeXt-T, 224 px).

`epochs`: images per second of the first and the second epoch, without a cache and with each kind, and their ratio; of `disk` also
a third epoch, by new processes and after the system was told to forget the file (where it is not in its host's memory).

`wait`: a model that sleeps as long as a step of ConvNeXt-T takes on a device of the H100's kind, 7 ms for 64 images. Such a device
comes with some cores (`--host-cores`, 16), of which this machine has a part: so with C cores 64 images may take 7 ms * 16 / C,
which asks the same of each core, 571 images a second. All C cores load. The part of a step that waits for its batch is counted as
training counts it; the bar is 5 %. Copying a batch for the device takes a core's time, as pinning does, and is a part of the sleep.
Rows: 8 bits as they leave the loader and are finished on the device, or finished by the loading processes (float32, as loaders
commonly do); without a cache, and with a full one in memory. `possible`: images per second when nothing sleeps. Medians of rounds
in turn. Run it on an idle machine.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from convnext import recipes
from convnext.benchmark.loading import generated
from convnext.benchmark.rows import environment
from convnext.classification.augment import Finish, TrainTransform, collate_augmented
from convnext.classification.folder import FolderDataset
from convnext.classification.transforms import Preprocess
from convnext.data.loader import Batch, TrainSamples, train_loader
from convnext.data.sampler import TrainBatches
from convnext.recipes.schema import Classification, Runtime
from convnext.runtime.world import World
from convnext.task.cache import check_room, open_cache, plan_cache

SECONDS, IMAGES = 0.007, 64
"""Of a step on the device that is meant, and its images."""
BAR = 0.05
RECIPE = recipes.get("table5/tiny")
PRE = Preprocess.for_size(224)


@dataclass
class Finished:
    """Batches that are normalised and erased where they are put together."""

    finish: Finish

    def __call__(self, samples: list) -> Batch:
        batch = collate_augmented(samples)
        assert batch.erase is not None
        return replace(batch, images=self.finish(batch.images, batch.erase), erase=None)


@dataclass
class Loading:
    """Images, the kind of their cache, and how they are loaded; `close` removes the cache."""

    images: FolderDataset
    kind: str
    batch: int
    workers: int
    collate: Callable[[list], Batch] = collate_augmented

    def __post_init__(self) -> None:
        self.source: Any = self.images
        if self.kind != "off":
            plan = plan_cache(Runtime(cache=self.kind), self.images, "")  # type: ignore[arg-type]
            check_room(plan, len(self.images))
            self.file: Any = plan.file
            self.source, self.cache = open_cache(plan, self.images, World(torch.device("cpu")))

    @property
    def per_epoch(self) -> int:
        return len(self.images) // self.batch

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches `first` to `last` - 1 of a run, by processes of their own."""
        assert isinstance(RECIPE, Classification)
        samples = TrainSamples(self.source, TrainTransform(PRE, RECIPE.augment), 0)
        order = TrainBatches(len(self.images), 0, self.batch, 1, last, first)
        return iter(train_loader(samples, order, self.workers, False, self.collate))

    def forget(self) -> None:
        """Have the system write the cache to the disk and drop what it holds of it."""
        handle = os.open(self.file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)

    def close(self) -> None:
        if self.kind == "disk":
            self.file.unlink()


def epoch(loading: Loading, number: int) -> float:
    """Images per second of an epoch, from its first batch to its last."""
    batches = loading.batches(number * loading.per_epoch, (number + 1) * loading.per_epoch)
    next(batches)
    began, count = time.monotonic(), 0
    for batch in batches:
        count += len(batch.indices)
    return count / (time.monotonic() - began)


def epochs(images: FolderDataset, batch: int, workers: int, rounds: int) -> dict[str, dict]:
    """Rows of `epochs` by the kind of the cache."""
    found: dict[str, list[list[float]]] = {"off": [], "ram": [], "disk": []}
    for _ in range(rounds):
        for kind, speeds in found.items():
            loading = Loading(images, kind, batch, workers)
            speeds.append([epoch(loading, 0), epoch(loading, 1)])
            if kind == "disk":
                loading.forget()
                speeds[-1].append(epoch(loading, 2))
            loading.close()
    rows = {}
    for kind, speeds in found.items():
        row: dict[str, Any] = {"first": round(median(each[0] for each in speeds), 1)}
        row["second"] = round(median(each[1] for each in speeds), 1)
        row["second_to_first"] = round(median(each[1] / each[0] for each in speeds), 3)
        if kind == "disk":
            row["third_forgotten"] = round(median(each[2] for each in speeds), 1)
        rows[kind] = row
    return rows


def waiting(batches: Iterator[Batch], steps: int, seconds: float) -> tuple[float, float]:
    """(share of the time that waits for batches, images per second) of steps that take `seconds`."""
    waited, count, began = 0.0, 0, time.monotonic()
    for _ in range(steps):
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        count += len(batch.indices)
        until = time.monotonic() + seconds
        batch.images.clone()
        time.sleep(max(0.0, until - time.monotonic()))
    elapsed = time.monotonic() - began
    return waited / elapsed, count / elapsed


def wait(images: FolderDataset, batch: int, workers: int, rounds: int, steps: int, seconds: float) -> dict[str, dict]:
    """Rows of `wait` by what is loaded."""
    kinds: dict[str, tuple[str, Any]] = {
        "8 bits": ("off", collate_augmented),
        "8 bits, ram": ("ram", collate_augmented),
        "float32": ("off", Finished(Finish(PRE))),
        "float32, ram": ("ram", Finished(Finish(PRE))),
    }
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, (kind, collate) in kinds.items():
            loading = Loading(images, kind, batch, workers, collate)
            warm = loading.per_epoch
            ahead = 4 * workers + 1
            batches = loading.batches(0, warm + 2 * (ahead + steps))
            for _ in range(warm):
                next(batches)
            waiting(batches, ahead, seconds)
            share, speed = waiting(batches, steps, seconds)
            waiting(batches, ahead, 0.0)  # what is there already
            found[name].append((share, speed, waiting(batches, steps, 0.0)[1]))
            del batches  # ends its processes
            loading.close()
    asked = batch / seconds
    rows = {}
    for name, each in found.items():
        share, speed, possible = (median(values) for values in zip(*each, strict=True))
        rows[name] = {"data_wait": round(share, 4), "within_bar": share < BAR, "images_per_second": round(speed, 1)}
        rows[name] |= {"asked": round(asked, 1), "possible": round(possible, 1)}
    return rows


def draw(folder: Path, images: int, width: int, height: int) -> FolderDataset:
    """Files of at most 128 different images in a folder."""
    (folder / "a").mkdir()
    for i, file in enumerate(generated(min(images, 128), width, height)):
        for copy in range(i, images, 128):
            (folder / "a" / f"{copy}.jpg").write_bytes(file)
    return FolderDataset(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("epochs", "wait"), default=("epochs", "wait"))
    parser.add_argument("--images", type=int, default=1536)
    parser.add_argument("--pixels", type=int, nargs=2, default=(500, 375))
    parser.add_argument("--batch", type=int, default=IMAGES)
    parser.add_argument("--workers", type=int, help="default: one for each core")
    parser.add_argument("--host-cores", type=int, default=16, help="cores that a device of this kind comes with")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="of images and cache; default: that of temporary files")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = cores if arguments.workers is None else arguments.workers
    seconds = SECONDS * arguments.batch / IMAGES * arguments.host_cores / cores
    result: dict[str, Any] = {}
    before = os.environ.get("CONVNEXT_CACHE")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        os.environ["CONVNEXT_CACHE"] = f"{place}/cache"
        try:
            (Path(place) / "images").mkdir()
            images = draw(Path(place) / "images", arguments.images, *arguments.pixels)
            if "epochs" in arguments.parts:
                result["epochs"] = epochs(images, arguments.batch, workers, arguments.rounds)
            if "wait" in arguments.parts:
                result["wait"] = wait(images, arguments.batch, workers, arguments.rounds, arguments.steps, seconds)
                result["step_ms"] = round(1000 * seconds, 2)
        finally:
            del os.environ["CONVNEXT_CACHE"]
            if before is not None:
                os.environ["CONVNEXT_CACHE"] = before
            shutil.rmtree(f"{place}/cache", ignore_errors=True)
    for part in ("epochs", "wait"):
        for name, row in result.get(part, {}).items():
            print(f"{part:7} {name:14} {row}")
    if arguments.out:
        facts = environment(torch.device("cpu")) | {
            "what": "loading of training batches, Table 5's transforms at 224 px; images per second, and shares of the time",
            "command": " ".join(["python", *sys.argv]),
            "images": f"{arguments.images} JPEG files, {arguments.pixels[0]} x {arguments.pixels[1]}",
            "batch": arguments.batch,
            "workers": workers,
            "cores": cores,
            "host_cores": arguments.host_cores,
            "rounds": arguments.rounds,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(facts | result, indent=1) + "\n")


if __name__ == "__main__":
    main()

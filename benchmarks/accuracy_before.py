"""Top-1 after the same training by an earlier commit and by this tree, with several seeds: what a change of the loading costs.

    python benchmarks/accuracy_before.py --data DIR --minutes 20 --out results/accuracy_before.json

The earlier commit (`--before`) is the last one whose loading processes decoded every image in full and sent normalised fp32
batches; since then crops are decoded at 1/2, 1/4 or 1/8 of the size where they have pixels to spare, and batches have 8 bits
until they are on the device. So that crops have pixels to spare, the images of `--data` (labelled ones of 32 px, such as
CIFAR-10) are written as JPEG files `--enlarge` times as large, and trained on at twice their old side: `small/scratch` with stem
stride 4, whose maps are those of 32 px with stride 2. Each pair of a tree and a seed is a run of `convnext train` in a process of
its own, in turn; the epochs are as many as fit into the minutes at the earlier commit's speed, for all the same. A run that was
stopped goes on. `error` is the standard error of the difference of the means, from the number of held-out images alone; seeds
differ by more.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

from convnext.benchmark.rows import environment
from convnext.classification.dataset import ImageDataset
from convnext.classification.open import open_dataset

ROOT = Path(__file__).parents[1]
WEIGHTS = ("raw", "ema")
SETTINGS = (
    "--model.name convnext_atto --model.layer-scale-init-value 0 --model.drop-path-rate 0 --optim.lr 2e-3 "
    "--optim.warmup-epochs None --optim.warmup-share 0.1 --augment.rand-augment rand-m9-mstd0.5-inc1 "
    "--augment.random-erasing 0.25 --augment.mixup 0.0 --augment.cutmix 0.0 --augment.label-smoothing 0.1"
)
"""Of both commits, whose presets differ: everything that the loading does, erasing and RandAugment among it."""


def write(images: ImageDataset, count: int, enlarge: int, folder: Path) -> int:
    """Write `count` of the images at equal distances as enlarged JPEG files in a folder for each class; their number."""
    count = min(count, len(images))
    chosen = [number * len(images) // count for number in range(count)]
    for i in chosen:
        image = images.image(i)
        place = folder / str(images.classes[images.labels[i]]) / f"{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        size = (image.width * enlarge, image.height * enlarge)
        image.resize(size, Image.Resampling.BICUBIC).save(place, quality=90)
    return len(chosen)


def train(source: Path, out: Path, options: Sequence[str]) -> list[dict]:
    """The records of a run of `convnext train` with the package in `source`, which is continued or taken as it is."""
    command = [sys.executable, "-m", "convnext", "train", "small/scratch", *options, "--out", str(out)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source)}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
        )
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--before", default="e212f49~1", help="commit, or a folder with the package in it")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--images", type=int, default=20_000, help="to train on")
    parser.add_argument("--val-images", type=int, default=10_000)
    parser.add_argument("--enlarge", type=int, default=8)
    parser.add_argument("--side", type=int, default=64, help="of the model's input")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--more", nargs="*", default=[], help="options of `convnext train` without their dashes, as NAME=VALUE"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy_before"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)

    data, sizes = arguments.runs / "images", {}
    train_images, val_images = open_dataset(arguments.data, 0.1, 0)
    parts: dict[str, ImageDataset] = {"train": train_images, "val": val_images}
    for part, count in (("train", arguments.images), ("val", arguments.val_images)):
        sizes[part] = min(count, len(parts[part]))
        if not (arguments.runs / f"{part}.done").exists():
            sizes[part] = write(parts[part], count, arguments.enlarge, data / part)
            (arguments.runs / f"{part}.done").touch()
    options = ["--data", str(data), "--image-size", str(arguments.side), "--model.stem-stride", "4"]
    options += ["--total-batch", str(arguments.batch), "--device-batch", str(arguments.batch), "--eval-every", "10000"]
    options += [
        *SETTINGS.split(),
        "--runtime.workers",
        str(arguments.workers),
        *(f"--{each}" for each in arguments.more),
    ]
    with tempfile.TemporaryDirectory() as place:
        given = Path(arguments.before)
        tools = runpy.run_path(str(Path(__file__).with_name("rule_speed.py")))
        old = given if given.is_dir() else tools["checked_out"](arguments.before, Path(place))
        records = train(old, arguments.runs / "trial", [*options, "--epochs", "1"])
        speed = max(each["images_per_second"] for each in records if each["kind"] == "train")
        epochs = max(1, int(arguments.minutes * 60 * speed / sizes["train"]))
        print(f"{speed:,.0f} images/s before, so {epochs} epochs", flush=True)
        found: dict[str, dict[str, Any]] = {"before": {}, "now": {}}
        for seed in arguments.seeds:
            for name, source in (("before", old), ("now", ROOT / "src")):
                run = arguments.runs / f"{name}-{seed}"
                records = train(source, run, [*options, "--epochs", str(epochs), "--seed", str(seed)])
                last = [each for each in records if each["kind"] == "eval"][-1]
                found[name][str(seed)] = {which: last[f"{which}/top1"] for which in WEIGHTS}
                print(name, seed, found[name][str(seed)], flush=True)
    means = {
        name: {which: mean(each[which] for each in runs.values()) for which in WEIGHTS} for name, runs in found.items()
    }
    share = means["before"]["ema"] / 100
    tests = sizes["val"] * len(arguments.seeds)
    result = environment(torch.device("cpu")) | {
        "what": "top-1 % on held-out images after the same epochs, by an earlier commit and by this tree",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "before": arguments.before,
        "images": f"{sizes['train']:,} of {arguments.data} enlarged {arguments.enlarge} times, {sizes['val']:,} held out",
        "side": arguments.side,
        "minutes": arguments.minutes,
        "epochs": epochs,
        "top1": found,
        "means": {name: {which: round(value, 3) for which, value in each.items()} for name, each in means.items()},
        "difference": {which: round(means["now"][which] - means["before"][which], 3) for which in WEIGHTS},
        "error": round(100 * (2 * share * (1 - share) / tests) ** 0.5, 3),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("means", "difference", "error")}, indent=1))


if __name__ == "__main__":
    main()

"""The roadmap trains: first, middle and last step of the ResNet-50 regime, scaled down by one rule, on digits and CIFAR-10.

    python benchmarks/roadmap_trains.py --cifar DIR --out results/roadmap_trains.json

Not a comparison of the steps: a few minutes on a CPU show that each of them learns and none diverges. Width and depth are
scaled by --width and --depth; the CIFAR-10 slice is --images rows of the training file at equal distances (they are sorted
by class), and a quarter as many of the test file.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import torch

from convnext import __version__, recipes
from convnext.recipes.schema import Augment, Classification, Ema, Model, Optim, Runtime
from convnext.training import train

STEPS = ("resnet", "inverting", "separate-downsampling")
GENTLE = Augment(hflip=0.0, rand_augment=None, random_erasing=0.0, mixup=0.0, cutmix=0.0, crop_padding=1)


def sliced(cifar: Path, images: int, out: Path) -> str:
    """Write a folder with rows of a parquet dataset at equal distances; returns it."""
    out.mkdir(parents=True)
    for part, rows in (("train", images), ("test", images // 4)):
        whole = pq.read_table(cifar / f"{part}.parquet")
        pq.write_table(whole.take(list(range(0, len(whole), len(whole) // rows))), out / f"{part}.parquet")
    if (cifar / "classes.txt").exists():
        (out / "classes.txt").write_text((cifar / "classes.txt").read_text())
    return str(out)


def recipe(step: str, data: str, width: float, depth: float, epochs: int) -> Classification:
    """The step's recipe with the augmentation and the length that suit a small dataset."""
    base = recipes.get(f"roadmap/resnet50-{step}")
    digits = data == "digits"
    model = Model(base.model.name, stem_stride=1 if digits else 2, width_mult=width, depth_mult=depth)
    return replace(
        base,
        data=data,
        image_size=8 if digits else 32,
        epochs=epochs,
        total_batch=64,
        device_batch=64,
        model=model,
        augment=GENTLE if digits else replace(GENTLE, hflip=0.5, crop_padding=4),
        optim=Optim(lr=2e-3, warmup_epochs=None, warmup_share=0.1),
        ema=Ema(decay=None),
        runtime=Runtime(workers=0, log_every=5, device="cpu"),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=1 / 3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", nargs="+", default=STEPS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        datasets = {
            "digits": "digits",
            "cifar10 slice": sliced(arguments.cifar, arguments.images, Path(scratch) / "cifar"),
        }
        for dataset, data in datasets.items():
            for step in arguments.steps:
                folder = Path(scratch) / dataset / step
                chosen = recipe(step, data, arguments.width, arguments.depth, arguments.epochs)
                records = train(chosen, out=folder).records
                losses = [(r["step"], round(r["loss"], 4)) for r in records if r["kind"] == "train"]
                top1 = [round(r["raw/top1"], 2) for r in records if r["kind"] == "eval"]
                skipped = sum(r.get("skipped", 0) for r in records)
                rows.append({"step": step, "data": dataset, "loss": losses, "top1": top1, "skipped_steps": skipped})
    result = {
        "what": "training loss and held-out top-1 of scaled-down roadmap steps",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": {"convnext": __version__, "torch": torch.__version__},
        "scale": {"width": arguments.width, "depth": arguments.depth},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result) + "\n")
    for row in rows:
        print(row["data"], row["step"], "loss", row["loss"][0][1], "->", row["loss"][-1][1], "top-1", row["top1"][-1])


if __name__ == "__main__":
    main()

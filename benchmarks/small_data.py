"""What recipes learn from small images and few of them: ours, and those of others for the same network, at the same images seen.

    python benchmarks/small_data.py slice long-tail whole --data DIR --out results/small_data.json

DIR has CIFAR-10's `train.parquet` and `test.parquet` (columns image and label). `slice`: 100 images of each class; `long-tail`:
classes from 5,000 down to 50 images; `whole`: all 50,000 for so many minutes (`--minutes`), alone on the machine; `speed`:
some steps of each on the slice, for their images per second, also alone; `minutes`: as many images of the slice as fit into
`--minutes` at the speed that `speed` found. Every cell is one training of ConvNeXt-Atto and its
accuracy on the 10,000 test images: raw weights for recipes without a moving average, EMA for those with one. Cells are kept in
the file as they are finished, so a stopped command can be repeated.

The recipes of others run in a plain loop with timm's network of the same size and stem: the defaults of timm's train.py and of
torchvision's reference script, each with its own transforms; the reference's runs in our engine, which follows its loop to 1e-6.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from small_scratch import Images, our_speed, timm_network, trained
from torch import nn

from convnext import recipes
from convnext.benchmark.rows import environment
from convnext.classification.open import open_dataset
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.files import to_json
from convnext.recipes.schema import Augment, Classification, Ema
from convnext.training import train

SIDE, CLASSES, TEST = 32, 10, 10_000
BARE = Augment(rand_augment=None, random_erasing=0.0, mixup=0.0, cutmix=0.0)
"""Flips, padded crops and label smoothing."""


def counts(part: str) -> list[int]:
    """Training images of each class."""
    if part == "long-tail":
        return [round(5000 * 100 ** (-k / (CLASSES - 1))) for k in range(CLASSES)]
    return [5000 if part == "whole" else 100] * CLASSES


def write_part(source: Path, to: Path, counts: Sequence[int], first: int = 0) -> Path:
    """A folder with the first images of each class from `first` in a random but fixed order, and all their test images."""
    to.mkdir()
    for part, most in (("train", counts), ("test", [TEST] * len(counts))):
        table = pq.read_table(source / f"{part}.parquet")
        labels = table.column("label").to_numpy()
        shuffled = np.random.default_rng(0).permutation(len(labels))
        keep = np.sort(np.concatenate([shuffled[labels[shuffled] == first + k][:n] for k, n in enumerate(most)]))
        table = table.take(pa.array(keep))
        at = table.column_names.index("label")
        table = table.set_column(at, "label", pa.array(labels[keep] - first))
        pq.write_table(table, to / f"{part}.parquet", row_group_size=1000)
    if (source / "classes.txt").exists():
        names = (source / "classes.txt").read_text().split()[first : first + len(counts)]
        (to / "classes.txt").write_text("\n".join(names) + "\n")
    return to


@dataclass(frozen=True)
class Plain:
    """A recipe of another library for a plain loop: transform of the training images, optimizer, factor on its rate by progress."""

    transform: Callable
    optimizer: Callable
    rate: Callable[[float], float]
    label_smoothing: float = 0.0


def timm_script(epochs: int) -> Plain:
    """The defaults of timm's train.py: SGD with Nesterov momentum, lr 0.1 x batch / 256, cosine, 5 epochs of warm-up."""
    from timm.data.transforms_factory import create_transform
    from timm.optim import create_optimizer_v2

    warmup = min(5 / epochs, 0.5)
    return Plain(
        create_transform((3, SIDE, SIDE), is_training=True),
        lambda model, batch: create_optimizer_v2(model, "sgd", lr=0.1 * batch / 256, weight_decay=2e-5, momentum=0.9),
        lambda at: at / warmup if at < warmup else 0.5 * (1 + np.cos(np.pi * at)),
        0.1,
    )


def torchvision_script(epochs: int) -> Plain:
    """The defaults of torchvision's references/classification: SGD, lr 0.1 x batch / 256, a tenth after each third of the run."""
    from torchvision import transforms

    pre = Preprocess.for_size(SIDE)
    steps = [
        transforms.RandomResizedCrop(SIDE),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(pre.mean, pre.std),
    ]
    return Plain(
        transforms.Compose(steps),
        lambda model, batch: torch.optim.SGD(model.parameters(), lr=0.1 * batch / 256, momentum=0.9, weight_decay=1e-4),
        lambda at: 0.1 ** int(3 * at),
    )


PLAIN = {"timm's train.py": timm_script, "torchvision's script": torchvision_script}


def plain_run(
    recipe: Classification, make: Callable[[int], Plain], start: Callable[[nn.Module], None] | None = None
) -> dict:
    """Train timm's network of the same size and stem in a plain loop, as many epochs as the recipe says; `start` fills it."""
    torch.manual_seed(recipe.seed)
    train_images, val_images = open_dataset(recipe.data, 0.1, 0)
    plain = make(recipe.epochs)
    classes = len(train_images.classes)
    model = timm_network(recipe, classes).to(memory_format=torch.channels_last)
    if start:
        start(model)
    optimizer = plain.optimizer(model, recipe.total_batch)
    peaks = [group["lr"] for group in optimizer.param_groups]
    loader = torch.utils.data.DataLoader(
        Images(train_images, plain.transform), recipe.total_batch, shuffle=True, drop_last=True
    )
    total, step, began = len(loader) * recipe.epochs, 0, time.monotonic()
    for _ in range(recipe.epochs):
        for images, labels in loader:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * plain.rate(step / total)
            output = model(images.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(output, labels, label_smoothing=plain.label_smoothing).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    seconds = time.monotonic() - began
    model.eval()
    right, seen = np.zeros(classes), np.zeros(classes)
    with torch.inference_mode():
        for images, labels in torch.utils.data.DataLoader(
            Images(val_images, eval_transform(Preprocess.for_size(SIDE))), 500
        ):
            hits = model(images.contiguous(memory_format=torch.channels_last)).argmax(1) == labels
            right += np.bincount(labels, hits, classes)
            seen += np.bincount(labels, minlength=classes)
    return {
        "top1": round(100 * float(right.sum() / seen.sum()), 2),
        "balanced": round(100 * float(np.mean(right / seen)), 2),
        "images_seen": total * recipe.total_batch,
        "seconds": round(seconds, 1),
    }


def our_run(recipe: Classification, folder: Path) -> dict:
    """Train with `convnext.train`, as anybody would; one evaluation, at the end."""
    last, seen, seconds = trained(train(recipe, out=folder, quiet=True).records, recipe.total_batch)
    kind = "ema" if recipe.ema != Ema(decay=None) else "raw"
    return {
        "top1": round(last[f"{kind}/top1"], 2),
        "balanced": round(last[f"{kind}/balanced"], 2),
        "images_seen": seen,
        "seconds": round(seconds, 1),
    }


def settings() -> dict[str, Classification]:
    """The recipes of our engine by name: each changes the one before it."""
    now = recipes.get("small/scratch")
    assert isinstance(now, Classification)
    paper = replace(
        now,
        model=replace(now.model, stem_stride=4, drop_path_rate=0.0, layer_scale_init_value=1e-6),
        augment=Augment(),
        optim=replace(now.optim, lr=4e-3, weight_decay=0.05, warmup_epochs=None, warmup_share=20 / 300),
        ema=Ema(decay=None),
    )
    stride = replace(paper, model=replace(paper.model, stem_stride=2), optim=replace(paper.optim, lr=2e-3))
    stride = replace(stride, ema=Ema(decay=None, half_life_share=0.01), total_batch=256, device_batch=256)
    bare = replace(stride, augment=BARE)
    scale = replace(bare, model=replace(bare.model, layer_scale_init_value=0.0))
    small = replace(scale, total_batch=128, device_batch=128)
    return {
        "the reference's defaults": paper,
        "stem stride 2, lr 2e-3, EMA": stride,
        "+ flips and crops only": bare,
        "+ no LayerScale": scale,
        "+ batches of 128": small,
        "+ lr 4e-3": replace(small, optim=replace(small.optim, lr=4e-3)),
    }


BALANCING = {
    "as they are": {},
    "--sampling sqrt": {"sampling": "sqrt"},
    "--sampling balanced": {"sampling": "balanced"},
    "--class-weights balanced": {"class_weights": "balanced"},
}


def cells(part: str, names: Sequence[str]) -> dict[str, Classification | Callable[[int], Plain]]:
    """What is trained in a part, by name."""
    if changed := {"long-tail": BALANCING, "whole": {"small/scratch": {}}}.get(part):
        found = {name: replace(recipes.get("small/scratch"), **changes) for name, changes in changed.items()}
    else:
        found = settings() | PLAIN
    return {name: what for name, what in found.items() if not names or name in names}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=["slice", "long-tail", "whole", "speed", "minutes"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--seen", type=int, default=24_000, help="images that a training of slice, long-tail or speed sees"
    )
    parser.add_argument("--minutes", type=float, default=20, help="of whole, at the speed that a trial has; of minutes")
    parser.add_argument("--names", nargs="*", default=[], help="these cells only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    facts = environment(torch.device("cpu")) | {
        "what": "ConvNeXt-Atto on CIFAR-10 (re-encoded as JPEG): accuracy on the 10,000 test images in percent, by seed",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
    }
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"parts": {}}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for part in arguments.parts:
            data = write_part(arguments.data, Path(scratch) / part, counts(part))
            for seed, (name, what) in product(arguments.seeds, cells(part, arguments.names).items()):
                rows = found["parts"].setdefault(part, {}).setdefault(name, {})
                if str(seed) in rows:
                    continue
                recipe = what if isinstance(what, Classification) else settings()["+ batches of 128"]
                folder, seen = Path(tempfile.mkdtemp(dir=scratch)), arguments.seen
                if part == "minutes":
                    measured = found["parts"]["speed"][name]["0"]
                    seen = 60 * arguments.minutes * measured["images_seen"] / measured["seconds"]
                if part == "whole":
                    trial = prepared(recipe, data, seed, 1)
                    seen = 60 * arguments.minutes * our_speed(trial, folder / "trial", 60)
                recipe = prepared(recipe, data, seed, max(1, round(seen / sum(counts(part)))))
                plain = None if isinstance(what, Classification) else what
                row = plain_run(recipe, plain) if plain else our_run(recipe, folder / "run")
                rows[str(seed)] = row | {"epochs": recipe.epochs}
                print(part, name, seed, rows[str(seed)], flush=True)
                arguments.out.write_text(to_json(found | facts, indent=1) + "\n")


def prepared(recipe: Classification, data: Path, seed: int, epochs: int) -> Classification:
    """The recipe for this data and length, evaluated once, with images loaded where they are trained on."""
    runtime = replace(recipe.runtime, workers=0, device="cpu", log_every=20)
    return replace(recipe, data=str(data), seed=seed, epochs=epochs, eval_every=10**6, runtime=runtime)


if __name__ == "__main__":
    main()

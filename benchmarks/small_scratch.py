"""The same minutes of training for our engine and for timm's ConvNeXt in a plain loop, on the same images.

    python benchmarks/small_scratch.py --data DIR --minutes 20 --out results/small_scratch_cifar10.json

Both sides get the model, transforms, Mixup, drop-path, EMA, AdamW and cosine schedule of the `small/scratch` recipe, and
as many epochs as fit into the minutes at the speed that a trial of each measured. Training time is counted; the one
evaluation at the end is not. Run it on an idle machine: the two sides take turns, never share it.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from convnext import __version__, recipes
from convnext.benchmark.rows import commit, cpu_name
from convnext.classification.augment import train_transform
from convnext.classification.dataset import ImageDataset
from convnext.classification.mixup import make_mixup
from convnext.classification.open import open_dataset
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.engine.schedule import learning_rate
from convnext.recipes.plan import make_plan
from convnext.recipes.schema import Classification
from convnext.training import train


class Images(torch.utils.data.Dataset):
    """The dataset that a plain script would write."""

    def __init__(self, images: ImageDataset, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(self.images.image(i)), int(self.images.labels[i])


def timm_network(recipe: Classification, classes: int, drop_path_rate: float = 0.0) -> nn.Module:
    """timm's network with the recipe's stem: its own of stride 2 has a smaller kernel, and halves the map again before stage 0."""
    import timm

    stride = recipe.model.stem_stride
    model = timm.create_model(recipe.model.name, num_classes=classes, drop_path_rate=drop_path_rate)
    stem = model.stem[0]
    stem.stride, stem.padding = (stride, stride), ((4 - stride) // 2,) * 2
    return model


def timm_run(recipe: Classification, workers: int, channels_last: bool, steps: int | None = None) -> dict:
    """Train timm's model in a plain loop; `steps` cuts it short and returns its speed only."""
    from timm.utils import ModelEmaV3

    torch.manual_seed(recipe.seed)
    train_images, val_images = open_dataset(recipe.data, recipe.val_share, recipe.seed)
    plan = make_plan(recipe, len(train_images))
    pre = Preprocess.for_size(recipe.image_size)
    classes = len(train_images.classes)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = timm_network(recipe, classes, plan.drop_path_rate).to(memory_format=layout)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optim = recipe.optim
    groups = [{"params": decay, "weight_decay": optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    ema = ModelEmaV3(model, decay=plan.ema_decay)
    mixup = make_mixup(recipe.augment, classes)
    loader = torch.utils.data.DataLoader(
        Images(train_images, train_transform(pre, recipe.augment)),
        batch_size=plan.total_batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    step, seconds = 0, 0.0
    clock = time.monotonic()
    while step < (steps or plan.total_steps):
        for images, labels in loader:
            if steps and step == 5:
                clock = time.monotonic()  # the first steps warm up
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(plan.schedule, step)
            images, targets = mixup(images, labels) if mixup else (images, labels)
            F.cross_entropy(model(images.contiguous(memory_format=layout)), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            step += 1
            if steps and step == steps:
                return {"images_per_second": (steps - 5) * plan.total_batch / (time.monotonic() - clock)}
            if step % plan.steps_per_epoch == 0:
                print(f"timm  epoch {step // plan.steps_per_epoch} of {recipe.epochs}", flush=True)
    seconds = time.monotonic() - clock
    accuracy = {}
    for label, network in {"raw": model, "ema": ema.module}.items():
        network.eval()
        hits = 0
        with torch.inference_mode():
            for images, labels in torch.utils.data.DataLoader(Images(val_images, eval_transform(pre)), batch_size=512):
                hits += (network(images.contiguous(memory_format=layout)).argmax(1) == labels).sum().item()
        accuracy[label] = 100 * hits / len(val_images)
    return {
        "top1": accuracy,
        "epochs": recipe.epochs,
        "seconds": seconds,
        "images_per_second": plan.total_steps * plan.total_batch / seconds,
        "params": sum(p.numel() for p in model.parameters()),
        "layout": "NHWC" if channels_last else "NCHW",
    }


class Enough(Exception):
    """Ends a trial when its speed is known."""


def our_speed(recipe: Classification, folder: Path, steps: int) -> float:
    """Images per second of the first steps of `convnext.train`: the median of three reports after the first."""
    speeds: list[float] = []

    def watch(record: dict) -> None:
        if record["kind"] == "train":
            speeds.append(record["images_per_second"])
        if len(speeds) == 4:
            raise Enough

    recipe = replace(recipe, runtime=replace(recipe.runtime, log_every=max(1, steps // 4)))
    with suppress(Enough):
        train(recipe, out=folder, on_record=watch)
    return sorted(speeds[1:])[len(speeds[1:]) // 2]


def trained(records: Sequence[dict], batch: int) -> tuple[dict, int, float]:
    """The last evaluation of a run, the images that it was trained on, and the seconds of its steps."""
    last = [record for record in records if record["kind"] == "eval"][-1]
    seconds, before = 0.0, 0
    for record in records:
        if record["kind"] == "train":
            seconds += (record["step"] - before) * batch / record["images_per_second"]
            before = record["step"]
    return last, before * batch, seconds


def our_run(recipe: Classification, folder: Path) -> dict:
    """Train with `convnext.train`, as anybody would."""
    last, seen, seconds = trained(train(recipe, out=folder).records, recipe.total_batch)
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        params = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118  it is no dict
    return {
        "top1": {label: last[f"{label}/top1"] for label in ("raw", "ema")},
        "epochs": recipe.epochs,
        "seconds": seconds,
        "images_per_second": seen / seconds,
        "params": params,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--model", default="convnext_atto")
    parser.add_argument("--stem-stride", type=int, default=4, help="4: the one at which both build the same network")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--batch", type=int, help="total batch, if not the recipe's")
    parser.add_argument("--trial", type=int, default=40, help="steps that the speed is taken from")
    parser.add_argument("--runs", type=Path, default=Path("runs/small_scratch_benchmark"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)

    base = recipes.get("small/scratch")
    # timm's network has LayerScale
    same = {"name": arguments.model, "stem_stride": arguments.stem_stride, "layer_scale_init_value": 1e-6}
    batch = arguments.batch or base.total_batch
    base = replace(
        base,
        data=arguments.data,
        total_batch=batch,
        device_batch=batch,
        model=replace(base.model, **same),
        runtime=replace(base.runtime, workers=arguments.workers),
        eval_every=10_000,  # once, at the end
    )
    per_epoch = len(open_dataset(base.data, base.val_share, base.seed)[0]) // base.total_batch * base.total_batch

    def fitted(speed: float) -> Classification:
        return replace(base, epochs=max(1, int(arguments.minutes * 60 * speed / per_epoch)))

    # a benchmark that was stopped continues: with the speeds that it measured, and with our run where it stands
    measured = arguments.runs / "trials.json"
    if not measured.exists():
        trials = {
            "ours": our_speed(base, arguments.runs / "trial", arguments.trial),
            "timm NCHW": timm_run(base, arguments.workers, False, arguments.trial)["images_per_second"],
            "timm NHWC": timm_run(base, arguments.workers, True, arguments.trial)["images_per_second"],
        }
        measured.write_text(json.dumps(trials))
    trials = json.loads(measured.read_text())
    print({name: round(speed) for name, speed in trials.items()}, flush=True)
    channels_last = trials["timm NHWC"] > trials["timm NCHW"]
    rows = {
        "ours": our_run(fitted(trials["ours"]), arguments.runs / "ours"),
        "timm": timm_run(fitted(max(trials["timm NHWC"], trials["timm NCHW"])), arguments.workers, channels_last),
    }
    result = {
        "what": "top-1 on the held-out images after the same minutes of training",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": f"{os.cpu_count()} CPU cores ({cpu_name()})",
        "versions": {"convnext": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "minutes": arguments.minutes,
        "model": arguments.model,
        "stem_stride": arguments.stem_stride,
        "trial_images_per_second": trials,
        "rows": rows,
        "ratio_images_per_second": rows["ours"]["images_per_second"] / rows["timm"]["images_per_second"],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()

"""The ablations of the paper's text tried small: each beside the step that it changes, on digits, over some seeds.

    python benchmarks/ablations.py --out results/ablations.json

Width and depth are scaled by --width and --depth. Minutes on a CPU show whether a variant trains, not what ImageNet would say.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

import torch

from convnext import __version__, recipes
from convnext.benchmark.rows import commit, cpu_name
from convnext.errors import ConvNextError
from convnext.recipes.schema import Augment, Ema, Optim, Runtime
from convnext.training import train

PAIRS = {
    "ablation/first-norm": "roadmap/resnet50-fewer-norms",
    "ablation/resnet-layer-norm": "roadmap/resnet50-resnet",
    "ablation/bare-downsampling": "roadmap/resnet50-separate-downsampling",
    "ablation/batch-norm-ema": "roadmap/resnet50-layer-norm",
}
"""Each ablation and the step that it is held against; of the last, both have EMA."""


def run(name: str, seed: int, arguments: argparse.Namespace, folder: Path, ema: bool) -> dict:
    """The last held-out accuracies in percent, and the first and last loss; `diverged` where it could not go on."""
    base = recipes.get(name)
    model = replace(base.model, stem_stride=1, width_mult=arguments.width, depth_mult=arguments.depth)
    recipe = replace(
        base,
        data="digits",
        image_size=8,
        epochs=arguments.epochs,
        total_batch=64,
        device_batch=64,
        seed=seed,
        model=model,
        augment=Augment(hflip=0, rand_augment=None, random_erasing=0, mixup=0, cutmix=0, crop_padding=1),
        optim=Optim(lr=arguments.lr, warmup_epochs=None, warmup_share=0.1),
        ema=Ema(decay=arguments.ema if ema else None),
        runtime=Runtime(workers=0, log_every=5, device="cpu"),
    )
    try:
        records = train(recipe, out=folder, quiet=True).records
    except ConvNextError as error:
        return {"diverged": str(error).split(";")[0]}
    last = [record for record in records if record["kind"] == "eval"][-1]
    losses = [record["loss"] for record in records if record["kind"] == "train" and "loss" in record]
    found = {key.removesuffix("/top1"): round(last[key], 2) for key in ("raw/top1", "ema/top1") if key in last}
    return found | {"loss": [round(losses[0], 3), round(losses[-1], 3)]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--depth", type=float, default=1 / 3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--ema", type=float, default=0.98, help="decay; half of the average is 34 steps old at most")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, beside in PAIRS.items():
            ema = name == "ablation/batch-norm-ema"
            pair = {}
            for each in (name, beside):
                found = [
                    run(each, seed, arguments, Path(scratch) / each.replace("/", "-") / f"{ema}{seed}", ema)
                    for seed in range(arguments.seeds)
                ]
                pair[each] = {"runs": found} | {
                    f"mean_{key}": round(mean(row[key] for row in found), 2)
                    for key in ("raw", "ema")
                    if all(key in row for row in found)
                }
                print(each, pair[each])
            rows[name] = pair
    result = {
        "what": f"held-out top-1 % on digits, {arguments.epochs} epochs, widths x {arguments.width:g}, {arguments.seeds} seeds",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": cpu_name(),
        "versions": {"convnext": __version__, "torch": torch.__version__},
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

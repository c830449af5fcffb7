"""What recipes learn from 100 images of each of five classes, starting from a network that was trained on the other five.

    python benchmarks/small_finetune.py --data DIR --out results/small_finetune.json

DIR as for `small_data.py`. ConvNeXt-Atto is trained with `small/scratch` on all images of CIFAR-10's first five classes
(`--epochs`, kept in `--runs`); then each cell trains on 100 images of each of the other five, as many images for all
(`--seen`), and is measured on their 5,000 test images. The scripts of others start from the same weights with their own
defaults, in a plain loop with timm's network. Run it alone on the machine: the seconds of the cells are a result, too.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import torch
from small_data import BARE, PLAIN, our_run, plain_run, prepared, write_part
from torch import nn

from convnext import recipes
from convnext.benchmark.rows import environment
from convnext.files import to_json
from convnext.recipes.schema import Augment, Classification
from convnext.training import train
from convnext.weights import timm as names_of_timm
from convnext.weights.load import read_checkpoint

HALF, IMAGES = 5, 100


LRS = (2e-4, 1e-3, 2e-3)


def settings(weights: Path) -> dict[str, Classification]:
    """Recipes of our engine by name, all for the same network, 32 px and batches of 64."""
    scratch = recipes.get("small/scratch")
    assert isinstance(scratch, Classification)

    def of(name: str) -> Classification:
        recipe = recipes.get(name)
        assert isinstance(recipe, Classification)
        model = replace(scratch.model, weights=str(weights), head_init_scale=recipe.model.head_init_scale)
        return replace(recipe, image_size=scratch.image_size, model=model)

    def at(recipe: Classification, lr: float) -> Classification:
        return replace(recipe, optim=replace(recipe.optim, lr=lr))

    full = replace(of("small/finetune"), augment=Augment(mixup=0.0, cutmix=0.0))
    bare = replace(full, augment=BARE)
    found = {
        "small/scratch, random weights": scratch,
        "the reference's fine-tuning (Table 6)": of("table6/base-22k-1k-224"),
        "small/linear-probe": of("small/linear-probe"),
    }
    found |= {f"RandAugment and erasing, lr {lr:.0e}": at(full, lr) for lr in LRS}
    found |= {f"flips and crops only, lr {lr:.0e}": at(bare, lr) for lr in LRS}
    best = at(bare, 2e-3)
    found["the same without layer decay"] = replace(best, optim=replace(best.optim, layer_decay=None))
    found["the same, stages 0 and 1 frozen"] = replace(best, freeze=("stages", "0", "1"))
    return {name: replace(recipe, total_batch=64, device_batch=64) for name, recipe in found.items()}


def filled(weights: Path, model: nn.Module) -> None:
    """Put the checkpoint into timm's network, all but its classifier."""
    tensors = names_of_timm.from_ours(read_checkpoint(weights).tensors)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.fc")}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    assert not unexpected
    assert all(name.startswith("head.fc") or name.endswith("gamma") for name in missing), missing
    for block in (block for stage in model.stages for block in stage.blocks):
        block.gamma = None  # as the checkpoint has none


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4, help="of the first training")
    parser.add_argument("--seen", type=int, default=10_000, help="images that a cell sees")
    parser.add_argument("--names", nargs="*", default=[], help="these cells only")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, default=Path("runs/small_finetune"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"first": {}, "rows": {}}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    facts = environment(torch.device("cpu")) | {
        "what": "ConvNeXt-Atto, 100 images of each of five classes of CIFAR-10 (re-encoded as JPEG), after the other five: "
        "accuracy on their 5,000 test images in percent, by seed",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
    }
    weights = arguments.runs / "first/best.safetensors"
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        if not weights.exists():
            data = write_part(arguments.data, scratch / "before", [5000] * HALF)
            recipe = recipes.get("small/scratch")
            assert isinstance(recipe, Classification)
            recipe = prepared(recipe, data, 0, arguments.epochs)
            last = [r for r in train(recipe, out=arguments.runs / "first").records if r["kind"] == "eval"][-1]
            found["first"] = {"epochs": arguments.epochs, "top1": round(last["ema/top1"], 2)}
        data = write_part(arguments.data, scratch / "after", [IMAGES] * HALF, first=HALF)
        cells = settings(weights) | PLAIN
        for seed, name in product(arguments.seeds, arguments.names or cells):
            rows, what = found["rows"].setdefault(name, {}), cells[name]
            if str(seed) in rows:
                continue
            recipe = what if isinstance(what, Classification) else settings(weights)["small/linear-probe"]
            recipe = prepared(recipe, data, seed, max(1, round(arguments.seen / (HALF * IMAGES))))
            folder = Path(tempfile.mkdtemp(dir=scratch)) / "run"
            if isinstance(what, Classification):
                row = our_run(recipe, folder)
            else:
                row = plain_run(recipe, what, lambda model: filled(weights, model))
            rows[str(seed)] = row | {"epochs": recipe.epochs}
            print(name, seed, rows[str(seed)], flush=True)
            arguments.out.write_text(to_json(found | facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

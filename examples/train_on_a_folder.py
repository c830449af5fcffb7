"""Train a classifier on a folder that has one folder of images per class, then use it.

    python examples/train_on_a_folder.py photos --out runs/photos
    python examples/train_on_a_folder.py                    # without a folder: drawn discs, squares and triangles

The model starts from random weights, which suits drawn images. For photos, `small/finetune` from released weights is
better: `convnext.train("small/finetune", data="photos", model={"weights": "convnext_tiny.in22k"})`.
"""

import argparse
import random
from pathlib import Path

from PIL import Image, ImageDraw

import convnext


def draw_classes(folder: Path, count: int, side: int = 32) -> Path:
    """Write folder/{disc,square,triangle}/{i}.png, `count` images each, in random places, sizes and colours."""
    chance = random.Random(0)
    for name, corners in {"disc": 64, "square": 4, "triangle": 3}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = Image.new("RGB", (side, side), chance.choice(["white", "lightyellow", "lavender"]))
            x, y, radius = chance.randint(12, 20), chance.randint(12, 20), chance.randint(6, 11)
            colour = chance.choice(["firebrick", "seagreen", "navy"])
            ImageDraw.Draw(image).regular_polygon((x, y, radius), corners, chance.randint(-15, 15), fill=colour)
            image.save(folder / name / f"{i}.png")
    return folder


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", nargs="?", type=Path, help="one folder of images per class")
parser.add_argument("--out", type=Path, default=Path("runs/example"), help="folder of the run")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--count", type=int, default=200, help="drawn images per class")
parser.add_argument("--workers", type=int, help="processes that load images")
arguments = parser.parse_args()

data = arguments.folder or draw_classes(arguments.out.with_name(f"{arguments.out.name}-images"), arguments.count)
run = convnext.train(
    "small/scratch",
    data=str(data),
    out=arguments.out,
    epochs=arguments.epochs,
    total_batch=32,
    device_batch=32,
    augment={"mixup": 0.0, "cutmix": 0.0},  # they need many epochs
    runtime={"workers": arguments.workers},
)
print(run)

model = run.load()
print(model)
print(model.evaluate())  # the images that the run held out

image = next(path for path in sorted(data.rglob("*")) if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
answer = model.predict(image)
print(answer)
answer.draw().save(run.folder / "prediction.png")

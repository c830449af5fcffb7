"""Images per second of `embed` beside `predict`, of the same model and the same images, in turn.

    python benchmarks/embed_speed.py --out results/embed_speed.json

Both decode the same JPEG files of 500 x 375 pixels; `embed` leaves out the head and averages the last map. Random weights. Reported
medians of processor time over the rounds, one thread.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

import convnext
from convnext.benchmark.loading import generated, measure
from convnext.benchmark.rows import environment

BATCH = 8


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=("convnext_atto", "convnext_tiny"))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder, files = Path(place), generated(arguments.images, 500, 375)
        for name in arguments.models:
            network = convnext.create_model(name, num_classes=1000)
            model = convnext.load(convnext.save_weights(network, folder / f"{name}.safetensors"), device="cpu")
            ways = {
                "embed": lambda files, model=model: model.embed(files, batch=BATCH),
                "predict": lambda files, model=model: model.predict(files, batch=BATCH),
            }
            speeds = {way: row["images_per_second"] for way, row in measure(ways, files, arguments.rounds).items()}
            rows.append({"model": name, **speeds, "embed_to_predict": round(speeds["embed"] / speeds["predict"], 3)})
            print(rows[-1], flush=True)
    result = environment(torch.device("cpu")) | {
        "what": "images per second of embed and predict, JPEG files of 500 x 375 pixels; processor time, one thread",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "batch": BATCH,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Images per second of `embed` beside `predict`, of the same model and the same images, in turn.

    python benchmarks/embed_speed.py --out results/embed_speed.json

Both decode the same JPEG files of 500 x 375 pixels; `embed` leaves out the head and averages the last map. Random weights. Reported
are medians over the rounds. Run it on an idle machine.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

import convnext
from convnext.benchmark.loading import generated
from convnext.benchmark.rows import environment

BATCH = 8


def measure(ways: dict[str, Callable[[], object]], images: int, rounds: int) -> dict[str, float]:
    """Images per second of each way, the first round left out."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in sorted(ways, reverse=number % 2 == 1):
            began = perf_counter()
            ways[name]()
            times[name].append(perf_counter() - began)
    return {name: round(images / median(each[1:]), 1) for name, each in times.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=("convnext_atto", "convnext_tiny"))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = [folder / f"{i}.jpg" for i in range(arguments.images)]
        for file, content in zip(files, generated(arguments.images, 500, 375), strict=True):
            file.write_bytes(content)
        for name in arguments.models:
            weights = convnext.save_weights(
                convnext.create_model(name, num_classes=1000), folder / f"{name}.safetensors"
            )
            model = convnext.load(weights, device="cpu")
            ways = {
                "embed": lambda model=model: model.embed(files, batch=BATCH),
                "predict": lambda model=model: model.predict(files, batch=BATCH),
            }
            row = {"model": name, **measure(ways, len(files), arguments.rounds)}
            rows.append(row | {"embed_to_predict": round(row["embed"] / row["predict"], 3)})
            print(rows[-1], flush=True)
    result = environment(torch.device("cpu")) | {
        "what": "images per second of embed and predict, decoding of JPEG files of 500 x 375 pixels included",
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

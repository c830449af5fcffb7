"""Steps per second of the quickstart's training and images per second of `convnext predict`, an earlier commit's and this tree's.

    python benchmarks/before_and_now.py --before 9beeebd --out results/before_and_now.json

Each round starts new processes, two for the earlier commit and one for this tree, and asks each in turn, in another order every
round. Training: `convnext train quickstart`, the speed that it records itself, without its evaluations. Prediction: `convnext
predict` on drawn photos with ConvNeXt-Atto at 224 px, the whole command but for the imports. A speed is the highest of all
rounds, because whatever else runs on a machine only ever takes time; `noise` is the ratio of the earlier commit's two processes,
which is 1 but for noise. The bar is 0.98: what was added for reliability may cost 2 %. Run it on an idle machine.
"""

import argparse
import contextlib
import io
import json
import runpy
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).parents[1]
BAR = 0.98
QUICKSTART = ["train", "quickstart", "--runtime.log-every", "5", "--device-batch", "64", "--total-batch", "64"]
BATCH = 64
PHOTOS = 48


def training(epochs: int) -> float:
    """Steps per second of the fastest five in a row of a quickstart's steps."""
    from convnext.cli import main

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main.run([*QUICKSTART, "--epochs", str(epochs), "--out", str(out)]) == 0
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return max(r["images_per_second"] for r in records if r["kind"] == "train") / BATCH


def prediction(folder: str) -> float:
    """Images per second of one command."""
    from convnext.cli import main

    began = perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()):
        assert main.run(["predict", f"{folder}/m.safetensors", f"{folder}/photos", "--json", "--device", "cpu"]) == 0
    return said.getvalue().count("\n") / (perf_counter() - began)


def work() -> None:
    """Answer each line of standard input, the name of a measurement and its argument, with a speed."""
    for line in sys.stdin:
        case = json.loads(line)
        speed = training(case["calls"]) if case["what"] == "training" else prediction(case["folder"])
        print(json.dumps({"speed": speed}), file=sys.__stdout__, flush=True)


def draw(folder: Path, photos: int, model: str) -> None:
    """Photos of 400 x 300 pixels and a model, for all trees the same."""
    import numpy as np
    import torch
    from PIL import Image

    from convnext import models
    from convnext.weights.save import save_weights

    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(photos):
        small = Image.fromarray(generator.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        small.resize((400, 300), Image.Resampling.BICUBIC).save(folder / "photos" / f"{i}.jpg", quality=90)
    torch.manual_seed(0)
    preprocess = {"size": 224, "crop_ratio": 0.875, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}
    metadata = {"model": {"name": model, "num_classes": 10}, "classes": [f"c{i}" for i in range(10)]}
    tensors = models.build(model, num_classes=10).state_dict()
    save_weights(tensors, folder / "m.safetensors", metadata={**metadata, "preprocess": preprocess})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--before", default="9beeebd", help="commit to compare with, or a folder with the package in it"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="of a training")
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.work:
        return work()
    trees = runpy.run_path(str(Path(__file__).with_name("rule_speed.py")))
    units = {"training": "steps/s", "predict": "images/s"}
    found: dict[str, list[list[float]]] = {what: [[], [], []] for what in units}
    with tempfile.TemporaryDirectory() as place:
        folder, given = Path(place), Path(arguments.before)
        old = given if given.is_dir() else trees["checked_out"](arguments.before, folder)
        draw(folder, arguments.photos, "convnext_atto")
        for number in range(arguments.rounds):
            now = [trees["Tree"](source, __file__) for source in (old, old, ROOT / "src")]
            for what, speeds in found.items():
                for i in sorted(range(3), key=lambda i: (i + number) % 3):
                    case = {"what": what, "folder": place}
                    if what == "predict":
                        now[i].measure(case, 0)  # the first loads what is imported late
                    speeds[i].append(now[i].measure(case, arguments.epochs)["speed"])
            for tree in now:
                tree.close()
    rows = []
    for what, (before, twin, after) in found.items():
        row = {"what": what, "unit": units[what], "before": round(max(before), 2), "now": round(max(after), 2)}
        row |= {"ratio": round(max(after) / max(before), 4), "noise": round(max(twin) / max(before), 4)}
        row["median_ratio"] = round(median(b / a for a, b in zip(before, after, strict=True)), 4)
        rows.append(row)
        print(row, "slower" if row["ratio"] < BAR else "")
    if arguments.out:
        import torch

        from convnext.benchmark.rows import environment

        result = environment(torch.device("cpu")) | {
            "what": "speed of this tree over that of an earlier commit, the highest of all rounds, in turn",
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).date().isoformat(),
            "before": arguments.before,
            "rounds": arguments.rounds,
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()

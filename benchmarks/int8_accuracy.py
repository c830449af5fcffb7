"""The accuracy that int8 costs: ours and OpenVINO's (NNCF) of the same trained models, each beside fp32.

    convnext train quickstart --out runs/quickstart
    python benchmarks/int8_accuracy.py runs/quickstart --random convnext_tiny --out results/int8_accuracy.json

Each run is exported in both formats with the defaults of `convnext export` (calibrated on its training images, layers spared
until 99 % of its held-out images agree) and evaluated on its held-out images. `--random`: networks with random weights and
without LayerScale, which would hide all errors; the mean square error of their logits on drawn scenes, as a share of the
logits' own mean square, with nothing spared beyond what each format always spares; and the seconds from `convnext.load` of their
files to a first answer and the memory that it takes, beside those of the weights that they were made of (in bf16 or fp32).
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import convnext
from convnext.benchmark.rows import commit, cpu_name
from convnext.classification.spec import SPEC
from convnext.classification.transforms import Preprocess
from convnext.export import int8
from convnext.export.images import drawn
from convnext.export.run import describe
from convnext.export.runtime import backend_of, opened
from convnext.files import to_json
from convnext.models.sparing import error
from convnext.task.spec import Loaded

FORMATS = {"convnext-int8": "m.int8.safetensors", "openvino": "m.xml"}
COMPARED = 2_000  # held-out images, of the agreement
CALIBRATED, MEASURED = 32, 16  # drawn scenes, for random weights


def of_run(run: Path, folder: Path) -> dict:
    """Accuracy of a run's best weights in fp32 and in both formats, and their agreement with fp32."""
    model = convnext.load(run, device="cpu", precision="fp32")
    exact = model.evaluate(workers=0)
    row: dict[str, Any] = {
        "run": run.name,
        "model": model.module.config["name"],
        "task": model.task,
        "images": exact.images,
        "metric": exact.primary,
        "fp32": exact[exact.primary],
    }
    for format, name in FORMATS.items():
        report = model.export(
            format, folder / f"{run.name}.{name}", precision="int8", comparison_images=COMPARED, overwrite=True
        )
        found = convnext.load(report.file).evaluate(workers=0)
        row[format] = {
            "accuracy": found[exact.primary],
            "agreement": report.comparison.agreement,
            "not_int8": len(report.metadata.kept),
            "megabytes": round(report.bytes / 1e6, 2),
        }
    return row


@torch.no_grad()
def of_random(name: str, folder: Path) -> dict:
    """The error of the logits of a network with random weights, in both formats."""
    torch.manual_seed(0)
    module = convnext.create_model(name, layer_scale_init_value=0.0).eval()
    classes = [str(i) for i in range(1000)]
    loaded = Loaded(module, classes, classes, Preprocess.for_size(224), "random weights")
    transform, scenes = SPEC.transform(loaded), drawn(224, CALIBRATED + MEASURED)
    images = [transform(scenes.image(i)) for i in range(len(scenes))]
    x = torch.stack(images[CALIBRATED:])
    row: dict[str, Any] = {
        "model": name,
        "bf16": error([module(x)], [module.deploy("bf16")(x)]),
        "first_answer": {},
    }
    weights = {"task": SPEC.name, "preprocess": {"size": 224, "crop_ratio": 0.875}}
    row["first_answer"]["weights"] = first_answer(
        convnext.save_weights(module, folder / "m.safetensors", metadata=weights)
    )
    for format, end in FORMATS.items():
        metadata = describe(SPEC, loaded, format, "int8", batch=MEASURED, size=(224, 224))
        network, _ = int8.quantize(module, metadata, images[:CALIBRATED], lambda network, kept: 100.0, 0.0)
        file = folder / f"{name}.{end}"
        backend_of(format).save(network, file, metadata)
        row[format] = error([module(x)], [opened(file, metadata)(x)])
        row["first_answer"][format] = first_answer(file)
    return row


ANSWER = """
import re, sys, time
import numpy, torch, convnext
picture = numpy.zeros((224, 224, 3), numpy.uint8)
def peak():  # getrusage would tell that of the process before the exec, too
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1]) / 1000
before, began = peak(), time.perf_counter()
model = convnext.load(sys.argv[1], device="cpu")
model.predict(picture)
seconds = time.perf_counter() - began
model.predict([picture] * 8, batch=8)
print(seconds, peak() - before)
"""


def first_answer(file: Path) -> dict[str, float]:
    """Of new processes with PyTorch imported, medians of three: seconds from `convnext.load` of a file to its first answer, and by
    how many megabytes the resident set grew at most until eight images at once were answered."""
    command = [sys.executable, "-c", ANSWER, str(file)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(3)]
    seconds, megabytes = (statistics.median(map(float, each)) for each in zip(*runs, strict=True))
    return {"seconds": round(seconds, 2), "megabytes": round(megabytes)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*", help="folders of `convnext train`")
    parser.add_argument("--random", nargs="*", default=[], help="names of networks")
    parser.add_argument("--out", type=Path, default=Path("results/int8_accuracy.json"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        trained = [of_run(run, Path(folder)) for run in args.runs]
        random = [of_random(name, Path(folder)) for name in args.random]
    for row in (*trained, *random):
        print(row)
    record = {
        "what": "int8 of trained models on their held-out images, and the error of logits of random weights",
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "device": f"{cpu_name()}, {torch.get_num_threads()} of {os.cpu_count()} cores",
        "versions": {
            "convnext": convnext.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "openvino", "nncf")},
        },
        "trained": trained,
        "random": random,
    }
    args.out.write_text(to_json(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

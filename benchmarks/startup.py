"""Seconds until a person sees something, beside the import of torch: each command in a process of its own, in turn.

    python benchmarks/startup.py --out results/startup.json

A mistake in a name; the prediction of one image by the quickstart's model; training from the command to its first step. The
ratio is to `python -c "import torch"` in the same round, and what is reported is the median over the rounds, after one that
is not counted. Bars: 0.4 s, 2.5 s, 4 s; ratios 0.3, 1.6, 2.5. Run it on an idle machine: a busy one (load above half a core
for each core) writes no file.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from PIL import Image

BARS = {"mistake": (0.4, 0.3), "predict": (2.5, 1.6), "first step": (4.0, 2.5)}
"""Seconds, and ratio to `import torch`."""
CONVNEXT = [sys.executable, "-m", "convnext"]


def seconds(command: list[str], until: str | None = None, code: int = 0) -> float:
    """From the start of a command to its end, or to the first line of its output that holds `until`.

    Raises:
        RuntimeError: it ended with another code than `code`, or without that line.
    """
    began = time.perf_counter()
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if until and until in line:
                taken = time.perf_counter() - began
                process.terminate()
                process.communicate()
                return taken
    if process.returncode != code or until:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(lines)}")
    return time.perf_counter() - began


def measure(rounds: int, folder: Path, options: list[str]) -> dict[str, dict]:
    """Median seconds of `import torch` and of each command, with ratios; `options` are of the training."""
    image, run = folder / "image.png", folder / "run"
    Image.new("RGB", (64, 64)).save(image)
    train = [*CONVNEXT, "train", "quickstart", *options]
    seconds([*train, "--epochs", "1", "--out", str(run)])
    fresh = iter(range(1000))
    commands: dict[str, Callable[[], float]] = {
        "torch": lambda: seconds([sys.executable, "-c", "import torch"]),
        "mistake": lambda: seconds([*CONVNEXT, "train", "small/finetun"], code=2),
        "predict": lambda: seconds([*CONVNEXT, "predict", str(run), str(image)]),
        "first step": lambda: seconds(
            [*train, "--runtime.log-every", "1", "--out", str(folder / f"fresh{next(fresh)}")], until="train  epoch"
        ),
    }
    times = [{name: run() for name, run in commands.items()} for _ in range(rounds + 1)][1:]
    return {
        name: {
            "seconds": round(median(each[name] for each in times), 3),
            "ratio": round(median(each[name] / each["torch"] for each in times), 3),
        }
        for name in commands
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments, options = parser.parse_known_args(argv)
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.rounds, Path(folder), options)
    for name, values in found.items():
        bar = "   bars {} s, {}".format(*BARS[name]) if name in BARS else ""
        print(f"{name:10}  {values['seconds']:6.2f} s  {values['ratio']:5.2f} of `import torch`{bar}")
    if load > cores / 2:
        print(f"The machine was busy (load {load:.1f} on {cores} cores): nothing is written.")
        return 1
    if arguments.out:
        facts = {"python": platform.python_version(), "processor": platform.processor(), "cores": cores, "load": load}
        arguments.out.write_text(json.dumps(facts | {"rounds": arguments.rounds, "rows": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

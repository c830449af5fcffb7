"""Seconds until a person sees something, beside the import of torch: each command in a process of its own, in turn.

    python benchmarks/startup.py --out results/startup.json

A mistake in a name; the prediction of one image by the quickstart's model; training from the command to its first step. The
ratio is to `python -c "import torch"` in the same round, and what is reported is the median over the rounds, after one that
is not counted. Bars: 0.4 s, 2.5 s, 4 s; ratios 0.3, 1.6, 2.5. Before them the whole of `convnext train` is run once, which
has to take less than a minute. Run it on an idle machine: one that is busy before (above a quarter of its cores, for two
seconds) writes no file.
Python's caches of compiled modules have to be there (no PYTHONDONTWRITEBYTECODE), as they are after an installation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from convnext.benchmark.rows import environment

BARS = {"quickstart": (60.0, None), "mistake": (0.4, 0.3), "predict": (2.5, 1.6), "first step": (4.0, 2.5)}
"""Seconds, and ratio to `import torch`; "quickstart" is a whole run."""
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


def busy(interval: float = 2.0) -> float:
    """Share of all cores that other processes keep busy, by Linux's counters; 0 where there are none."""

    def counted() -> tuple[int, int]:
        user, nice, system, idle, wait, *others = map(int, stat.read_text().split("\n", 1)[0].split()[1:8])
        return user + nice + system + sum(others), idle + wait

    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    before = counted()
    time.sleep(interval)
    working, idle = (after - first for after, first in zip(counted(), before, strict=True))
    return working / max(working + idle, 1)


def measure(rounds: int, folder: Path, options: list[str]) -> dict[str, dict]:
    """Seconds of the whole training with `options`, and its top-1; medians of `import torch` and of each command, with ratios."""
    image, run = folder / "image.png", folder / "run"
    Image.new("RGB", (64, 64)).save(image)
    train = [*CONVNEXT, "train", "quickstart", *options]
    whole = seconds([*train, "--out", str(run)])
    best = json.loads((run / "summary.json").read_text())["best"]["score"]
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
    return {"quickstart": {"seconds": round(whole, 1), "top1": round(best, 2)}} | {
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
    share = busy()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.rounds, Path(folder), options)
    for name, values in found.items():
        ratio = f"{values['ratio']:5.2f} of `import torch`" if "ratio" in values else ""
        bars = " and ".join(str(bar) for bar in BARS.get(name, ()) if bar)
        print(f"{name:10}  {values['seconds']:6.2f} s  {ratio:24}  {bars and 'bars: ' + bars}".rstrip())
    if share > 0.25:
        print(f"The machine was busy with other work ({share:.0%} of its cores): nothing is written.")
        return 1
    if arguments.out:
        facts = environment(torch.device("cpu")) | {
            "command": "python benchmarks/startup.py --out results/startup.json"
        }
        facts |= {"date": time.strftime("%Y-%m-%d"), "busy_before": round(share, 3), "rounds": arguments.rounds}
        arguments.out.write_text(json.dumps(facts | {"bars": BARS, "rows": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

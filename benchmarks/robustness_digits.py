"""The quickstart's model on corrupted digits: the table and the figure of docs/robustness.md.

convnext train quickstart && convnext robustness runs/quickstart --corrupt digits
python benchmarks/robustness_digits.py runs/quickstart --out results/robustness_digits.json
"""

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from convnext import __version__
from convnext.benchmark.rows import commit, cpu_name
from convnext.data.corruptions import SEVERITIES


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="where a copy of the run's figure goes")
    arguments = parser.parse_args(argv)
    folder = arguments.run / "robustness"
    (model,) = json.loads((folder / "robustness.json").read_text())["models"].values()
    config = json.loads((arguments.run / "config.json").read_text())
    summary = model["summary"]
    errors = {
        name: [round(by_severity[str(severity)], 2) for severity in SEVERITIES]
        for name, by_severity in summary["errors"]["generated"].items()
    }
    result = {
        "what": "the quickstart's model (convnext_atto on 8 px digits) on corrupted held-out digits; corruptions "
        "generated, not the released sets",
        "command": "convnext train quickstart && convnext robustness runs/quickstart --corrupt digits",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "device": f"{torch.get_num_threads()} CPU cores ({cpu_name()})",
        "versions": {"python": platform.python_version(), "convnext": __version__, "torch": torch.__version__},
        "model": config["model"]["name"],
        "images": model["units"][0]["images"],
        "clean_error": round(summary["generated"]["clean_error"], 2),
        "mean_error": round(summary["generated"]["mean_error"], 2),
        "errors": errors,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.figure:
        shutil.copyfile(folder / "robustness.png", arguments.figure)


if __name__ == "__main__":
    main(sys.argv[1:])

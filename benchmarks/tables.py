"""Write the tables of README.md and docs/ from results/*.json: `python benchmarks/tables.py` (a test checks they are current).

A page marks a place with `<!-- table: NAME -->` and `<!-- end -->`; what stands between is replaced.
"""

import json
import re
from pathlib import Path

from convnext.report.table import markdown

ROOT = Path(__file__).parents[1]


def small_scratch(result: dict) -> str:
    rows = [
        (
            side,
            row["epochs"],
            round(row["images_per_second"]),
            round(row["seconds"] / 60, 1),
            round(row["top1"]["raw"], 2),
            round(row["top1"]["ema"], 2),
        )
        for side, row in result["rows"].items()
    ]
    table = markdown(rows, ("", "epochs", "images/s", "minutes", "top-1 % raw", "top-1 % EMA"))
    return (
        f"{result['model']} from random weights on CIFAR-10 (re-encoded as JPEG, so not the official numbers), "
        f"{result['minutes']:g} minutes of training each, in turn, on {result['device']}, torch {result['versions']['torch']}:\n"
        f"our engine against timm's model of the same size in a plain loop with the same transforms and schedule "
        f"(`benchmarks/small_scratch.py`, `results/{Path(result['file']).name}`).\n\n{table}"
    )


TABLES = {"small_scratch_cifar10": small_scratch}


def rendered(page: Path) -> str:
    """The page with its tables as the results have them now."""

    def table(found: re.Match) -> str:
        name = found[1]
        path = ROOT / "results" / f"{name}.json"
        result = json.loads(path.read_text()) | {"file": str(path)}
        return f"<!-- table: {name} -->\n{TABLES[name](result)}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", table, page.read_text(), flags=re.DOTALL)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(rendered(page))

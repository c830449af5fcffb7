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


def robustness(result: dict) -> str:
    rows = [(name.replace("_", " "), *errors, round(sum(errors) / 5, 1)) for name, errors in result["errors"].items()]
    table = markdown(rows, ("error in %", *(f"severity {i}" for i in range(1, 6)), "mean"))
    return (
        f"{result['model']}, {result['images']} held-out images, clean error {result['clean_error']} %, mean error over all "
        f"{result['mean_error']} % (`{result['command']}`, `results/{Path(result['file']).name}`).\n\n{table}"
    )


def corruptions(result: dict) -> str:
    rows = [
        (name.replace("_", " "), round(row["images_per_second"]), *row["psnr_db"])
        for name, row in result["corruptions"].items()
    ]
    table = markdown(rows, ("", "images/s and core", *(f"PSNR at {i}" for i in range(1, 6))))
    return (
        f"Mean PSNR in dB of {len(result['photos'])} photos at 224 px at each severity, and the speed "
        f"({result['images_per_second_over_imagenet_c']:.0f} images/s over the 15 of ImageNet-C; {result['device']}; "
        f"`benchmarks/corruptions.py`, `results/{Path(result['file']).name}`).\n\n{table}"
    )


def overfit(result: dict) -> str:
    metrics = result["metrics"]
    shown = ", ".join(
        f"{title} {metrics[key]:g}"
        for key, title in (
            ("box_ap", "box AP"), ("box_ap50", "box AP50"), ("mask_ap", "mask AP"), ("miou", "mIoU"), ("aacc", "pixel accuracy")
        )
        if key in metrics
    )  # fmt: skip
    return (
        f"{result['what']}: {shown} after {result['steps']} steps in {result['minutes']:g} minutes on {result['device']} "
        f"(`benchmarks/overfit.py`, `results/{Path(result['file']).name}`)."
    )


TABLES = {
    "small_scratch_cifar10": small_scratch,
    "robustness_digits": robustness,
    "corruptions": corruptions,
    "overfit_segmentation": overfit,
    "overfit_mask_rcnn": overfit,
    "overfit_cascade_mask_rcnn": overfit,
}


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

"""`convnext predict MODEL ...`: the same verb for every task."""

from convnext.cli.options import by_task

DESCRIPTION = """Classify images: a table on the terminal, or JSON lines with --json.

    convnext predict runs/small-finetune holiday/*.jpg
    convnext predict model.safetensors photos/ --top-k 3 --json > predictions.jsonl
    convnext predict convnext_tiny.in1k cat.png

Exit code 2 if an image could not be read; the others are still classified."""


def run(argv: list[str]) -> int:
    return by_task("predict", argv, DESCRIPTION)

"""`convnext evaluate MODEL ...`: the same verb for every task."""

from convnext.cli.options import by_task

DESCRIPTION = """Accuracy on labelled images: top-1, top-5, loss, per class, and a confusion figure.

    convnext evaluate runs/small-finetune                 a run, raw and EMA, on the images it held out
    convnext evaluate model.safetensors --data photos     a checkpoint on a folder with one folder per class
    convnext evaluate convnext_base.in22k_in1k --data imagenet --out results/base

Several processes share the work: torchrun --nproc-per-node 8 -m convnext evaluate ..."""


def run(argv: list[str]) -> int:
    return by_task("evaluate", argv, DESCRIPTION)

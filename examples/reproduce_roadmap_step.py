"""Train one step of the paper's way from ResNet to ConvNeXt (Tables 10 and 11), and put the paper's number beside it.

    torchrun --nproc-per-node 8 examples/reproduce_roadmap_step.py depthwise --data imagenet
    python examples/reproduce_roadmap_step.py depthwise --tiny     # a narrow network on digits: shows the way, not the number

Steps: resnet, stage-ratio, patchify-stem, depthwise, width, inverting, move-up, kernel-7, gelu, .. (`convnext info roadmap`).
"""

import argparse

import convnext
from convnext.paper import STEPS, roadmap_step

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("step", nargs="?", default="depthwise", choices=STEPS)
parser.add_argument("--regime", default="resnet50", choices=("resnet50", "resnet200"))
parser.add_argument("--data", default="imagenet")
parser.add_argument("--out", help="folder of the run")
parser.add_argument(
    "--tiny", action="store_true", help="an eighth of the width and a third of the depth, digits, 1 epoch"
)
arguments = parser.parse_args()

options = {"data": arguments.data}
if arguments.tiny:
    options = {
        "data": "digits",
        "image_size": 32,
        "epochs": 1,
        "total_batch": 64,
        "device_batch": 64,
        "model": {"width_mult": 0.125, "depth_mult": 0.34},
        "augment": {"hflip": 0.0, "rand_augment": None, "mixup": 0.0, "cutmix": 0.0},
        "optim": {"warmup_epochs": 0},
        "runtime": {"workers": 0},
    }
run = convnext.train(f"roadmap/{arguments.regime}-{arguments.step}", out=arguments.out, **options)

printed = roadmap_step(arguments.regime, arguments.step)
print(f"paper, ImageNet-1K: {printed.top1} % at {printed.gflops} GFLOPs")
print(f"this run, {run.recipe.data}: {run.best['score']:.1f} %")
print(f"draw Figure 2 with it: convnext report roadmap {run.folder}")

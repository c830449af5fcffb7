"""Pictures of two classes that anybody can tell apart, and the options of a run that is over in seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

TINY = (
    "--model.name roadmap_resnet50_separate-downsampling --model.width-mult 0.125 --model.depth-mult 0.34 "
    "--runtime.workers 0 --runtime.device cpu"
).split()
SCRATCH = [*TINY, *"--image-size 16 --model.stem-stride 1 --total-batch 32 --epochs 12".split()]


def draw_classes(root: Path, counts: dict[str, int], size: int = 16) -> Path:
    """`root/{class}/{i}.png`: stripes across for "across", stripes down for any other class, with noise."""
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            stripes = np.sin(np.arange(size) * 1.5 + generator.uniform(0, 6))[:, None] * np.ones(size)
            picture = stripes if name == "across" else stripes.T
            noisy = 128 + 90 * picture[..., None] + generator.normal(0, 20, (size, size, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root

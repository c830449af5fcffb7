"""One process that cannot read an image ends all of them, with the same sentence and without waiting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from convnext.classification import evaluate as classification
from convnext.data.images import ImageError
from convnext.data.loader import EvalSamples, eval_loader
from convnext.data.pixels import DensePreprocess
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.detection import evaluate as detection
from convnext.detection.coco import open_coco
from convnext.runtime.world import World
from convnext.segmentation import miou
from convnext.segmentation.masks import open_masks

CPU = torch.device("cpu")


class Labelled:
    """Five images with one label each, of which the fourth is broken: it is the second process's last."""

    classes = ["a", "b"]

    def __len__(self) -> int:
        return 5

    def name(self, i: int) -> str:
        return f"labelled/{i}"

    def image(self, i: int) -> Image.Image:
        if i == 3:
            raise ImageError("labelled/3 is broken.")
        return Image.new("RGB", (32, 32))

    def target(self, i: int) -> int:
        return i % 2


class Model(nn.Module):
    """Answers nothing in the form of every task."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def predict(self, x, image_sizes, output_sizes):
        return [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()} for _ in x]

    def forward(self, x):
        return torch.zeros(len(x), 4, *x.shape[2:])


def work(rank: int, folder: Path) -> None:
    """One of two processes; prints the sentences with which the three evaluations end, then what a fourth counts."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    world, pre = World(CPU, rank, 2, 2), DensePreprocess(32, 64)
    loader = eval_loader(EvalSamples(Labelled(), lambda image: torch.zeros(3, 4, 4)), 1, 0, False, rank, 2)
    boxes, labels = open_coco(folder / "coco")[1], open_masks(folder / "masks", 0.1, 0, reduce_zero_label=True)[1]
    messages = []
    for run in (
        lambda: classification.evaluate({"raw": nn.Flatten()}, loader, 48, world),
        lambda: detection.evaluate({"raw": Model()}, boxes, pre, world, reference=False),
        lambda: miou.evaluate({"raw": Model()}, labels, pre, world, mode="whole"),
    ):
        try:
            run()
            messages.append("read")
        except ImageError as error:
            messages.append(str(error))
    print(json.dumps(messages), flush=True)
    torch.distributed.destroy_process_group()


def test_all_processes_end_with_the_same_sentence(tmp_path):
    write_shapes(tmp_path / "coco", 2, 5, 48)
    write_shapes_semantic(tmp_path / "masks", 2, 5, 48)
    broken = tmp_path / "coco/val/000006.png", tmp_path / "masks/images/validation/000006.png"
    for path in broken:
        path.write_bytes(b"no image")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"import test_evaluation as t; t.work({rank}, t.Path({str(tmp_path)!r}))"],
            cwd=Path(__file__).parent,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (json.loads(process.communicate(timeout=100)[0]) for process in processes)
    assert first == second
    for message, name in zip(first, ("labelled/3", *broken), strict=True):
        assert str(name) in message
        assert "Evaluation leaves no image out" in message

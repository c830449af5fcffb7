"""mIoU against counting by hand; the same for any number of processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convnext.data.images import ImageError
from convnext.data.pixels import DensePreprocess
from convnext.errors import ConvNextError
from convnext.runtime.interruption import Interrupted
from convnext.runtime.world import World
from convnext.segmentation.miou import Confusion, Result, evaluate

K = 7
CPU = torch.device("cpu")
WORLD = World(CPU)
PRE = DensePreprocess(short=32, long=128)


class Masks:
    """Images whose red is the class that `Planted` answers, in blocks, and targets that often agree."""

    classes = [f"class {i}" for i in range(K)]

    def __init__(self, count=5):
        self.count = count

    def __len__(self):
        return self.count

    def name(self, i):
        return f"mask/{i}"

    def answers(self, i):
        rng = np.random.default_rng(i)
        # classes 5 and 6 are never answered, and images have different shapes
        return rng.integers(0, 5, (4, 4 + i)).repeat(8, 0).repeat(8, 1).astype(np.uint8)

    def image(self, i):
        return Image.fromarray(np.stack([self.answers(i) * 36] * 3, -1))

    def target(self, i):
        answers, rng = self.answers(i), np.random.default_rng(100 + i)
        target = np.where(rng.random(answers.shape) < 0.6, answers, rng.integers(0, 6, answers.shape)).astype(np.uint8)
        target[rng.random(answers.shape) < 0.2] = 255
        return target


class Planted(nn.Module):
    """Reads the class of each pixel back from its red, shifted by `shift` classes."""

    def __init__(self, shift=0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(float(shift)))
        self.was_training = []

    def forward(self, x):
        self.was_training.append(self.training)
        red = (x[:, :1] * PRE.std[0] + PRE.mean[0]) * 255 / 36 + self.shift
        return -(red - torch.arange(K)[:, None, None]).abs()


def counted(dataset, shift=0):
    """(K, K) pixels by a loop over images and classes."""
    matrix = np.zeros((K, K), dtype=np.int64)
    for i in range(len(dataset)):
        answers, target = dataset.answers(i) + shift, dataset.target(i)
        for true in range(K):
            for guess in range(K):
                matrix[true, guess] += ((target == true) & (answers == guess)).sum()
    return matrix


def test_equals_counting_by_hand():
    data = Masks()
    model = Planted().train()
    results = evaluate({"raw": model, "ema": Planted(shift=1)}, data, PRE, WORLD)
    for label, shift in (("raw", 0), ("ema", 1)):
        expected, result = counted(data, shift), results[label]
        assert (result.confusion == expected).all()
        ious, accuracies = [], []
        for k in range(K):
            hit, true, guessed = expected[k, k], expected[k].sum(), expected[:, k].sum()
            iou = hit / (true + guessed - hit) if true + guessed else None
            assert (result.iou[k] == pytest.approx(100 * iou)) if iou is not None else np.isnan(result.iou[k])
            ious += [iou] if iou is not None else []
            accuracies += [hit / true] if true else []
        assert result.metrics() == pytest.approx(
            {
                "miou": 100 * np.mean(ious),
                "macc": 100 * np.mean(accuracies),
                "aacc": 100 * expected.trace() / expected.sum(),
            }
        )
    # class 5 has pixels and no answers: it counts as 0; class 6 has neither: it does not count
    assert results["raw"].iou[5] == 0
    assert np.isnan(results["raw"].iou[6])
    assert np.isnan(results["raw"].accuracy[6])
    assert model.training
    assert not any(model.was_training)


def test_random_masks_with_ignored_pixels():
    rng = np.random.default_rng(0)
    confusion, expected = Confusion(150, CPU), np.zeros((150, 150), dtype=np.int64)
    for size in ((40, 50), (33, 21)):
        labels, guesses = rng.integers(0, 150, size).astype(np.uint8), rng.integers(0, 150, size).astype(np.uint8)
        labels[rng.random(size) < 0.3] = 255
        confusion.add(torch.from_numpy(labels), torch.from_numpy(guesses))
        np.add.at(expected, (labels[labels != 255], guesses[labels != 255]), 1)
    assert (confusion.result(WORLD).confusion == expected).all()
    assert expected.sum() < 40 * 50 + 33 * 21


def test_perfect_and_empty():
    diagonal = np.diag([5, 0, 3]).astype(np.int64)
    assert Result(diagonal).metrics() == {"miou": 100.0, "macc": 100.0, "aacc": 100.0}
    assert np.isnan(list(Result(np.zeros((3, 3), dtype=np.int64)).metrics().values())).all()


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_modes_reach_the_network(mode):
    data, model = Masks(2), Planted()
    evaluate({"raw": model}, data, PRE, WORLD, mode=mode, **({"crop": 32, "stride": 16} if mode == "slide" else {}))
    # widths 32 and 40: one window, or two where it is wider than the crop
    assert len(model.was_training) == (2 if mode == "whole" else 3)


# -- what can go wrong


def test_a_label_beyond_the_classes_is_named():
    with pytest.raises(ConvNextError, match=r"label 7; with 7 classes"):
        Confusion(K, CPU).add(torch.tensor([[7, 255]]), torch.zeros(1, 2))


def test_a_target_of_another_size_is_named():
    data = Masks()
    data.target = lambda i: np.zeros((32, 31), dtype=np.uint8)
    with pytest.raises(ConvNextError, match=r"mask/0 has 32 x 32 pixels and its target 31 x 32"):
        evaluate({"raw": Planted()}, data, PRE, WORLD)


def test_an_unreadable_image_ends_it_by_name():
    data, model = Masks(), Planted()

    def image(i):
        if i == 3:
            raise ImageError("mask/3 is broken.")
        return Masks.image(data, i)

    data.image = image
    with pytest.raises(ImageError, match=r"mask/3.*leaves no image out"):
        evaluate({"raw": model}, data, PRE, WORLD, mode="whole")
    assert len(model.was_training) == 3


def test_it_stops_when_asked():
    asked, done = iter([False, False, True]), []
    with pytest.raises(Interrupted):
        evaluate({"raw": Planted()}, Masks(), PRE, WORLD, interrupted=lambda: next(asked), progress=done.append)
    assert done == [1, 2]


# -- several processes


def work(rank: int, store: str) -> None:
    """One of two processes; the main one prints the matrix, and both how often they were asked to stop."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    world, asked, done = World(CPU, rank, 2, 2), [], []
    results = evaluate(
        {"raw": Planted()}, Masks(5), PRE, world, interrupted=lambda: world.any(asked.append(1) or False), progress=done.append
    )  # fmt: skip
    print(json.dumps({"confusion": results["raw"].confusion.tolist(), "asked": len(asked), "done": done}))
    torch.distributed.destroy_process_group()


def test_two_processes_count_what_one_does(tmp_path):
    here = Path(__file__).parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"import test_miou; test_miou.work({rank}, {str(tmp_path / 'store')!r})"],
            cwd=here,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [json.loads(process.communicate(timeout=100)[0]) for process in processes]
    alone = evaluate({"raw": Planted()}, Masks(5), PRE, WORLD)["raw"].confusion.tolist()
    assert [answer["confusion"] for answer in answers] == [alone, alone]
    # 5 images: 3 and 2, and equally many questions
    assert [answer["done"] for answer in answers] == [[1, 2, 3], [1, 2]]
    assert [answer["asked"] for answer in answers] == [3, 3]

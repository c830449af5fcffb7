"""Accuracy, loss and confusion, held against counting by hand; the same for any number of processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from convnext import recipes
from convnext.classification.dataset import ArrayDataset
from convnext.classification.evaluate import Tally, evaluate
from convnext.classification.spec import SPEC, among
from convnext.data.images import ImageError
from convnext.data.loader import Batch
from convnext.runtime.interruption import Interrupted
from convnext.runtime.world import World
from convnext.task.spec import Loaded

WORLD = World(torch.device("cpu"))
K = 7


class Planted(nn.Module):
    """Answers with the "image" itself: images are logits here."""

    def forward(self, x):
        return x


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(100, K, generator=generator), torch.randint(0, K, (100,), generator=generator)


def batches(logits, labels, size):
    for i in range(0, len(labels), size):
        yield Batch(logits[i : i + size], labels[i : i + size], list(range(i, min(i + size, len(labels)))), [])


def test_equals_counting_by_hand(data):
    logits, labels = data
    result = evaluate({"raw": Planted()}, batches(*data, 32), K, WORLD)["raw"]
    order = np.argsort(-logits.numpy(), axis=1)
    right = order == labels.numpy()[:, None]
    assert result.top1 == pytest.approx(100 * right[:, 0].mean())
    assert result.top5 == pytest.approx(100 * right[:, :5].any(1).mean())
    assert result.loss == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-12)
    expected = np.zeros((K, K), int)
    for true, guess in zip(labels.tolist(), order[:, 0].tolist(), strict=True):
        expected[true, guess] += 1
    assert (result.confusion == expected).all()
    assert (result.count == expected.sum(1)).all()
    assert (result.correct1 == expected.diagonal()).all()


def test_the_answer_to_each_image_is_kept_where_it_is_asked_for(data):
    logits, labels = data
    found = evaluate({"raw": Planted()}, batches(*data, 32), K, WORLD, images=100)["raw"].answers
    assert found is not None
    probabilities = logits.double().softmax(1)
    assert (found.said == logits.argmax(1).numpy()).all()
    assert found.confidence == pytest.approx(probabilities.max(1).values.numpy())
    assert found.truth == pytest.approx(probabilities[range(100), labels].numpy())
    assert evaluate({"raw": Planted()}, batches(*data, 32), K, WORLD)["raw"].answers is None


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_batch_size_changes_nothing(data, size):
    one, other = (evaluate({"raw": Planted()}, batches(*data, s), K, WORLD)["raw"] for s in (32, size))
    assert (one.confusion == other.confusion).all()
    assert one.loss == pytest.approx(other.loss, rel=1e-12)


def test_several_processes_add_up_to_one(data):
    """What each process counts, added as the all-reduce adds it."""
    logits, labels = data
    whole = Tally(K, torch.device("cpu"))
    whole.add(logits, labels)
    parts = [Tally(K, torch.device("cpu")) for _ in range(3)]
    for rank, part in enumerate(parts):
        part.add(logits[rank::3], labels[rank::3])
    assert sum(part.counts for part in parts).equal(whole.counts)
    assert sum(part.confusion for part in parts).equal(whole.confusion)
    assert sum(part.loss for part in parts).item() == pytest.approx(whole.loss.item(), rel=1e-12)


def test_fewer_than_five_classes():
    logits, labels = torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 0])
    result = evaluate({"raw": Planted()}, batches(logits, labels, 2), 2, WORLD)["raw"]
    assert result.top1 == 50
    assert result.top5 == 100


def test_models_are_left_in_the_mode_they_were_in(data):
    model = Planted().train()
    evaluate({"raw": model}, batches(*data, 50), K, WORLD)
    assert model.training


def test_an_unreadable_image_ends_it_by_name(data):
    broken = Batch(data[0][:2], data[1][:2], [0, 1], ["cat/7.png is broken."])
    with pytest.raises(ImageError, match=r"cat/7\.png.*leaves no image out"):
        evaluate({"raw": Planted()}, [broken], K, WORLD)


def test_it_stops_when_asked(data):
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        evaluate({"raw": Planted()}, batches(*data, 10), K, WORLD, interrupted=lambda: next(asked))


class Brightest(nn.Module):
    """Answers with the class that the image's mean says, among 5."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return -(x.mean((1, 2, 3))[:, None] - torch.arange(5.0)).abs() + self.weight


def test_answers_can_be_chosen_among_the_datas_classes():
    images = ArrayDataset("grey", np.zeros((4, 2, 2), np.uint8), np.array([1, 4, 4, 1]), list("abcde"))
    loaded = Loaded(Brightest(), list("abcde"), list("ABCDE"), None, "file", {})
    models, samples, limited = among({"best": loaded}, images, "data")
    assert limited
    assert (models["best"].classes, models["best"].names, samples.labels.tolist()) == (
        ["b", "e"],
        ["B", "E"],
        [0, 1, 1, 0],
    )
    x = torch.full((1, 3, 2, 2), 3.0)
    assert (Brightest()(x).argmax().item(), models["best"].module(x).argmax().item()) == (3, 1)  # d, which no image has
    assert among({"best": loaded}, images, "auto") == ({"best": loaded}, images, False)  # only of ImageNet-22K's


def test_images_are_turned_or_not(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.full((20, 40, 3), 7, np.uint8)).save(tmp_path / name / f"{i}.jpg", exif=exif)
    recipe = replace(recipes.get("table5/tiny"), data=str(tmp_path), val_share=0.5)
    for upright, size in ((False, (40, 20)), (True, (20, 40))):
        train, val = SPEC.open_data(replace(recipe, upright=upright))
        assert {images.image(0).size for images in (train, val)} == {size}
        whole = SPEC.open_split(replace(recipe, upright=upright), "all")
        assert {part.image(0).size for part in (whole, train.subset([0]), train.relabeled(train.labels, ["x"]))} == {
            size
        }
    assert not recipe.upright

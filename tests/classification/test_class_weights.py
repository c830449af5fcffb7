"""Weights of classes, and the accuracy that counts every class alike, beside scikit-learn and PyTorch."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import recall_score
from sklearn.utils.class_weight import compute_class_weight

from convnext.classification.evaluate import Tally
from convnext.classification.mixup import make_mixup
from convnext.classification.task import ClassificationTask
from convnext.classification.weights import class_weights
from convnext.data.loader import Batch
from convnext.errors import ConvNextError
from convnext.recipes.schema import Augment, Classification
from convnext.runtime.world import World
from convnext.seeding import seed_all

COUNTS = np.array([90, 9, 1])
CLASSES = ["cat", "dog", "owl"]


def test_balanced_is_that_of_scikit_learn():
    labels = np.repeat([0, 1, 2], COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights("balanced", COUNTS, CLASSES) == pytest.approx(expected)


def test_the_mean_over_the_images_is_one():
    for option in ("balanced", "inverse-sqrt"):
        assert (class_weights(option, COUNTS, CLASSES) * COUNTS).sum() / 100 == pytest.approx(1)
    roots = class_weights("inverse-sqrt", COUNTS, CLASSES)
    assert roots[2] / roots[1] == pytest.approx(3)


def test_weights_from_a_file(tmp_path):
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({"owl": 4, "cat": 1, "dog": 2}))
    found = class_weights(str(file), COUNTS, CLASSES)
    assert found / found[0] == pytest.approx([1, 2, 4])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "object"),
        ("{", "JSON"),
        ('{"cat": 1, "dog": 1}', "owl"),
        ('{"cat": 1, "dog": 1, "owl": 1, "dgo": 1}', "'dog'"),
        ('{"cat": 1, "dog": 1, "owl": -1}', "at least 0"),
        ('{"cat": 1, "dog": 1, "owl": "2"}', "number"),
        ('{"cat": 0, "dog": 0, "owl": 0}', "every training image"),
    ],
)
def test_a_wrong_file_is_answered_in_a_sentence(tmp_path, text, words):
    file = tmp_path / "weights.json"
    file.write_text(text)
    with pytest.raises(ConvNextError, match=words):
        class_weights(str(file), COUNTS, CLASSES)


def test_a_mistyped_rule_gets_the_nearest():
    with pytest.raises(ConvNextError, match="'balanced'"):
        class_weights("balancd", COUNTS, CLASSES)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_is_that_of_pytorch(mixed):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(8, 3, generator=generator), torch.randint(0, 3, (8,), generator=generator)
    weights = torch.tensor([0.4, 1.0, 3.0])
    augment = Augment(mixup=0.8 * mixed, cutmix=0.0, label_smoothing=0.1)
    task = SimpleNamespace(
        weights=weights, mixup=make_mixup(augment, 3), recipe=Classification(augment=augment), classes=CLASSES
    )
    batch = Batch(torch.zeros(8, 3, 4, 4), labels, list(range(8)), [])
    seed_all(1)
    batch = ClassificationTask.mix(task, batch)
    loss = ClassificationTask.losses(task, lambda images: logits, batch)["loss"]
    seed_all(1)
    if mixed:
        _, soft = make_mixup(augment, 3)(batch.images, labels)
        expected = F.cross_entropy(logits, soft, weights)  # PyTorch's mean of soft targets is over the images
    else:
        each = F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=0.1)
        expected = each.mean()
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_balanced_accuracy_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 5, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    tally = Tally(5, torch.device("cpu"))  # two classes have no image
    tally.add(logits, labels)
    assert labels.bincount(minlength=5).tolist()[3:] == [0, 0]
    expected = recall_score(
        labels, logits.argmax(1), labels=[0, 1, 2], average="macro"
    )  # balanced_accuracy_score warns
    assert tally.result(World(torch.device("cpu"))).balanced == pytest.approx(100 * expected)

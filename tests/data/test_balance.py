"""Epochs in which rare classes come more often."""

import numpy as np
import pytest

from convnext.classification.dataset import ArrayDataset
from convnext.data.balance import POWERS, Resampled
from convnext.data.loader import TrainSamples
from convnext.data.sampler import TrainBatches, epoch_order

LABELS = np.repeat([0, 1, 2], [90, 9, 1])


@pytest.mark.parametrize(("sampling", "expected"), [("balanced", [34, 33, 33]), ("sqrt", [70, 22, 8])])
def test_shares_of_the_classes(sampling, expected):
    resampled = Resampled(LABELS, POWERS[sampling])
    order = epoch_order(100, 0, 0, resampled)
    assert np.bincount(LABELS[order]).tolist() == resampled.quotas().tolist() == expected
    counts = np.bincount(order, minlength=100)
    for label in range(3):  # no image of a class twice more than another
        assert np.ptp(counts[label == LABELS]) <= 1


def test_a_class_without_images_and_the_data_as_it_is():
    assert Resampled(np.array([0, 2, 2, 2]), 0.0).quotas().tolist() == [2, 0, 2]
    assert Resampled(LABELS, 1.0).quotas().tolist() == [90, 9, 1]


def test_the_draws_depend_on_seed_and_epoch_alone():
    resampled = Resampled(LABELS, 0.0)
    assert epoch_order(100, 3, 5, resampled).tolist() == epoch_order(100, 3, 5, resampled).tolist()
    assert set(epoch_order(100, 3, 5, resampled)) != set(epoch_order(100, 3, 6, resampled))  # others of the large class


def test_steps_are_the_same_for_any_number_of_processes_and_go_on_in_the_middle():
    def keys(**options):
        return list(TrainBatches(**({"samples": 100, "seed": 0, "total_batch": 8, "accumulation": 1,
                                     "total_steps": 30, "drawn": Resampled(LABELS, 0.0)} | options)))  # fmt: skip

    whole = keys()
    assert keys(start=17) == whole[17:]
    ranks = [keys(world=2, rank=rank, accumulation=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        parts = [key for rank in ranks for micro in rank[2 * step : 2 * step + 2] for key in micro]
        assert sorted(parts) == sorted(batch)
    first_epoch = [key for batch in whole[:12] for key in batch]
    assert len(set(first_epoch)) == len(first_epoch), "repetitions have keys of their own"


def test_repetitions_of_an_image_are_augmented_differently():
    images = ArrayDataset("noise", np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1), ["a"])
    samples = TrainSamples(images, lambda image, target: (np.random.rand(), target), seed=0)
    drawn = [samples[key][0] for key in ((0, 0), (0, 0, 1), (0, 0, 2), (1, 0))]
    assert len(set(drawn)) == 4
    assert samples[(0, 0, 1)][0] == drawn[1]

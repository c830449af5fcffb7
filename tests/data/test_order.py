"""The order of samples and their augmentation: functions of (seed, epoch, sample), whatever reads them."""

from collections import Counter

import numpy as np
import pytest
import torch

from convnext.classification.augment import TrainTransform, collate_augmented
from convnext.classification.dataset import ArrayDataset
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.data.images import ImageError
from convnext.data.loader import EvalSamples, ImageOnly, TrainSamples, eval_loader, train_loader
from convnext.data.sampler import TrainBatches, epoch_order
from convnext.recipes.schema import Augment

N = 50


@pytest.fixture(scope="module")
def images() -> ArrayDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    return ArrayDataset("noise", pixels, np.arange(N) % 5, list("abcde"))


def keys(**options) -> list:
    return list(
        TrainBatches(**({"samples": N, "seed": 0, "total_batch": 8, "accumulation": 1, "total_steps": 12} | options))
    )


def test_an_epoch_has_every_sample_at_most_once_and_epochs_differ():
    batches = keys()
    first = [i for batch in batches[:6] for _, i in batch]
    assert len(first) == 48 == len(set(first))
    assert [epoch for batch in batches for epoch, _ in batch] == [0] * 48 + [1] * 48
    assert first != [i for batch in batches[6:] for _, i in batch]
    assert set(epoch_order(N, 0, 0)) == set(range(N))
    assert list(epoch_order(N, 0, 0)) != list(epoch_order(N, 1, 0))


def test_a_step_is_the_same_images_for_any_number_of_processes_and_micro_batches():
    whole = [sorted(batch) for batch in keys()]
    for world, accumulation in ((1, 2), (2, 1), (2, 2), (4, 2)):
        ranks = [keys(world=world, rank=rank, accumulation=accumulation) for rank in range(world)]
        for step, expected in enumerate(whole):
            parts = [key for rank in ranks for micro in rank[step * accumulation :][:accumulation] for key in micro]
            assert sorted(parts) == expected


def test_starting_in_the_middle_gives_the_rest():
    assert keys(start=7) == keys()[7:]
    assert len(TrainBatches(N, 0, 8, 1, 12, start=7)) == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_augmentation_does_not_depend_on_workers(images, workers):
    samples = TrainSamples(images, TrainTransform(Preprocess.for_size(8), Augment(crop_padding=2)), seed=0)
    order = TrainBatches(N, 0, 10, 1, 6)
    alone, helped = (list(train_loader(samples, order, w, False, collate_augmented)) for w in (0, workers))
    for one, other in zip(alone, helped, strict=True):
        assert one.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.erase, other.erase)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)
        assert one.indices == other.indices
    assert not torch.equal(alone[0].images, alone[5].images)


def test_evaluation_has_every_image_once_over_all_processes(images):
    samples = EvalSamples(images, eval_transform(Preprocess.for_size(8)))
    for world in (1, 2, 3, 7):
        loaders = [eval_loader(samples, 4, 0, False, rank, world) for rank in range(world)]
        seen = Counter(i for loader in loaders for batch in loader for i in batch.indices)
        assert seen == Counter(range(N))
        assert len({len(loader) for loader in loaders}) == 1  # so that ranks can agree between batches


class Broken(ArrayDataset):
    """Every fifth image cannot be read."""

    def image(self, i):
        if i % 5 == 0:
            raise ImageError(f"{i} is broken")
        return super().image(i)


def test_an_unreadable_training_image_is_replaced_by_the_same_one_each_time(images):
    broken = Broken("noise", images._pixels, images.labels, images.classes)
    samples = TrainSamples(broken, ImageOnly(eval_transform(Preprocess.for_size(8))), seed=0)
    once, again = samples[0, 5], samples[0, 5]
    assert once[3][0] == "5 is broken"
    assert once[2] % 5 != 0
    assert once[1] == images.labels[once[2]]
    assert once[2] == again[2]
    batch = next(iter(train_loader(samples, TrainBatches(N, 0, 50, 1, 1), 0, False)))
    assert len(batch.images) == 50
    assert set(batch.unreadable) == {f"{i} is broken" for i in range(0, N, 5)}


def test_an_unreadable_evaluation_image_is_reported_not_replaced(images):
    broken = Broken("noise", images._pixels, images.labels, images.classes)
    batch = next(iter(eval_loader(EvalSamples(broken, eval_transform(Preprocess.for_size(8))), 10, 0, False)))
    assert batch.unreadable == ["0 is broken", "5 is broken"]

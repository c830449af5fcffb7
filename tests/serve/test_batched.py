"""Images of mixed sizes in the batches of a service: each gets the answer that it gets alone."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from served_models import classifier, detector, picture, segmenter, service_of

from convnext.serve.model import of_bytes

MAX_BATCH = 16


def answers(file, images: int, max_side: int):
    """(alone, in a batch) for random images: (size of the batch, the longer side, the output) each."""
    version = service_of({"m": file}, precision="fp32").models["m"].version
    options, sides = version.options({}), np.random.default_rng(0).integers(8, max_side, (images, 2)).tolist()
    prepared = [
        version.spec.prepare(version.loaded, of_bytes(picture(i, *size), "image", 10**6), options)
        for i, size in enumerate(sides)
    ]
    groups = itertools.groupby(sorted(prepared, key=lambda each: each.alike), lambda each: each.alike)
    for _, group in groups:
        for batch in batches(group):
            together = version.compute(list(batch))
            for each, output in zip(batch, together, strict=True):
                yield len(batch), max(each.size), version.compute([each])[0], output


def batches(items):
    """Up to a batch of items at a time."""
    while batch := list(itertools.islice(items, MAX_BATCH)):
        yield batch


@pytest.mark.slow
def test_a_classifier_s_answers_are_those_of_the_image_alone(tmp_path):
    file, sizes = classifier(tmp_path / "m.safetensors"), Counter()
    for size, _, alone, together in answers(file, 1000, 120):
        sizes[size] += 1
        assert (alone.softmax(0) - together.softmax(0)).abs().max() <= 1e-6
    assert sizes[MAX_BATCH] > 900


@pytest.mark.slow
def test_a_segmenter_s_answers_are_those_of_the_image_alone(tmp_path):
    file, sizes = segmenter(tmp_path / "m.safetensors"), Counter()
    for size, _, alone, together in answers(file, 1000, 90):
        sizes[size > 1] += 1
        assert torch.equal(alone, together)
    assert sizes[True] > 500


@pytest.mark.slow
def test_a_detector_s_answers_are_those_of_the_image_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("convnext.detection.detector.TEST", (20, 20))  # proposals; 1,000 take a second and more
    file, sizes, found, pixels, others = detector(tmp_path / "m.safetensors"), Counter(), 0, 0, 0
    for size, side, alone, together in answers(file, 1000, 90):
        sizes[size > 1] += 1
        found += len(alone["labels"])
        assert torch.equal(alone["labels"], together["labels"])
        assert (alone["scores"] - together["scores"]).abs().lt(1e-6).all()
        assert (alone["boxes"] - together["boxes"]).abs().lt(1e-6 * side).all()
        pixels += alone["masks"].numel()
        others += int((alone["masks"] != together["masks"]).sum())
    assert sizes[True] > 100
    assert found > 1000
    assert others <= 1e-5 * pixels  # those whose probability is 0.5 within the rounding

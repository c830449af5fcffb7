"""The arithmetic of the means, and that none is taken over less than its definition names."""

import numpy as np
import pytest

from convnext import paper
from convnext.data.corruptions import IMAGENET_C_BAR
from convnext.errors import ConvNextError
from convnext.paper.table8 import ALEXNET_CLEAN_ERROR
from convnext.robustness.metrics import corruption_errors, mce, mean_error, relative_mce
from convnext.robustness.summary import summarise
from convnext.robustness.units import Record


@pytest.fixture
def errors():
    values = np.random.default_rng(0).uniform(5, 95, (15, 5))
    return {name: dict(enumerate(row, 1)) for name, row in zip(paper.ALEXNET_ERRORS, values, strict=True)}


def test_mce_is_the_definition(errors):
    values = np.array([[errors[name][severity] for severity in range(1, 6)] for name in paper.ALEXNET_ERRORS])
    # the definition sums over severities; AlexNet is known by its mean over five
    alexnet = 5 * np.array(list(paper.ALEXNET_ERRORS.values()))
    assert mce(errors) == pytest.approx(100 * (values.sum(1) / alexnet).mean(), abs=1e-6)
    ratios = (values - 23.9).sum(1) / (alexnet - 5 * ALEXNET_CLEAN_ERROR)
    assert relative_mce(errors, 23.9) == pytest.approx(100 * ratios.mean(), abs=1e-6)


def test_alexnet_has_an_mce_of_100():
    alexnet = {name: dict.fromkeys(range(1, 6), error) for name, error in paper.ALEXNET_ERRORS.items()}
    assert mce(alexnet) == pytest.approx(100)
    assert relative_mce(alexnet, ALEXNET_CLEAN_ERROR) == pytest.approx(100)


def test_extra_corruptions_are_in_no_mean(errors):
    before = mce(errors)
    assert mce(errors | {"saturate": dict.fromkeys(range(1, 6), 99.0)}) == before


def test_c_bar_of_resnet50_follows_from_its_published_errors():
    table = {
        name: dict.fromkeys(range(1, 6), error)
        for name, error in zip(IMAGENET_C_BAR, paper.RESNET50_C_BAR_ERRORS, strict=True)
    }
    assert round(mean_error(table, IMAGENET_C_BAR), 1) == paper.robustness("ResNet-50").c_bar == 57.7


def test_what_is_missing_is_named_and_the_mean_refused(errors):
    del errors["frost"]
    del errors["snow"][3], errors["snow"][5]
    for compute in (
        mce,
        lambda table: relative_mce(table, 20.0),
        lambda table: corruption_errors(table, paper.ALEXNET_ERRORS),
    ):
        with pytest.raises(ConvNextError, match=r"no error for: snow 3, snow 5, frost\. Evaluate these"):
            compute(errors)


def records(part, errors, images=1000):
    return [
        Record(part, name, severity, images, images - round(error * images / 100), {})
        for name, table in errors.items()
        for severity, error in table.items()
    ]


def test_a_summary_refuses_in_words_and_keeps_the_rest(errors):
    del errors["fog"][2]
    found = summarise([Record("clean", None, None, 50_000, 41_050, {}), *records("imagenet-c", errors, 50_000)])
    assert found["clean"] == pytest.approx(82.1)
    assert found["c"] is None
    assert found["relative_c"] is None
    assert len(found["refused"]) == 1
    assert "No mCE" in found["refused"][0]
    assert "fog 2" in found["refused"][0]
    assert found["errors"]["imagenet-c"]["fog"].keys() == {1, 3, 4, 5}
    assert found["notes"] == []


def test_a_set_of_another_size_than_the_released_one_is_noted():
    found = summarise([Record("imagenet-a", None, None, 7_499, 0, {})])
    assert found["a"] == 0.0
    assert "7,499 images here and 7,500 in the released set" in found["notes"][0]


def test_generated_numbers_are_apart_from_released_ones(errors):
    clean = Record("generated", None, None, 1000, 900, {})
    found = summarise([clean, *records("generated", {"fog": {1: 20.0, 5: 40.0}, "snow": {1: 30.0, 5: 70.0}})])
    assert found["generated"] == pytest.approx({"clean_error": 10.0, "mean_error": 40.0, "increase": 30.0})
    assert found["c"] is found["c_bar"] is found["clean"] is None
    ragged = summarise([clean, *records("generated", {"fog": {1: 20.0, 5: 40.0}, "snow": {1: 30.0}})])
    assert ragged["generated"]["mean_error"] is None
    assert "snow 5" in ragged["refused"][0]

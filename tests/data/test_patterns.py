"""Shards named by braces and globs."""

import pytest

from convnext.classification.dataset import ArrayDataset
from convnext.classification.open import open_for_evaluation, open_parts
from convnext.data.patterns import absolute, braces, is_pattern, matching_files
from convnext.data.shard_writer import write_shards
from convnext.errors import ConvNextError


def test_braces():
    assert braces("a.tar") == ["a.tar"]
    assert braces("t-{08..11}.tar") == ["t-08.tar", "t-09.tar", "t-10.tar", "t-11.tar"]
    assert braces("{train,val}-{1..0}") == ["train-1", "train-0", "val-1", "val-0"]
    with pytest.raises(ConvNextError, match="more than 1,000,000"):
        braces("{0..9999}{0..9999}")
    with pytest.raises(ConvNextError, match="more than 1,000,000"):
        braces("{0..999999999999999}")


def test_files_of_a_pattern(tmp_path, monkeypatch):
    for name in ("b-1.tar", "b-0.tar", "{a}.tar"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in matching_files("b-{1..0}.tar")] == ["b-1.tar", "b-0.tar"]
    assert [file.name for file in matching_files(f"{tmp_path}/b-*.tar")] == ["b-0.tar", "b-1.tar"]
    assert not is_pattern("{a}.tar")  # a file of this name
    assert is_pattern("b-*.tar")
    assert absolute("b-*.tar") == f"{tmp_path}/b-*.tar"
    for pattern in ("b-{0..2}.tar", "c*.tar"):
        with pytest.raises(ConvNextError, match="there is no file"):
            matching_files(pattern)


def test_data_by_a_pattern(tmp_path):
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    images = ArrayDataset("noise", pixels, np.arange(20) % 2, list("ab"))
    for part in ("train", "val"):
        write_shards(images, tmp_path / part, {}, 10_000)
        for file in (tmp_path / part).glob("*.tar"):
            file.rename(tmp_path / f"{part}-{file.name[3:]}")
    both = f"{tmp_path}/{{train,val}}-{{000..001}}.tar"
    train, val = open_parts(both, 0.1, 0)
    assert train.name(0).startswith("train-000.tar#")
    assert val.name(0).startswith("val-000.tar#")
    assert len(open_for_evaluation(both, None, 0.1, 0)) == len(train) + len(val)
    train, val = open_parts(f"{tmp_path}/train-*.tar", 0.5, 0)
    assert (len(train), len(val)) == (10, 10)
    with pytest.raises(ConvNextError, match="validation shards alone"):
        open_parts(f"{tmp_path}/val-*.tar", 0.1, 0)

"""Shards by URL: fetched whole, once, ahead of those who read; one sentence where that fails."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from convnext.classification.open import fingerprint, open_for_evaluation, open_parts
from convnext.cli.main import run
from convnext.data import remote
from convnext.data.fetch import fetch, fetch_ahead
from convnext.data.images import ImageError
from convnext.data.shards import ENDING
from convnext.errors import ConvNextError
from pictures import SCRATCH, draw_classes


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """Shards of 72 training images; nothing of them is here yet."""
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    data = draw_classes(tmp_path / "striped", {"across": 40, "down": 40})
    assert run(["data", "shard", str(data), str(tmp_path / "out"), "--size", "20kB"]) == 0
    (tmp_path / "out" / "classes.txt").rename(tmp_path / "out" / "train" / "classes.txt")
    return tmp_path / "out" / "train"


def pattern(there: Path) -> str:
    return f"file://{there}/{{000000..{len(list(there.glob('*.tar'))) - 1:06d}}}.tar"


def here(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*.tar"))


def test_a_shard_comes_when_it_is_read(there, tmp_path):
    (there / f"000001.tar{ENDING}").unlink()  # one index is not there
    train, val = open_parts(pattern(there), 0.1, 0)
    assert here(tmp_path) == ["000001.tar"]
    assert train.classes == ["across", "down"]
    assert len(train) + len(val) == 72
    local = open_for_evaluation(f"{there}/*.tar", None, 0.1, 0)
    found = open_for_evaluation(pattern(there), None, 0.1, 0)
    assert fingerprint(found) == fingerprint(local)
    other = pickle.loads(pickle.dumps(found))  # as a worker that is not forked gets it
    assert all(other.source(i) == local.source(i) for i in range(10))
    assert here(tmp_path) == ["000000.tar", "000001.tar"]


def test_shards_are_fetched_ahead(there, tmp_path):
    found = open_for_evaluation(pattern(there), None, 0.1, 0)
    assert here(tmp_path) == []
    process = found.read_ahead(np.arange(2))
    deadline = time.monotonic() + 20
    while len(here(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert here(tmp_path) == ["000000.tar", "000001.tar"]
    process.communicate()
    assert found.read_ahead(np.arange(2)) is None


def test_the_fetching_ends_with_those_who_wait(tmp_path):
    process = fetch_ahead([("http://127.0.0.1:9/x.tar", tmp_path / "x.tar", True)] * 50)
    process.communicate(timeout=20)
    assert not (tmp_path / "x.tar").exists()


def test_what_cannot_be_fetched_is_one_sentence(there, tmp_path, monkeypatch):
    with pytest.raises(ConvNextError, match=r"There is no file:///nowhere/a\.tar"):
        fetch([("file:///nowhere/a.tar", tmp_path / "a.tar", True)])
    with pytest.raises(ConvNextError, match="needs a package"):
        fetch([("s3://x/a.tar", tmp_path / "a.tar", True)])
    fetch([("file:///nowhere/a.tar", tmp_path / "a.tar", False)])
    found = open_for_evaluation(pattern(there), None, 0.1, 0)
    shard = there / "000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole + bytes(512))
    with pytest.raises(ImageError, match="another size than its index says"):
        found.source(0)
    (there / "000001.tar").unlink()
    with pytest.raises(ImageError, match="There is no"):
        found.source(71 if len(list(there.glob("*.tar"))) == 1 else int(found.blocks()[1]))
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ConvNextError, match="Free some"):
        remote.fetch_indexes([f"file://{there}/000002.tar"])


@pytest.mark.slow
def test_training_on_shards_by_url(there, tmp_path):
    argv = ["train", "small/scratch", *SCRATCH, "--epochs", "2", "--order", "block", "--order-window", "2"]
    assert run([*argv, "--data", pattern(there), "--out", str(tmp_path / "run"), "--runtime.workers", "2"]) == 0

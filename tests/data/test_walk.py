"""Large folders are walked once; a folder whose time has changed is listed again."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from convnext.classification.folder import FolderDataset
from convnext.data import walk
from convnext.data.walk import images_by_folder


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Folders of ten images each, last changed long ago; a walk of 20 images is large."""
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(walk, "LARGE", 20)
    root = tmp_path / "data"
    for name in ("a", "b", "b/deep", "c"):
        (root / name).mkdir(parents=True)
        for i in range(10):
            (root / name / f"{i}.jpg").touch()
    (root / "a" / "notes.txt").touch()
    for folder in (root, *root.rglob("*")):
        settle(folder)
    return root


def settle(folder: Path) -> None:
    os.utime(folder, (1e9, 1e9))


@pytest.fixture
def listed(monkeypatch) -> list[str]:
    found, list_ = [], walk._list
    monkeypatch.setattr(walk, "_list", lambda folder: found.append(folder) or list_(folder))
    return found


def test_a_second_walk_lists_what_has_changed(tree, listed):
    first = images_by_folder(tree)
    assert len(listed) == 5
    assert first["b"][10:12] == [b"b/deep/0.jpg", b"b/deep/1.jpg"]
    listed.clear()
    assert images_by_folder(tree) == first
    assert listed == []
    (tree / "b" / "deep" / "new.png").touch()
    assert b"b/deep/new.png" in images_by_folder(tree)["b"]
    assert listed == [str(tree / "b" / "deep")]
    listed.clear()
    assert len(images_by_folder(tree)["b"]) == 21
    assert listed == [str(tree / "b" / "deep")], "it changed when it was listed, so it may have changed after"
    settle(tree / "b" / "deep")
    images_by_folder(tree)
    listed.clear()
    images_by_folder(tree)
    assert listed == []
    (tree / "c" / "0.jpg").unlink()
    assert len(images_by_folder(tree)["c"]) == 9


def test_small_folders_leave_nothing(tree, monkeypatch):
    monkeypatch.setattr(walk, "LARGE", 1000)
    images_by_folder(tree)
    assert not walk.cache_folder().exists()


def test_a_damaged_walk_is_made_again(tree, listed):
    first = images_by_folder(tree)
    (file,) = (path for path in (walk.cache_folder() / "walks").iterdir() if not path.suffix)
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert images_by_folder(tree) == first
    for content in (b"", whole[:-1], whole[:50], walk.MAGIC):
        file.write_bytes(content)
        assert images_by_folder(tree) == first
        assert file.read_bytes() == whole


def test_of_processes_that_start_together_one_walks(tree, monkeypatch):
    list_ = walk._list
    log = tree.parent / "log"

    def slow(folder: str):
        with open(log, "a") as file:
            file.write(f"{folder}\n")
        time.sleep(0.02)
        return list_(folder)

    monkeypatch.setattr(walk, "_list", slow)
    monkeypatch.setattr(walk, "LARGE", 10)
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        found = list(pool.map(images_by_folder, [tree] * 3))
    assert found[0] == found[1] == found[2]
    assert log.read_text().splitlines().count(str(tree / "c")) == 1


def test_a_home_that_cannot_be_written(tree, monkeypatch):
    monkeypatch.setenv("CONVNEXT_CACHE", str(tree / "a" / "0.jpg" / "x"))
    assert len(FolderDataset(tree)) == 40

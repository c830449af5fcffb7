"""Files that arrive are answered once, when they are whole; no clock and no sleeping."""

import os

import pytest

from convnext.data.watch import arrivals


@pytest.fixture
def looks(tmp_path):
    """Takes (name, bytes, time) of files to write before the next look; gives the names of the files that it finds."""
    writes: list[tuple[str, bytes, int]] = []

    def pause() -> None:
        for name, content, second in writes:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
            os.utime(tmp_path / name, (second, second))
        writes.clear()

    (tmp_path / "old.jpg").write_bytes(b"old")
    os.utime(tmp_path / "old.jpg", (1, 1))
    found = arrivals(tmp_path, pause)

    def look(*files: tuple[str, bytes, int]) -> list[str]:
        writes.extend(files)
        return [os.path.relpath(path, tmp_path) for path in next(found)]

    return look


def test_a_file_is_taken_when_it_no_longer_grows(looks):
    assert looks() == [], "what was there at the start is none that arrives"
    assert looks(("new.jpg", b"ha", 5)) == []
    assert looks(("new.jpg", b"half", 5)) == []
    assert looks(("new.jpg", b"half", 6)) == [], "written anew"
    assert looks() == ["new.jpg"]
    assert looks() == []


def test_an_empty_file_waits_and_other_files_are_none(looks):
    assert looks(("new.jpg", b"", 5), ("notes.txt", b"text", 5), (".part.jpg", b"hidden", 5)) == []
    assert looks() == looks() == []
    assert looks(("new.jpg", b"whole", 6)) == []
    assert looks() == ["new.jpg"]


def test_a_file_that_changes_later_is_a_new_one(looks):
    looks(("new.jpg", b"half", 5))
    assert looks() == ["new.jpg"]
    assert looks(("new.jpg", b"the whole", 9), ("old.jpg", b"another", 9)) == []
    assert sorted(looks()) == ["new.jpg", "old.jpg"]


def test_the_order_is_that_of_their_writing_and_folders_are_walked(looks):
    looks(("b.jpg", b"1", 7), ("deep/a.png", b"2", 8), ("c.jpg", b"3", 6))
    assert looks() == ["c.jpg", "b.jpg", os.path.join("deep", "a.png")]


def test_a_file_that_is_gone_and_comes_again(looks, tmp_path):
    looks(("new.jpg", b"1", 5))
    assert looks() == ["new.jpg"]
    (tmp_path / "new.jpg").unlink()
    assert looks() == []
    assert looks(("new.jpg", b"1", 5)) == []
    assert looks() == ["new.jpg"]


def test_what_comes_between_the_call_and_the_first_look_is_new(tmp_path):
    """A caller says that it is waiting; from then on nothing may be missed."""
    found = arrivals(tmp_path, lambda: None)
    (tmp_path / "early.jpg").write_bytes(b"whole")
    assert [os.path.basename(path) for _ in range(2) for path in next(found)] == ["early.jpg"]

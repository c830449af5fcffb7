import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from convnext import files
from convnext.engine import checkpoint
from convnext.errors import ConvNextError


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3, 2), value), "b": torch.tensor(value)}


def test_the_newest_is_read_back_and_old_ones_go(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, tensors(step), {"note": "x"}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    read, manifest, complaints = checkpoint.load_newest(tmp_path)
    assert torch.equal(read["a"], tensors(3)["a"])
    assert (manifest["step"], manifest["note"], complaints) == (3, "x", [])


def test_none_where_there_is_none(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    assert checkpoint.load_newest(tmp_path / "missing") is None


def test_the_same_step_twice_keeps_the_first_until_the_second_is_whole(tmp_path):
    checkpoint.save(tmp_path, 5, tensors(1), {}, keep=1)
    checkpoint.save(tmp_path, 5, tensors(2), {}, keep=1)
    read, _, _ = checkpoint.load_newest(tmp_path)
    assert read["b"] == 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "no manifest", "half manifest", "no tensors"])
def test_a_damaged_one_is_passed_over_and_said(tmp_path, damage):
    checkpoint.save(tmp_path, 1, tensors(1), {}, keep=3)
    newest = checkpoint.save(tmp_path, 2, tensors(2), {}, keep=3)
    file, manifest = newest / checkpoint.TENSORS, newest / checkpoint.MANIFEST
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "truncate":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "half manifest":
        os.truncate(manifest, 10)
    else:
        file.unlink()
    read, found, complaints = checkpoint.load_newest(tmp_path)
    assert found["step"] == 1
    assert read["b"] == 1
    assert len(complaints) == 1
    assert str(newest) in complaints[0]


def damages(data: bytes):
    """Every single flip of three bits in the first bytes and of one bit in all others, and truncations."""
    for position in range(len(data)):
        for bit in (0, 5, 7) if position < 100 else (position % 8,):
            yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]
    for length in range(0, len(data), 7):
        yield data[:length]
    yield data + b" "


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.MANIFEST])
def test_a_change_of_any_byte_falls_back_to_the_checkpoint_before(tmp_path, name):
    checkpoint.save(tmp_path, 1, tensors(1), {"state": {"step": 1}, "data": "d"}, keep=3)
    newest = checkpoint.save(tmp_path, 2, tensors(2), {"state": {"step": 2}, "data": "d"}, keep=3)
    whole = (newest / name).read_bytes()
    for damaged in damages(whole):
        (newest / name).write_bytes(damaged)
        read, manifest, complaints = checkpoint.load_newest(tmp_path)
        assert (manifest["state"], read["b"], len(complaints)) == ({"step": 1}, 1, 1), damaged
    (newest / name).write_bytes(whole)
    assert checkpoint.load_newest(tmp_path)[1]["step"] == 2


def test_a_checkpoint_of_version_0_1_0_is_read(tmp_path):
    root = Path(__file__).parent / "golden"
    read, manifest, complaints = checkpoint.load_newest(root)
    assert (manifest["step"], manifest["state"]["evaluated"], complaints) == (6, 4, [])
    assert {name.partition(".")[0] for name in read} == {"model", "ema", "optim"}


def test_a_damaged_newest_one_makes_room_for_its_successor_and_nothing_else(tmp_path):
    checkpoint.save(tmp_path, 1, tensors(1), {}, keep=1)
    (checkpoint.save(tmp_path, 9, tensors(9), {}, keep=2) / checkpoint.MANIFEST).write_text("{")
    assert checkpoint.load_newest(tmp_path)[1]["step"] == 1
    checkpoint.save(tmp_path, 2, tensors(2), {}, keep=1)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_same_step_twelve_times(tmp_path, keep):
    for attempt in range(12):
        checkpoint.save(tmp_path, 5, tensors(attempt), {}, keep)
        assert checkpoint.load_newest(tmp_path)[0]["b"] == attempt
    assert len(list(tmp_path.iterdir())) == keep


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    (checkpoint.save(tmp_path, 1, tensors(1), {}, keep=3) / checkpoint.MANIFEST).unlink()
    with pytest.raises(ConvNextError, match="damaged"):
        checkpoint.load_newest(tmp_path)


def test_nothing_in_it_is_pickled(tmp_path):
    folder = checkpoint.save(tmp_path, 1, tensors(1), {}, keep=1)
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "state.safetensors"]
    assert json.loads((folder / "manifest.json").read_text())["step"] == 1


def test_a_full_disk_loses_nothing(tmp_path):
    """A real limit on the size of files, in another process, since it cannot be raised again."""
    script = f"""
        import resource, signal, sys, torch
        from pathlib import Path
        from convnext.errors import ConvNextError
        from convnext.engine import checkpoint
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        root = Path({str(tmp_path)!r})
        checkpoint.save(root, 1, {{"a": torch.ones(10)}}, {{}}, keep=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            checkpoint.save(root, 2, {{"a": torch.ones(10000)}}, {{}}, keep=1)
        except ConvNextError as error:
            print(error)
            sys.exit(2)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stdout
    assert "free some space" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.load_newest(tmp_path)[1]["step"] == 1


def test_replace_text_replaces_whole_and_leaves_no_litter(tmp_path):
    path = tmp_path / "x.json"
    files.replace_text(path, "old")
    files.replace_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]

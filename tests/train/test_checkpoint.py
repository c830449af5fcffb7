import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from convnext import files
from convnext.errors import ConvNextError
from convnext.train import checkpoint


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
        from convnext.train import checkpoint
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

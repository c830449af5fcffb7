"""Damaged files: every change of a byte is noticed, a checkpoint before it is taken, and nothing is overwritten by half."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from processes import NOBODY, Child, become_nobody, limit_files
from safetensors.torch import load_file
from scenario import is_full, scenario, sizes

from convnext import models
from convnext.engine import checkpoint
from convnext.errors import ConvNextError
from convnext.files import replace_text
from convnext.weights.load import load_model
from convnext.weights.save import save_weights

MODEL = {"name": "convnext_atto", "num_classes": 3}
GOLDEN = Path(__file__).parents[1] / "engine" / "golden"


def saved(root: Path, step: int) -> Path:
    """A checkpoint of small tensors that tell its step."""
    tensors = {"model.w": torch.full((64, 64), float(step)), "optim.m": torch.arange(500.0)}
    return checkpoint.save(root, step, tensors, {"state": {"step": step}, "data": "x" * 64}, keep=3)


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """A flipped bit, a byte overwritten, a stretch of zeros, a truncation, or bytes appended."""
    place = chance.randrange(len(whole))
    kind = chance.randrange(5)
    if kind == 0:
        return whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :]
    if kind == 1:
        return whole[:place] + bytes([(whole[place] + chance.randrange(1, 256)) % 256]) + whole[place + 1 :]
    if kind == 2:
        length = min(len(whole) - place, 512)
        return whole[:place] + bytes(b ^ 0xFF for b in whole[place : place + length]) + whole[place + length :]
    if kind == 3:
        return whole[:place]
    return whole + bytes(chance.randrange(1, 4096))


@sizes(60, 600)
def test_damage_to_a_checkpoint(tmp_path, request, tried):
    what = "flips, zeros, truncations and appended bytes in any file of the newest checkpoint: noticed, the one before is taken"
    with scenario("damaged checkpoint", what, is_full(request)) as now:
        saved(tmp_path, 10)
        newest, chance = saved(tmp_path, 20), random.Random(0)
        for number in range(tried):
            path = newest / (checkpoint.MANIFEST if number % 2 else checkpoint.TENSORS)
            whole = path.read_bytes()
            path.write_bytes(damaged(whole, chance))
            with now.case(f"{number} {path.name}"):
                found = checkpoint.load_newest(tmp_path)
                assert found
                tensors, manifest, complaints = found
                assert manifest["step"] == 10
                assert tensors["model.w"].eq(10).all()
                assert len(complaints) == 1
            path.write_bytes(whole)


@sizes(4, 120)
def test_damage_to_a_file_of_weights(tmp_path, request, tried):
    with scenario(
        "damaged weights", "the same in a final file of weights: refused in one sentence", is_full(request)
    ) as now:
        path = save_weights(models.build(**MODEL).state_dict(), tmp_path / "x.safetensors", metadata={"model": MODEL})
        whole, chance = path.read_bytes(), random.Random(1)
        for number in range(tried):
            path.write_bytes(damaged(whole, chance))
            with now.case(str(number)), pytest.raises(ConvNextError):
                load_model(path)


@sizes(6, 50)
def test_a_full_disk(tmp_path, request, tried):
    """RLIMIT_FSIZE makes a write fail beyond an offset, as a full disk does; the offsets are spread over the files."""
    what = "a write fails at an offset of a checkpoint, of weights, of a small file: one sentence, the file before is whole"
    with scenario("full disk", what, is_full(request)) as now:
        saved(tmp_path, 10)
        tensors, weights, text = {"head.weight": torch.randn(64, 64)}, tmp_path / "x.safetensors", tmp_path / "x.json"
        save_weights(tensors, weights)
        text.write_text("before")
        before = weights.read_bytes()
        most = sum(file.stat().st_size for file in (tmp_path / "step-00000010").iterdir())
        for number in range(tried):
            limit = number * most // tried

            def work(limit=limit) -> int:
                limit_files(limit)
                failed = 0
                for write in (
                    lambda: saved(tmp_path, 20),
                    lambda: save_weights({"head.weight": torch.zeros(64, 64)}, weights),
                    lambda: replace_text(text, "after" * 5000),
                ):
                    try:
                        write()
                    except (ConvNextError, OSError):
                        failed += 1
                return 10 + failed

            with now.case(f"limit {limit}"):
                child = Child(work, tmp_path / "output")
                assert 10 <= child.wait() <= 13, child.text
                assert limit > 16_000 or child.code >= 12, (limit, child.code)
                found = checkpoint.load_newest(tmp_path)
                assert found
                assert found[0]["model.w"].eq(found[1]["step"]).all()
                assert weights.read_bytes() == before or load_file(weights)["head.weight"].eq(0).all()
                assert text.read_text() in ("before", "after" * 5000)
                left = {path.name for path in tmp_path.iterdir()}
                assert left <= {"step-00000010", "step-00000020", "x.safetensors", "x.json", "output"}
            shutil.rmtree(tmp_path / "step-00000020", ignore_errors=True)
            weights.write_bytes(before)
            text.write_text("before")


@sizes(1, 3)
def test_folders_that_cannot_be_written(tmp_path, request, tried):
    from convnext.recipes import get
    from convnext.runtime.run_folder import claim

    with scenario(
        "read-only",
        "a run's folder, its checkpoints, its parent without the right to write: one sentence, exit 2",
        is_full(request),
    ) as now:
        for place in ("parent", "folder", "checkpoints")[:tried]:
            out = tmp_path / place / "run"
            (out / "checkpoints").mkdir(parents=True)
            if place == "parent":
                shutil.rmtree(out)
            for path in (tmp_path, *tmp_path.parents):
                if path != Path("/tmp").parent and path.stat().st_uid == 0 and path != Path("/tmp"):
                    path.chmod(path.stat().st_mode | 0o055)

            def work(out=out, place=place) -> int:
                become_nobody()
                try:
                    saved(out / "checkpoints", 5) if place == "checkpoints" else claim(
                        out, "quickstart", get("quickstart")
                    )
                except ConvNextError as error:
                    print(error)
                    return 2
                return 0

            with now.case(place):
                child = Child(work, tmp_path / "output")
                assert child.wait() == 2, child.text
                assert "Permission denied" in child.text
                assert not any(path.is_file() and path.stat().st_uid == NOBODY for path in out.rglob("*"))


@sizes(1, 1)
def test_golden_checkpoints(request, tried):
    with scenario(
        "golden", "checkpoints written by earlier versions and kept in the repository are read", is_full(request)
    ) as now:
        folders = sorted(GOLDEN.iterdir())
        for folder in folders:
            with now.case(folder.name):
                found = checkpoint.load_newest(GOLDEN)
                assert found
                assert found[1]["step"] == json.loads((folders[-1] / "manifest.json").read_text())["step"]
                assert found[2] == []

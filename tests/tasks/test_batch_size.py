"""`--device-batch auto`: found before the run, written into its config, kept when the run goes on."""

import json

import pytest
import torch

from convnext import tasks
from convnext.cli.main import run
from convnext.errors import ConvNextError
from convnext.recipes import get
from convnext.recipes.plan import make_plan
from convnext.runtime import memory
from convnext.runtime.world import World
from convnext.task import batch_size
from convnext.training import overridden
from pictures import SCRATCH, draw_classes


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("data") / "striped", {"across": 40, "down": 40})


@pytest.fixture
def train(striped, tmp_path, monkeypatch):
    def at(free: int, *options: str) -> int:
        monkeypatch.setattr(memory, "_available", lambda: free)
        argv = ["train", "small/scratch", *SCRATCH, "--data", str(striped), "--out", str(tmp_path / "run")]
        return run([*argv, "--epochs", "1", "--device-batch", "auto", *options])

    return at


def batch_of(folder) -> int:
    return json.loads((folder / "config.json").read_text())["device_batch"]


@pytest.mark.slow
def test_the_whole_batch_where_it_fits_and_the_run_goes_on_with_it(train, tmp_path, capsys):
    assert train(8 << 30) == 0
    assert batch_of(tmp_path / "run") == 32
    (tmp_path / "run" / "summary.json").unlink()
    assert train(1 << 20) == 0  # what was found counts, not what would be found now
    assert "32 per device x 1 device x 1 accumulation" in capsys.readouterr().out


def test_less_where_the_memory_is_small(striped, tmp_path):
    recipe = overridden(get("small/scratch"), {"data": str(striped), "image_size": 16, "total_batch": 32})
    recipe = overridden(recipe, {"model": {"name": "roadmap_resnet50_separate-downsampling", "width_mult": 0.125}})
    recipe = overridden(recipe, {"device_batch": "auto", "model": {"stem_stride": 1, "depth_mult": 0.34}})
    spec = tasks.of_recipe(recipe)
    train, val = spec.open_data(recipe)
    plan = make_plan(recipe, len(train))
    task = spec.engine(train)(recipe, plan, train, val, World(torch.device("cpu")), tmp_path, print)
    found = [batch_size.largest_batch(task, plan, lambda device, free=free: free << 20) for free in (9, 14, 200)]
    assert found == sorted(found)
    assert (found[0], found[2]) == (1, 32)
    assert task.plan is plan
    with pytest.raises(ConvNextError, match="--device-batch 1"):
        batch_size.largest_batch(task, plan, lambda device: 0)


def test_on_a_gpu_sizes_are_tried_until_one_does_not_fit(monkeypatch):
    class Task:
        class world:
            class device:
                type = "cuda"

    tried = []
    monkeypatch.setattr(batch_size, "_tried", lambda task: lambda n: tried.append(n) or n <= 12)

    class plan:
        total_batch, devices = 48, 2

    assert batch_size.largest_batch(Task(), plan) == 12
    assert tried == [1, 2, 3, 4, 6, 8, 12, 24]
    monkeypatch.setattr(batch_size, "_tried", lambda task: lambda n: False)
    with pytest.raises(ConvNextError, match="single image"):
        batch_size.largest_batch(Task(), plan)


def test_memory_that_is_free_is_a_number_of_bytes():
    assert 1 << 20 < memory.free_memory(torch.device("cpu")) < 1 << 45

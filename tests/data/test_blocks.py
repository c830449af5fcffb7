"""`--order block`: every image once, near its neighbours; the same batches for any workers, processes and start."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from convnext.classification.augment import TrainTransform, collate_augmented
from convnext.classification.dataset import ArrayDataset
from convnext.classification.parquet import ParquetDataset
from convnext.classification.shards import ShardDataset
from convnext.classification.transforms import Preprocess
from convnext.cli.main import run
from convnext.data.blocks import Blocks
from convnext.data.loader import TrainSamples, train_loader
from convnext.data.sampler import TrainBatches, epoch_order
from convnext.data.shard_writer import write_shards
from convnext.recipes.schema import Augment
from pictures import SCRATCH, draw_classes

STARTS = np.array([0, 10, 13, 13, 30, 41, 60])


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    folder = tmp_path_factory.mktemp("shards")
    write_shards(ArrayDataset("noise", pixels, np.arange(60) % 3, list("abc")), folder / "s", {}, 20_000)
    return ShardDataset(sorted((folder / "s").glob("*.tar")))


def test_every_image_once_and_a_window_at_a_time():
    sizes, shard_of = np.diff(STARTS), np.repeat(np.arange(6), np.diff(STARTS))
    for window in (1, 2, 5, 100):
        blocks, at = Blocks(STARTS, window), 0
        order = blocks.draw(np.random.default_rng(3))
        assert sorted(order) == list(range(60)) != list(order)
        for shards in blocks.windows(np.random.default_rng(3)):
            assert len(shards) <= window
            part = order[at : at + sizes[shards].sum()]
            assert set(shard_of[part]) == set(shards[sizes[shards] > 0])
            assert len(part) == 0 or list(part) != sorted(part)
            at += len(part)
        assert at == 60


def test_it_depends_on_seed_epoch_and_window_alone():
    orders = [epoch_order(60, seed, epoch, Blocks(STARTS, window)).tolist()
              for seed, epoch, window in ((0, 0, 2), (0, 0, 2), (1, 0, 2), (0, 1, 2), (0, 0, 3))]  # fmt: skip
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("order", ["full", "block"])
def test_batches_are_the_same_for_any_workers_processes_and_start(shards, order):
    drawn = Blocks(shards.blocks(), 2) if order == "block" else None
    samples = TrainSamples(shards, TrainTransform(Preprocess.for_size(8), Augment(crop_padding=2)), seed=0)

    def batches(workers: int, start: int = 0, rank: int = 0, world: int = 1) -> list:
        keys = TrainBatches(60, 0, 12, 1, 8, start, rank, world, drawn=drawn)
        return list(train_loader(samples, keys, workers, False, collate_augmented))

    whole = batches(0)
    for workers in (0, 1, 2):
        rest = batches(workers, start=3)
        assert [batch.indices for batch in rest] == [batch.indices for batch in whole[3:]]
        for one, other in zip(rest, whole[3:], strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.erase, other.erase)
    for world in (2, 4):
        ranks = [batches(0, rank=rank, world=world) for rank in range(world)]
        for step, batch in enumerate(whole):
            assert sorted(i for rank in ranks for i in rank[step].indices) == sorted(batch.indices)


def test_blocks_of_parts(shards):
    assert shards.subset([0, 5, 59]).blocks()[-1] == 3
    assert shards.subset([5, 0]).blocks() is None
    assert shards.relabeled(shards.labels, shards.classes).blocks().tolist() == shards.blocks().tolist()


def test_row_groups_are_blocks(tmp_path):
    rows = pa.table({"image": [b"x"] * 10, "label": list(range(10))})
    pq.write_table(rows, tmp_path / "train.parquet", row_group_size=4)
    assert ParquetDataset([tmp_path / "train.parquet"]).blocks().tolist() == [0, 4, 8, 10]


def test_training_in_block_order(tmp_path, capsys):
    data = draw_classes(tmp_path / "striped", {"across": 40, "down": 40})
    argv = ["train", "small/scratch", *SCRATCH, "--epochs", "1", "--order", "block", "--order-window", "2"]
    assert run([*argv, "--data", str(data), "--out", str(tmp_path / "refused")]) == 2
    assert "convnext data shard" in capsys.readouterr().err
    assert run(["data", "shard", str(data), str(tmp_path / "out"), "--size", "20kB"]) == 0
    argv += ["--data", f"{tmp_path}/out/train/*.tar", "--val", str(tmp_path / "out")]
    assert run([*argv, "--out", str(tmp_path / "run")]) == 0
    assert run([*argv, "--out", str(tmp_path / "both"), "--sampling", "balanced"]) == 2

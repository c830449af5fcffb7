"""Parquet files in the hub's layout, and every way in which a file can be something else."""

import json
import pickle
import re
import shlex
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convnext.classification import parquet
from convnext.classification.open import fingerprint, open_dataset, open_for_evaluation
from convnext.classification.parquet import ParquetDataset
from convnext.cli.main import run
from convnext.data.blocks import Blocks
from convnext.data.images import ImageError
from convnext.data.sampler import epoch_order
from convnext.errors import ConvNextError
from pictures import SCRATCH

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg"


def png(value: int) -> bytes:
    stream = BytesIO()
    Image.new("L", (2, 2), value).save(stream, "PNG")
    return stream.getvalue()


def write(
    path: Path,
    labels: list[int | None],
    nested: bool = True,
    label_column: str = "label",
    names: list[str] | None = None,
    first: int = 0,
    group: int = 3,
) -> Path:
    """A file whose image in row i is grey of value first + i, in row groups of three rows."""
    images = [png(first + i) for i in range(len(labels))]
    column = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)] if nested else images
    table = pa.table({"image": column, label_column: pa.array(labels, type=pa.int64())})
    if names:
        features = {label_column: {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def values(dataset) -> list[int]:
    return [dataset.image(i).getpixel((0, 0))[0] for i in range(len(dataset))]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("label_column", ["label", "labels", "fine_label"])
def test_rows(tmp_path, nested, label_column):
    path = write(tmp_path / "train.parquet", [0, 1, 2, 0, 1, 2, 1], nested, label_column)
    dataset = ParquetDataset([path])
    assert dataset.classes == ["0", "1", "2"]
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1, 2, 1]
    assert values(dataset) == list(range(7))
    assert dataset.source(5) == png(5)
    assert dataset.name(5) == "train.parquet#5"
    assert dataset.image(0).mode == "RGB"


def test_several_files(tmp_path):
    for i in range(3):
        write(tmp_path / "data" / f"train-0000{i}-of-00003.parquet", [0, 1, 1, 0], first=10 * i)
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [1, 0], first=50)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", [1], first=90)
    train, val = open_dataset(str(tmp_path), 0.1, 0)
    assert values(train) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert train.name(5) == "train-00001-of-00003.parquet#1"
    assert train.name(8) == "train-00002-of-00003.parquet#0"
    assert values(val) == [90]  # validation before test
    assert values(train.subset([11, 0])) == [23, 0]
    assert len(fingerprint(train)) == 64


def test_class_names(tmp_path):
    write(tmp_path / "train.parquet", [0, 1], names=["cat", "dog", "owl"])
    write(tmp_path / "test.parquet", [2])
    assert [part.classes for part in open_dataset(str(tmp_path), 0.1, 0)] == [["cat", "dog", "owl"]] * 2
    (tmp_path / "classes.txt").write_text("Katze\nHund\ngroße Eule\n")
    assert [part.classes for part in open_dataset(str(tmp_path), 0.1, 0)] == [["Katze", "Hund", "große Eule"]] * 2
    dataset = open_for_evaluation(str(tmp_path), ["große Eule", "Hund", "Katze"], 0.1, 0)
    assert dataset.labels.tolist() == [0]


def test_split_by_seed(tmp_path):
    write(tmp_path / "train.parquet", [0] * 20 + [1] * 10)
    train, val = open_dataset(str(tmp_path), 0.2, 0)
    assert np.bincount(val.labels).tolist() == [4, 2]
    assert sorted(values(train) + values(val)) == list(range(30))
    assert values(open_for_evaluation(str(tmp_path), None, 0.2, 0)) == values(val)
    assert values(open_dataset(str(tmp_path), 0.2, 1)[1]) != values(val)


def test_evaluation(tmp_path):
    write(tmp_path / "test.parquet", [0, 1, 1])
    assert open_for_evaluation(str(tmp_path), ["cat", "dog"], 0.1, 0).classes == ["cat", "dog"]
    with pytest.raises(ConvNextError, match="2 classes and the model 3"):
        open_for_evaluation(str(tmp_path), ["cat", "dog", "owl"], 0.1, 0)
    with pytest.raises(ConvNextError, match=r"begins with train; there are test\.parquet"):
        open_dataset(str(tmp_path), 0.1, 0)


def test_few_row_groups_stay_in_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "train.parquet", list(range(9)))
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **kw: reads.append(i) or read(self, i, **kw))
    dataset = ParquetDataset([path])
    assert values(dataset) == values(dataset)
    assert reads == [0, 1, 2]
    reads.clear()
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    dataset = ParquetDataset([path])
    assert values(dataset) == values(dataset)
    assert reads == [0, 1, 2, 0, 1, 2]


def test_travels_to_a_loader_process(tmp_path):
    dataset = ParquetDataset([write(tmp_path / "train.parquet", list(range(50)), group=5)])
    unread = len(pickle.dumps(dataset))
    assert values(dataset) == list(range(50))
    content = pickle.dumps(dataset)
    assert len(content) == unread < 4000
    assert values(pickle.loads(content)) == list(range(50))


def test_a_row_without_an_image_is_named(tmp_path):
    table = pa.table(
        {"image": [{"bytes": b"junk", "path": ""}, {"bytes": None, "path": "x.png"}, None], "label": [0, 1, 1]}
    )
    pq.write_table(table, tmp_path / "train.parquet")
    dataset = ParquetDataset([tmp_path / "train.parquet"])
    for i, reason in enumerate(["none of", "empty", "empty"]):
        with pytest.raises(ImageError, match=rf"train\.parquet#{i}: .*{reason}"):
            dataset.image(i)


def test_damaged_pages_are_an_unreadable_image(tmp_path):
    path = write(tmp_path / "train.parquet", [0] * 9)
    dataset = ParquetDataset([path])
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"train\.parquet#0"):
        dataset.image(0)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"label": [0]}, "needs a column image"),
        ({"image": ["a.png"], "label": [0]}, r"needs a column image .* image \(string\)"),
        ({"image": [{"path": "a.png"}], "label": [0]}, "needs a column image"),
        ({"image": [b"x"]}, "needs a column of integers named label or labels or fine_label"),
        ({"image": [b"x"], "label": ["cat"]}, r"needs a column of integers .* label \(string\)"),
        ({"image": [b"x"], "label": [-1]}, "from -1 to -1"),
        ({"image": [b"x", b"y"], "label": [0, None]}, "in every row"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "has no rows"),
    ],
)
def test_wrong_columns(tmp_path, columns, reason):
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    with pytest.raises(ConvNextError, match=reason):
        open_dataset(str(tmp_path), 0.1, 0)


def test_more_labels_than_names(tmp_path):
    write(tmp_path / "train.parquet", [0, 1, 2])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(ConvNextError, match=r"from 0 to 2; .* 0 to 1, one for each of the 2 class names"):
        open_dataset(str(tmp_path), 0.1, 0)


def test_not_a_parquet_file(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ConvNextError, match=r"Cannot read .*train\.parquet as parquet"):
        open_dataset(str(tmp_path), 0.1, 0)


@pytest.mark.shared
@pytest.mark.skipif(not CIFAR.is_dir(), reason="needs ../shared/data/cifar10-jpeg")
def test_cifar10():
    train, val = open_dataset(str(CIFAR), 0.1, 0)
    assert (len(train), len(val)) == (50_000, 10_000)
    assert train.classes == val.classes == (CIFAR / "classes.txt").read_text().split()
    assert np.bincount(val.labels).tolist() == [1000] * 10
    assert {train.image(i).size for i in (0, 999, 1000, 49_999)} == {(32, 32)}
    assert val.name(9_999) == "test.parquet#9999"


def test_reads_in_random_and_in_block_order(tmp_path, monkeypatch):
    """The amplification that is said of random order is what is read; in block order a group is read once."""
    path = write(tmp_path / "train.parquet", list(range(240)), group=12)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 5 * ParquetDataset([path])._groups[:, 3].mean())
    reads = []
    read = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **kw: reads.append(i) or read(self, i, **kw))

    def amplification(drawn) -> float:
        dataset = ParquetDataset([path])
        reads.clear()
        for epoch in range(3):
            for i in epoch_order(240, 0, epoch, drawn):
                dataset.source(i)
        return len(reads) * 12 / (3 * 240)

    dataset = ParquetDataset([path])
    assert dataset.amplification() == pytest.approx(amplification(None), rel=0.1)
    assert dataset.subset([1, 2]).amplification() == dataset.amplification() == 9
    assert amplification(Blocks(dataset.blocks(), 4)) <= 1
    monkeypatch.setattr(parquet, "CACHE_BYTES", 2**30)
    assert ParquetDataset([path]).amplification() == 1


def test_amplification_of_groups_of_different_sizes(tmp_path, monkeypatch):
    """Most images are in large groups, which are read whole for each of them."""
    files = [write(tmp_path / f"train-{i}.parquet", [0] * 60, group=group) for i, group in enumerate((60, 1))]
    monkeypatch.setattr(parquet, "CACHE_BYTES", 1)
    dataset = ParquetDataset(files)
    sizes = dataset._groups[:, 3]
    read = sum(int(sizes[np.searchsorted(dataset._group_start, i, "right") - 1]) for i in range(120))
    assert dataset.amplification() == pytest.approx(read / sizes.sum(), rel=0.05)


def test_a_process_reads_a_footer_once(tmp_path, monkeypatch):
    path, opened, known = write(tmp_path / "train.parquet", list(range(9))), [], pq.ParquetFile

    class Noting(known):
        def __init__(self, source, metadata=None):
            opened.append(metadata is None)
            super().__init__(source, metadata=metadata)

    monkeypatch.setattr(pq, "ParquetFile", Noting)
    dataset = ParquetDataset([path])
    assert values(dataset) == list(range(9))
    assert opened == [True, False, False, False]
    opened.clear()
    assert values(pickle.loads(pickle.dumps(dataset))) == list(range(9))
    assert opened == [True, False, False]


def test_slow_reading_is_said_before_the_run_and_the_named_command_ends_it(tmp_path, monkeypatch, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (24, 210, 210, 3), dtype=np.uint8)
    images = []
    for pixels in noise:
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
        images.append(stream.getvalue())  # 132 kB
    (tmp_path / "hub").mkdir()
    pq.write_table(pa.table({"image": images, "label": [0, 1] * 12}), tmp_path / "hub/train.parquet", row_group_size=12)
    monkeypatch.setattr(parquet, "CACHE_BYTES", 300_000)

    def said(data: Path, *more: str) -> str:
        argv = ["train", "small/scratch", *SCRATCH, "--total-batch", "8", "--device-batch", "8", "--data", str(data)]
        assert run([*argv, "--out", str(tmp_path / "run"), "--dry-run", *more]) == 0
        return " ".join(capsys.readouterr().out.split())

    words = said(tmp_path / "hub")
    assert f"about 6 times as much of {tmp_path / 'hub'} is read as used" in words
    assert "1.6 MB" in words
    assert "is read as used" not in said(tmp_path / "hub", "--order", "block")
    command = re.search(r"convnext (data convert \S+ OUT --to parquet)", words)
    assert command
    assert run(shlex.split(command[1].replace("OUT", str(tmp_path / "small")))) == 0
    assert "is read as used" not in said(tmp_path / "small")
    large, small = (ParquetDataset([tmp_path / name / "train.parquet"]) for name in ("hub", "small"))
    assert small.labels.tolist() == large.labels.tolist()
    assert [small.name(i) for i in range(24)] == [large.name(i) for i in range(24)]
    assert [small.source(i) for i in range(24)] == [large.source(i) for i in range(24)] == images
    assert small.amplification() < 2 < 5 < large.amplification()
    assert large._groups[:, 2].tolist() == [12] * 2
    assert small._groups[:, 2].tolist() == [1] * 24, "a second one would make more than 256 kB"

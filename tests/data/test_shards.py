"""WebDataset shards: written to the same bytes, read at random, refused with one sentence."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from convnext.classification.dataset import ArrayDataset
from convnext.classification.open import fingerprint, open_parts
from convnext.classification.shards import ShardDataset
from convnext.cli.main import run
from convnext.data.images import ImageError
from convnext.data.shard_writer import write_shards
from convnext.data.shards import ENDING, LONGEST_LABEL, ShardReader, open_index
from convnext.errors import ConvNextError
from pictures import SCRATCH, draw_classes

PLAN = {"images": 30}


@pytest.fixture(scope="module")
def images() -> ArrayDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    return ArrayDataset("noise", pixels, np.arange(30) % 3, list("abc"))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tar"}


def test_what_is_written_is_read(images, tmp_path):
    assert write_shards(images, tmp_path / "s", PLAN, 16_000) > 2
    files = sorted((tmp_path / "s").glob("*.tar"))
    assert all(file.stat().st_size <= 20_480 for file in files)  # a tar is padded to 10 kB
    found = ShardDataset(files, images.classes)
    assert len(found) == 30
    for i in range(30):
        original = int(found.name(i).partition("#")[2])
        assert np.array_equal(np.asarray(found.image(i)), np.asarray(images.image(original)))
        assert found.target(i) == images.target(original)
    assert len({found.name(i) for i in range(30)}) == 30
    assert [found.name(i) for i in range(30)] != sorted(found.name(i) for i in range(30))
    other = pickle.loads(pickle.dumps(found))  # as a worker that is not forked gets it
    assert other.source(17) == found.source(17)
    assert fingerprint(other) == fingerprint(found)


def test_a_killed_write_goes_on_to_the_same_bytes(images, tmp_path):
    write_shards(images, tmp_path / "whole", PLAN, 16_000)

    class Killed(ArrayDataset):
        def source(self, i):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return super().source(i)

    left = iter(range(17))
    broken = Killed("noise", images._pixels, images.labels, images.classes)
    with pytest.raises(KeyboardInterrupt):
        write_shards(broken, tmp_path / "cut", PLAN, 16_000)
    assert 0 < len(content(tmp_path / "cut")) < len(content(tmp_path / "whole"))
    write_shards(images, tmp_path / "cut", PLAN, 16_000)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    with pytest.raises(ConvNextError, match="other images"):
        write_shards(images, tmp_path / "cut", {"images": 31}, 16_000)


def test_the_index_follows_the_tar(images, tmp_path):
    write_shards(images, tmp_path / "s", PLAN, 10**6)
    shard = tmp_path / "s" / "000000.tar"
    index = shard.with_name(shard.name + ENDING)
    before = index.read_bytes()
    for damage in (b"", b"nonsense", before[:50], before[:-1]):
        index.write_bytes(damage)
        assert len(open_index(shard)) == 30
        assert index.read_bytes() == before
    with tarfile.open(shard, "w") as tar:
        add(tar, "x/1.jpg", b"jpeg")
        add(tar, "x/1.json", b'{"label": 2}')
    assert [open_index(shard).name(0), int(open_index(shard).label[0])] == ["x/1", 2]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", b"x")], "'1' of .* has no label"),
        ([("1.jpg", b"x"), ("1.cls", b"0"), ("2.cls", b"1")], "'2' of .* has no image"),
        ([("1.jpg", b"x"), ("1.cls", b"cat")], "states no label"),
        ([("1.jpg", b"x"), ("1.json", b'{"class": 1}')], "states no label"),
        ([("1.jpg", b"x"), ("1.cls", b"-1")], "states no label"),
        ([("readme.txt", b"x")], "holds no sample"),
    ],
)
def test_a_foreign_tar_is_refused(tmp_path, members, message):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for member in members:
            add(tar, *member)
    with pytest.raises(ConvNextError, match=message):
        open_index(tmp_path / "a.tar")
    assert not list(tmp_path.glob(f"*{ENDING}"))


def test_compressed_truncated_and_other_files_are_refused(images, tmp_path):
    write_shards(images, tmp_path / "s", PLAN, 10**6)
    shard = tmp_path / "s" / "000000.tar"
    whole = shard.read_bytes()
    found = ShardDataset([shard], images.classes)
    for damaged, message in (
        (b"\x1f\x8b" + whole, "compressed \\(gzip\\)"),
        (whole[:5000], "truncated or damaged"),
        (b"no tar at all" * 100, "truncated or damaged"),
        (b"", "truncated or damaged"),
    ):
        shard.write_bytes(damaged)
        with pytest.raises(ConvNextError, match=message):
            open_index(shard)
    with pytest.raises(ImageError, match="points outside it"):
        found.source(29)


def test_files_from_elsewhere_are_not_trusted(images, tmp_path):
    """An index that points anywhere, a label without end, a plan that is cut short."""
    write_shards(images, tmp_path / "s", PLAN, 10**6)
    shard = tmp_path / "s" / "000000.tar"
    reader = ShardReader([shard])
    for offset, length in ((0, 2**62), (-1, 5), (5, -1), (2**62, 5)):
        with pytest.raises(ImageError, match="points outside it"):
            reader.read(0, offset, length)
    index = shard.with_name(shard.name + ENDING)
    index.write_bytes(index.read_bytes().replace(b'"samples": 30', b'"samples": 99'))
    assert len(open_index(shard)) == 30, "made anew"
    (tmp_path / "s" / "shards.json").write_text("{")
    with pytest.raises(ConvNextError, match="holds shards of other images"):
        write_shards(images, tmp_path / "s", PLAN, 10**6)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.cls", b" " * LONGEST_LABEL + b"1")
        add(tar, "0.jpg", b"image")
    with pytest.raises(ConvNextError, match="states no label"):
        open_index(tmp_path / "a.tar")


def test_folder_to_shards_to_training(tmp_path, capsys):
    data = draw_classes(tmp_path / "striped", {"across": 40, "down": 40})
    assert run(["data", "shard", str(data), str(tmp_path / "out"), "--size", "20kB"]) == 0
    assert "train: 72 images in" in capsys.readouterr().out
    train, val = open_parts(str(tmp_path / "out"), 0.1, 0)
    assert (len(train), len(val)) == (72, 8)
    assert train.classes == ["across", "down"]
    argv = ["train", "small/scratch", *SCRATCH, "--epochs", "1", "--data", str(tmp_path / "out")]
    assert run([*argv, "--out", str(tmp_path / "run")]) == 0
    assert run(["data", "shard", str(data), str(tmp_path / "out"), "--size", "5"]) == 2
    assert run(["data", "shard", str(data), str(tmp_path / "out"), "--size", "30kB"]) == 2

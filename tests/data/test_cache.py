"""Decoded images in a shared file: what is in it is whole, and a training sees the same with it cold, warm, or gone."""

import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from mmap import PAGESIZE
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from convnext.classification.augment import TrainTransform, collate_augmented
from convnext.classification.dataset import ArrayDataset
from convnext.classification.folder import FolderDataset
from convnext.classification.transforms import Preprocess
from convnext.cli.main import run
from convnext.data import cache as module
from convnext.data.cache import ENTRY, HEAD, CachedImages, ImageCache, bounded, bounded_size, create_file
from convnext.data.images import decode
from convnext.data.loader import TrainSamples, train_loader
from convnext.data.regions import Region
from convnext.data.sampler import TrainBatches
from convnext.recipes.schema import Augment, Runtime
from convnext.runtime.world import World
from convnext.task import cache as planning
from killing import assert_same, finish, kill_at, result, start
from pictures import SCRATCH, draw_classes

SIDE = 64


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (40 + i % 20, 50, 3), dtype=np.uint8)


@pytest.fixture
def cache(tmp_path) -> ImageCache:
    create_file(tmp_path / "x.pixels", 100, SIDE)
    return ImageCache(tmp_path / "x.pixels", 100, SIDE)


@pytest.mark.parametrize("size", [(64, 64), (500, 375), (4000, 3000), (1, 10**6), (10**6, 1), (65, 64), (3, 2000)])
def test_a_bounded_size_fits_and_keeps_small_images(size):
    width, height = bounded_size(size, SIDE)
    assert 0 < width * height <= SIDE * SIDE
    assert (width, height) == size or size[0] * size[1] > SIDE * SIDE
    if min(size) > 60:
        assert width / height == pytest.approx(size[0] / size[1], rel=0.05)
        assert width * height > 0.9 * SIDE * SIDE


def test_small_images_are_what_is_decoded_and_large_ones_are_scaled(tmp_path):
    (tmp_path / "a").mkdir()
    smooth = Image.fromarray(pixels(0)[:6, :7]).resize((900, 700), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a" / "large.jpg")
    smooth.crop((0, 0, 60, 50)).save(tmp_path / "a" / "small.jpg")
    images = FolderDataset(tmp_path)
    found, whole = bounded(images, 1, SIDE)
    assert np.array_equal(found, np.asarray(decode(images.source(1))))
    assert whole == (60, 50)
    found, whole = bounded(images, 0, SIDE)
    assert whole == (900, 700)
    assert found.shape == (56, 72, 3)
    expected = decode(images.source(0)).resize((72, 56), Image.Resampling.BICUBIC)
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 3


def test_what_is_put_is_there_for_all_who_open_the_file(cache, tmp_path):
    assert cache.get(3, 7) is None
    cache.put(3, 7, pixels(3), (500, 400))
    for other in (cache, ImageCache(tmp_path / "x.pixels", 100, SIDE), pickle.loads(pickle.dumps(cache))):
        found, whole = other.get(3, 7)
        assert np.array_equal(found, pixels(3))
        assert whole == (500, 400)
        assert other.get(3, 8) is None, "another file of this name"
        assert other.get(4, 7) is None
    cache.put(3, 8, pixels(4), (40, 50))
    assert np.array_equal(cache.get(3, 8)[0], pixels(4))
    assert cache.get(3, 7) is None
    assert cache.size() < 100 * SIDE * SIDE * 3 / 2, "what is not there takes no room"


def test_after_a_restart_of_the_machine_checksums_are_compared(cache, tmp_path, monkeypatch):
    for i in range(4):
        cache.put(i, i, pixels(i), (50, 40))
    path = tmp_path / "x.pixels"
    content = bytearray(path.read_bytes())
    place = content.index(pixels(1).tobytes())
    content[place + 5] ^= 1
    content[HEAD + 2 * ENTRY.size + 13] ^= 1  # the height of image 2
    path.write_bytes(content)
    monkeypatch.setattr(module, "_boot", lambda: b"another start")
    found = ImageCache(path, 100, SIDE)
    assert [found.get(i, i) is not None for i in range(5)] == [True, False, False, True, False]
    seal = path.read_bytes()[HEAD + ENTRY.size - 8 : HEAD + ENTRY.size]
    assert seal != bytes(content[HEAD + ENTRY.size - 8 : HEAD + ENTRY.size]), "known from now on"


def test_any_flipped_bit_of_the_table_is_noticed(cache, tmp_path):
    cache.put(0, 1, pixels(0), (50, 40))
    path = tmp_path / "x.pixels"
    whole = path.read_bytes()
    with open(path, "r+b") as file:
        for at in range(ENTRY.size):
            file.seek(HEAD + at)
            file.write(bytes([whole[HEAD + at] ^ 64]))
            file.flush()
            found = cache.get(0, 1)  # a broken seal alone is made again
            assert found is None if at < ENTRY.size - 8 else np.array_equal(found[0], pixels(0)), at
            file.seek(HEAD)
            file.write(whole[HEAD : HEAD + ENTRY.size])
            file.flush()


def test_a_killed_process_leaves_whole_images(tmp_path):
    path = tmp_path / "x.pixels"
    create_file(path, 5000, SIDE)
    child = os.fork()
    if child == 0:
        cache = ImageCache(path, 5000, SIDE)
        for i in range(5000):
            cache.put(i, 1, pixels(i % 20), (50, 40))
        os._exit(0)
    cache = ImageCache(path, 5000, SIDE)
    while cache.get(20, 1) is None:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    there = [i for i in range(5000) if cache.get(i, 1) is not None]
    assert 20 < len(there) < 5000
    assert all(np.array_equal(cache.get(i, 1)[0], pixels(i % 20)) for i in there)
    assert there == list(range(len(there)))


def test_a_full_disk_is_noted_and_the_rest_stays(cache, monkeypatch):
    cache.put(0, 1, pixels(0), (50, 40))
    write = os.pwrite

    def full(handle, content, at):
        if len(content) > 100:
            raise OSError(28, "No space left on device")
        return write(handle, content, at)

    monkeypatch.setattr(os, "pwrite", full)
    cache.put(1, 1, pixels(1), (50, 40))
    assert cache.full
    assert cache.get(1, 1) is None
    assert cache.get(0, 1) is not None
    monkeypatch.undo()
    cache.put(1, 1, pixels(1), (50, 40))
    assert cache.get(1, 1) is None, "not tried again"
    cache.reopen()
    cache.put(1, 1, pixels(1), (50, 40))
    assert cache.get(1, 1) is not None


def test_the_room_of_a_cache_in_memory(tmp_path):
    create_file(tmp_path / "x.pixels", 100, SIDE)
    cache = ImageCache(tmp_path / "x.pixels", 100, SIDE, room=40_000)
    for i in range(100):
        cache.put(i, 1, pixels(i), (50, 40))
    assert cache.full
    assert 8_000 < cache.size() < 48_000


def test_an_image_is_decoded_once_and_again_when_its_file_changes(tmp_path, cache):
    draw_classes(tmp_path / "data", {"across": 1, "down": 1}, size=90)
    images = FolderDataset(tmp_path / "data")
    decoded, region = [], images.region
    images.region = lambda i, choose: decoded.append(i) or region(i, choose)
    cached = CachedImages(images, cache, SIDE)

    def choose(size):
        assert size == (90, 90), "the draw is that of the original"
        return Region(9, 18, 45, 45, (8, 8))

    cold, warm = cached.region(0, choose), cached.region(0, choose)
    assert decoded == [0]
    assert cold.shape == (32, 32, 3)
    assert np.array_equal(cold, warm)
    Image.fromarray(np.zeros((90, 90, 3), dtype=np.uint8)).save(images.source(0))
    assert not cached.region(0, choose).any()
    assert decoded == [0, 0]


def train(data: Path, out: Path, kind: str, *more: str) -> int:
    argv = ["train", "small/scratch", *SCRATCH, "--epochs", "1", "--data", str(data), "--out", str(out)]
    return run([*argv, "--runtime.cache", kind, "--runtime.cache-side", "32", *more])


def test_a_run_says_what_its_cache_changes_and_keeps_to_it(tmp_path, monkeypatch, capsys):
    data = draw_classes(tmp_path / "data", {"across": 20, "down": 20}, size=48)
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    assert train(data, tmp_path / "run", "disk") == 0
    assert "100% of the images are scaled down to 32 x 32 pixels" in " ".join(capsys.readouterr().out.split())
    (file,) = (tmp_path / "cache" / "images").iterdir()
    cache = ImageCache(file, 36, 32)
    assert cache.size() > 32 * 32 * 32
    assert train(data, tmp_path / "run", "off") == 2
    assert "side of cached images" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux alone has files without a name")
def test_a_cache_in_memory_goes_with_its_run(tmp_path):
    images = FolderDataset(draw_classes(tmp_path / "data", {"across": 1, "down": 1}, size=90))

    def opened() -> list[str]:
        handles = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
        return [handle.name for handle in handles if handle.exists() and "convnext-images" in os.readlink(handle)]

    plan = planning.plan_cache(Runtime(cache="ram", cache_side=SIDE), images, "")
    cached, cache = planning.open_cache(plan, images, World(torch.device("cpu")))
    pixels = cached.region(1, lambda size: Region(0, 0, *size, (8, 8)))
    assert len(opened()) == 2, "its own, and one that mmap keeps"
    other = pickle.loads(pickle.dumps(cache))  # as a worker that is not forked gets it
    assert np.array_equal(other.get(1, images.stamp(1))[0], pixels)
    del cached, cache, other
    assert opened() == []


def weights(out: Path) -> list[bytes]:
    return [tensor.numpy().tobytes() for _, tensor in sorted(load_file(out / "model.safetensors").items())]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[bytes]]:
    """Images, and the weights of a run on them with all its cache."""
    folder = tmp_path_factory.mktemp("whole")
    data = draw_classes(folder / "data", {"across": 20, "down": 20}, size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVNEXT_CACHE", str(folder / "cache"))
        assert train(data, folder / "run", "disk") == 0
    return data, weights(folder / "run")


def words(capsys) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_disk_without_room_for_a_cache_does_not_end_the_run(whole, tmp_path, monkeypatch, capsys):
    data, expected = whole
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(planning, "create_file", lambda file, images, side: create_file(file, images, 10_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, before[1]))
    try:
        assert train(data, tmp_path / "run", "disk") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert words(capsys).count("There is no room for the cache of images") == 1
    assert not list((tmp_path / "cache" / "images").iterdir())
    assert weights(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_cache_and_not_the_run(whole, tmp_path, monkeypatch, capsys):
    data, expected = whole
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    write, written = os.pwrite, []

    def filling(handle, content, at):
        if len(content) > 2000 and at > HEAD:  # pixels
            written.append(at)
            if len(written) > 5:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content, at)

    monkeypatch.setattr(os, "pwrite", filling)
    assert train(data, tmp_path / "run", "disk") == 0
    assert words(capsys).count("No more images fit into the cache") == 1
    assert len(written) == 6, "not tried again"
    assert weights(tmp_path / "run") == expected


@pytest.mark.slow
def test_a_disk_with_room_for_some_images_has_those(whole, tmp_path, monkeypatch, capsys):
    data, expected = whole
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100_000))
    assert train(data, tmp_path / "run", "disk") == 0
    said = words(capsys)
    assert "of which 0.1 MB fit into 80% of what is free" in said
    assert said.count("No more images fit into the cache") == 1
    (file,) = (tmp_path / "cache" / "images").iterdir()
    assert 40_000 < file.stat().st_blocks * 512 <= 80_000
    assert weights(tmp_path / "run") == expected


@pytest.mark.faults
@pytest.mark.parametrize("kilobytes", [0, 60])
def test_a_file_system_in_memory_that_is_full(tmp_path, kilobytes):
    """A real one, on which a read of what was never written kills a process; it has room for nothing, or for some images."""
    data = draw_classes(tmp_path / "data", {"across": 20, "down": 20}, size=48)
    place = tmp_path / "place"
    place.mkdir()
    argv = ["train", "small/scratch", *SCRATCH, "--epochs", "2", "--data", str(data), "--out", str(tmp_path / "run")]
    argv += ["--runtime.cache", "disk", "--runtime.cache-side", "32", "--runtime.workers", "2"]
    script = (
        f'mount -t tmpfs -o size=200k none "{place}" && head -c {200 - kilobytes}k /dev/zero > "{place}/filler";'
        f'test -e "{place}/filler" || exit 99; export CONVNEXT_CACHE="{place}"; exec "$0" -m convnext "$@"'
    )
    away = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "sh", "-c", script]
    done = subprocess.run([*away, sys.executable, *argv], capture_output=True, text=True)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    words = "No more images fit into the cache" if kilobytes else "There is no room for the cache of images"
    assert said.count(words) == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_two_runs_at_once_share_a_cache(tmp_path, monkeypatch):
    data = draw_classes(tmp_path / "data", {"across": 20, "down": 20}, size=48)
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    argv = [sys.executable, "-m", "convnext", "train", "small/scratch", *SCRATCH, "--epochs", "3", "--data", str(data)]
    argv += ["--runtime.cache", "disk", "--runtime.cache-side", "32", "--runtime.workers", "1"]
    both = [subprocess.Popen([*argv, "--out", str(tmp_path / name)], stdout=subprocess.DEVNULL) for name in "ab"]
    assert [each.wait() for each in both] == [0, 0]
    (file,) = (tmp_path / "cache" / "images").iterdir()
    assert train(data, tmp_path / "alone", "ram", "--epochs", "3") == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b") == weights(tmp_path / "alone")
    decoded, decode = [], module.bounded
    monkeypatch.setattr(module, "bounded", lambda images, i, side: decoded.append(i) or decode(images, i, side))
    assert train(data, tmp_path / "third", "disk", "--epochs", "3") == 0
    assert decoded == [], "a third run finds all images of the first two"
    assert weights(tmp_path / "third") == weights(tmp_path / "a")
    assert [file] == list((tmp_path / "cache" / "images").iterdir())


@pytest.mark.slow
def test_runs_with_a_cache_that_is_cold_warm_or_in_memory_are_equal(tmp_path, monkeypatch):
    data = draw_classes(tmp_path / "data", {"across": 20, "down": 20}, size=48)
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    for kind, workers, out in (("disk", "0", "cold"), ("disk", "2", "warm"), ("ram", "2", "ram"), ("off", "0", "off")):
        assert train(data, tmp_path / out, kind, "--epochs", "3", "--runtime.workers", workers) == 0
    cold, *others = (load_file(tmp_path / out / "model.safetensors") for out in ("cold", "warm", "ram", "off"))
    same = [all(tensor.equal(other[name]) for name, tensor in cold.items()) for other in others]
    assert same == [True, True, False]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits_without_its_cache(tmp_path, monkeypatch):
    """Killed while the cache is built; it is removed before the run goes on, or stays as the kill left it."""
    monkeypatch.setenv("CONVNEXT_CACHE", str(tmp_path / "cache"))
    options = ("--runtime.cache", "disk", "--runtime.cache-side", "6", "--runtime.workers", "1")
    finish(start(tmp_path / "whole", *options))
    for lost in (True, False):
        shutil.rmtree(tmp_path / "cache")
        out = tmp_path / f"lost-{lost}"
        kill_at(out, 5, 0.1, *options)
        if lost:
            shutil.rmtree(tmp_path / "cache")
        finish(start(out, *options))
        assert_same(result(tmp_path / "whole"), result(out))


def test_batches_are_the_same_with_any_cache_and_workers(tmp_path, cache):
    draw_classes(tmp_path / "data", {"across": 12, "down": 12}, size=90)
    transform = TrainTransform(Preprocess.for_size(48), Augment())
    images = CachedImages(FolderDataset(tmp_path / "data"), cache, SIDE)
    runs = [
        list(
            train_loader(
                TrainSamples(images, transform, 0), TrainBatches(24, 0, 8, 1, 6), workers, False, collate_augmented
            )
        )
        for workers in (0, 2)
    ]
    assert all(torch.equal(cold.images, warm.images) for cold, warm in zip(*runs, strict=True))
    assert all(cache.get(i, images._images.stamp(i)) for i in range(24))


def test_a_cache_that_cannot_be_is_refused_before_the_run(tmp_path, monkeypatch, capsys):
    data = draw_classes(tmp_path / "data", {"across": 20, "down": 20}, size=64)
    argv = ["train", "small/scratch", *SCRATCH, "--data", str(data), "--out", str(tmp_path / "run"), "--dry-run"]
    monkeypatch.setattr(planning, "free_memory", lambda device: 500_000)
    assert run([*argv, "--runtime.cache", "ram"]) == 2
    assert "about 0.4 MB for 36 images" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setenv("CONVNEXT_CACHE", str(data / "across" / "0.png" / "x"))
    assert run([*argv[:-1], "--runtime.cache", "disk"]) == 2
    assert "cannot be used" in capsys.readouterr().err
    images = ArrayDataset("noise", np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3), ["a"])
    assert planning._sizes(images, 4) == (PAGESIZE, 1.0)

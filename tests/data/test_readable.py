"""A broken validation image is found before the first step, in the data of every task."""

import os

import pytest
from PIL import Image

from convnext.classification.builtin import open_digits
from convnext.classification.open import open_parts
from convnext.data.readable import check_readable
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.detection.coco import open_coco
from convnext.segmentation.masks import open_masks


def folders(tmp_path):
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(20):
                Image.effect_noise((32, 24), 50).convert("RGB").save(tmp_path / part / label / f"{i:02}.png")
    return open_parts(str(tmp_path), 0.1, 0)[1], tmp_path / "val/b/13.png"


def boxes(tmp_path):
    write_shapes(tmp_path, 2, 6, 48)
    return open_coco(tmp_path)[1], tmp_path / "val/000006.png"


def masks(tmp_path):
    write_shapes_semantic(tmp_path, 2, 6, 48)
    return open_masks(tmp_path, 0.1, 0, reduce_zero_label=True)[1], tmp_path / "annotations/validation/000006.png"


@pytest.mark.parametrize("opened", [folders, boxes, masks])
def test_the_first_broken_image_is_returned(opened, tmp_path):
    samples, path = opened(tmp_path)
    done = []
    assert check_readable(samples, progress=lambda *numbers: done.append(numbers)) is None
    assert done[-1] == (len(samples), len(samples))
    whole = path.read_bytes()
    path.write_bytes(b"no image")
    assert path.name in str(check_readable(samples, contents=0))
    path.write_bytes(whole[:-30])  # a header alone: found where the content is looked at
    assert check_readable(samples, contents=0) is None
    assert path.name in str(check_readable(samples, contents=len(samples)))
    path.unlink()
    assert "no such file" in str(check_readable(samples, contents=0))


@pytest.mark.parametrize("opened", [boxes, masks])
def test_sizes_are_compared_without_the_orientation(opened, tmp_path):
    samples, path = opened(tmp_path)
    path = tmp_path / path.relative_to(tmp_path).as_posix().replace("annotations", "images")
    image = Image.open(path)
    exif = Image.Exif()
    exif[0x112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert check_readable(samples, contents=0) is None
    Image.new("RGB", (50, 51)).save(path)
    assert "50 x 51" in str(check_readable(samples, contents=0))


@pytest.mark.parametrize("opened", [folders, boxes, masks])
def test_a_check_is_remembered_until_a_file_changes(opened, tmp_path):
    samples, path = opened(tmp_path / "data")
    memory, read = tmp_path / "memory", []
    header = samples.check_header
    samples.check_header = lambda i: (read.append(i), header(i))

    def check(key="a") -> tuple[int, str]:
        read.clear()
        problem = check_readable(samples, contents=0, key=key, memory=memory)
        return len(read), str(problem or "")

    n = len(samples)
    assert [check(), check(), check("b"), check("b")] == [(n, ""), (0, ""), (n, ""), (0, "")]
    whole, times = path.read_bytes(), path.stat()
    path.write_bytes(whole[::-1])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.name in check()[1], "the same size and time, but for the kernel's own"
    assert path.name in check()[1], "a problem is not remembered"
    path.write_bytes(whole)
    assert [check(), check()] == [(n, ""), (0, "")]
    path.unlink()
    assert "no such file" in check()[1]


def test_a_memory_that_cannot_be_written_costs_time_alone(tmp_path):
    samples, _ = folders(tmp_path / "data")
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert check_readable(samples, key="a", memory=tmp_path / "file" / "memory") is None


def test_images_in_memory_have_no_header():
    assert check_readable(open_digits(0)[1]) is None


def test_what_has_no_files_is_not_remembered(tmp_path):
    assert check_readable(open_digits(0)[1], key="a", memory=tmp_path / "memory") is None
    assert not (tmp_path / "memory").exists()

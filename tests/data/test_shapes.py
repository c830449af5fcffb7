"""The drawn pictures themselves; that boxes and masks are read as they were drawn is in test_coco.py."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as tools

from convnext.data.shapes import SEMANTIC, SHAPES, draw_scene, outline, run_lengths, write_shapes, write_shapes_semantic

SIZE = 64


@pytest.mark.parametrize("size", [24, 64, 200])
def test_scenes(size):
    """Every object can be seen and stands out; the same seed draws the same, another one does not."""
    seen = set()
    for index in range(30):
        scene = draw_scene(1, index, size)
        assert scene.picture.dtype == np.uint8
        assert max(scene.picture.shape[:2]) == size
        assert scene.masks.shape == (len(scene.labels), *scene.picture.shape[:2])
        assert (scene.masks.sum(axis=0) <= 1).all()
        assert (scene.masks.sum(axis=(1, 2)) >= 12).all()
        assert scene.crowd.sum() <= 1
        seen |= set(scene.labels.tolist())
    assert seen == {0, 1, 2}
    assert np.array_equal(draw_scene(1, 29, size).picture, scene.picture)
    other = draw_scene(2, 29, size).picture
    assert other.shape != scene.picture.shape or (other != scene.picture).any()


def test_the_same_call_writes_the_same_files(tmp_path):
    one, two = (write_shapes(tmp_path / name, 2, 1, SIZE) for name in "ab")
    files = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    assert [str(path) for path in files] == [
        "annotations/instances_train.json", "annotations/instances_val.json",
        "train/000001.png", "train/000002.png", "val/000003.png",
    ]  # fmt: skip
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)


def test_semantic_shapes(tmp_path):
    write_shapes_semantic(tmp_path, 3, 2, SIZE)
    assert (tmp_path / "classes.txt").read_text().split() == list(SEMANTIC)
    for part, numbers in (("training", (1, 2, 3)), ("validation", (4, 5))):
        for number in numbers:
            scene = draw_scene(0, number, SIZE)
            path = f"{part}/{number:06}.png"
            picture, labels = (np.asarray(Image.open(tmp_path / kind / path)) for kind in ("images", "annotations"))
            assert np.array_equal(picture, scene.picture)
            assert np.array_equal(labels == 1, ~scene.masks.any(axis=0))
            for k, shape in enumerate(SHAPES):
                seen = scene.masks[(scene.labels == k) & ~scene.crowd].any(axis=0)
                assert np.array_equal(labels == 1 + SEMANTIC.index(shape), seen)
            assert np.array_equal(labels == 0, scene.masks[scene.crowd].any(axis=0))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11's
def test_outline_and_run_lengths_cover_what_they_are_of():
    circle = np.hypot(*(np.mgrid[:21, :31] - np.array([10, 14])[:, None, None])) < 8
    for mask in (circle, circle.T):
        polygon = outline(mask)
        assert np.array_equal(tools.decode(tools.merge(tools.frPyObjects(polygon, *mask.shape))), mask)
        assert np.array_equal(tools.decode(tools.frPyObjects(run_lengths(mask), *mask.shape)), mask)
    assert outline(circle ^ np.roll(circle, 3, axis=1)) is None

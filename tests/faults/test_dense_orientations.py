"""EXIF orientations in the data of detectors and segmenters: images, boxes, masks and labels stay those of the upright picture."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scenario import is_full, scenario, sizes
from test_hostile_images import turned_file

from convnext import recipes, tasks
from convnext.data.images import IMAGE_EXTENSIONS
from convnext.data.shapes import write_shapes, write_shapes_semantic
from convnext.task.inputs import inputs_of

DRAW = {"small/detect": write_shapes, "small/segment": write_shapes_semantic}


def seen(name: str, data) -> list:
    """(image, target) of a training image and of a held-out one, by training, `evaluate` and `predict`."""
    recipe = replace(recipes.get(name), data=str(data))
    if recipe.task == "segmentation":
        recipe = replace(recipe, reduce_zero_label=True)
    spec = tasks.of_recipe(recipe)
    found = []
    for part, opened in zip(("train", "val"), spec.open_data(recipe), strict=True):
        again = spec.open_split(recipe, part)
        answered = inputs_of(str(spec.file(again, 0)))[0][0].image()
        for image in (opened.image(0), again.image(0), answered):
            target = opened.target(0)
            parts = list(target.values()) if isinstance(target, dict) else [target]
            found.append([np.asarray(image), *map(np.asarray, parts)])
    return found


@pytest.mark.parametrize("name", DRAW)
@sizes(1, 8)
def test_orientations_of_dense_tasks(name, tmp_path, request, tried):
    what = (
        "EXIF orientations 1 to 8 of all images of a data set: training, evaluate and predict see the same upright pixels, boxes, "
        "masks and labels as without them"
    )
    with scenario(f"EXIF orientation, {recipes.get(name).task}", what, is_full(request)) as now:
        data = DRAW[name](tmp_path / "shapes", images=2, val_images=1, size=48)
        files = [
            path for path in data.rglob("*") if path.suffix in IMAGE_EXTENSIONS and "annotations" not in path.parts
        ]
        uprights = {path: Image.open(path).convert("RGB") for path in files}
        expected = seen(name, data)
        for image, *_ in expected[1:3]:
            assert np.array_equal(image, expected[0][0])
        for orientation in (6, 1, 2, 3, 4, 5, 7, 8)[:tried]:
            for path, upright in uprights.items():
                turned_file(path, upright, orientation)
            with now.case(str(orientation)):
                for one, other in zip(seen(name, data), expected, strict=True):
                    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

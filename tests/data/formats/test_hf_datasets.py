"""What the library `datasets` itself writes and loads: its saved folders, and a local folder by hf:."""

import numpy as np
import pytest
from PIL import Image

from convnext.classification.open import fingerprint, open_dataset
from convnext.data.formats.saved import read_saved
from convnext.detection.open import open_objects
from convnext.recipes.reading import FOUND
from saved_datasets import png

pytestmark = pytest.mark.slow  # importing the library takes seconds


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    for name in ("HF_HOME", "HF_DATASETS_CACHE"):
        patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield pytest.importorskip("datasets", reason="datasets is not installed: uv sync --inexact --extra hf")
    patch.undo()


@pytest.fixture
def folder(tmp_path):
    """Twelve images in two classes, and two to evaluate on."""
    for i in range(14):
        path = tmp_path / "photos" / ("test" if i > 11 else "train") / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return tmp_path / "photos"


def pixels(images) -> list:
    return sorted(np.asarray(images.image(i)).tobytes() for i in range(len(images)))


def test_a_folder_that_it_saved(datasets, folder, tmp_path):
    """Splits, with the bytes of the files and their names."""
    datasets.load_dataset("imagefolder", data_dir=str(folder)).save_to_disk(tmp_path / "saved")
    train, val = open_dataset(str(tmp_path / "saved"), 0.2, 0)
    assert (len(train), len(val), train.classes) == (12, 2, ["cat", "dog"])
    for mine, other in zip((train, val), open_dataset(str(folder), 0.2, 0), strict=True):
        assert pixels(mine) == pixels(other)
        assert mine.counts().tolist() == other.counts().tolist()


def test_a_local_folder_by_its_name(datasets, folder):
    train, val = open_dataset(f"hf:{folder}", 0.2, 0)
    assert (len(train), len(val), train.classes) == (12, 2, ["cat", "dog"])
    assert pixels(train) == pixels(open_dataset(str(folder), 0.2, 0)[0])
    assert fingerprint(train) == fingerprint(open_dataset(f"hf:{folder}", 0.2, 0)[0])


def test_rows_that_it_chose(datasets, tmp_path):
    """A part of a dataset, shuffled, is saved as the rows that it has."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pictures = [Image.fromarray(np.full((5, 7, 3), i, np.uint8)) for i in range(20)]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [i % 2 for i in range(20)]}, features)
    rows.shuffle(seed=1).select(range(9)).save_to_disk(tmp_path / "saved", num_shards=2)
    content = read_saved(tmp_path / "saved", FOUND)
    train, _ = open_dataset(str(tmp_path / "saved"), 0.0, 0)
    assert len(content.items) == len(train) == 9
    for i in range(9):
        assert train.labels[i] == train.image(i).getpixel((0, 0))[0] % 2


@pytest.mark.parametrize("rows", [True, False])
def test_labels_and_boxes(datasets, tmp_path, rows):
    names = datasets.ClassLabel(names=["a", "b"])
    inner = {"bbox": datasets.List(datasets.Value("float32"), length=4), "category": names}
    objects = datasets.List(inner) if rows else datasets.Sequence(inner)
    features = datasets.Features({"image": datasets.Image(), "objects": objects, "tags": datasets.List(names)})
    pictures = [Image.fromarray(np.full((20, 30, 3), i, np.uint8)) for i in range(4)]
    boxes = [[{"bbox": [1, 2, 5, 6], "category": 1}, {"bbox": [0, 0, 30, 20], "category": 0}]] * 4
    given = boxes if rows else [{key: [each[key] for each in found] for key in inner} for found in boxes]
    table = {"image": pictures, "objects": given, "tags": [[0], [0, 1], [], [1]]}
    datasets.Dataset.from_dict(table, features).save_to_disk(tmp_path / "saved")
    train, _ = open_objects(str(tmp_path / "saved"), 0.0, 0, FOUND)
    assert train.target(0)["boxes"].tolist() == [[1, 2, 6, 8], [0, 0, 30, 20]]
    assert train.target(0)["labels"].tolist() == [1, 0]
    labels, _ = open_dataset(str(tmp_path / "saved"), 0.0, 0)
    assert sorted(labels.counts().tolist()) == [2, 2]

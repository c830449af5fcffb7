"""Folders of images and label files: what is found, what the values mean, what a person is told otherwise."""

import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.data.images import ImageError
from convnext.errors import ConvNextError
from convnext.segmentation.ade20k import ADE20K_CLASSES
from convnext.segmentation.labels import IGNORED, read_mask
from convnext.segmentation.layout import is_masks
from convnext.segmentation.masks import open_masks, open_masks_split

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco-mini"
VALUES = np.array([[0, 1, 2, 255], [2, 2, 1, 0], [1, 1, 1, 1]], dtype=np.uint8)  # 3 rows, 4 columns


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_pair(root: Path, part: str, name: str, values: np.ndarray = VALUES, masks: str = "masks") -> None:
    write(root / "images" / part / f"{name}.jpg", np.zeros((*values.shape, 3), np.uint8))
    write(root / masks / part / f"{name}.png", values)


@pytest.fixture
def folder(tmp_path):
    for part, names in (("train", "abc"), ("val", "de")):
        for name in names:
            write_pair(tmp_path, part, name)
    (tmp_path / "classes.txt").write_text("sky\nsea\nship\n")
    return tmp_path


def names(images) -> list[str]:
    return [images.name(i) for i in range(len(images))]


def test_train_and_val(folder):
    assert is_masks(folder)
    train, val = open_masks(folder, 0.1, 0)
    assert train.classes == val.classes == ["sky", "sea", "ship"]
    assert names(train) == ["images/train/a.jpg", "images/train/b.jpg", "images/train/c.jpg"]
    assert names(val) == ["images/val/d.jpg", "images/val/e.jpg"]
    assert train.sources(1) == (folder / "images/train/b.jpg", folder / "masks/train/b.png")
    assert train.image(1).mode == "RGB"
    assert train.image(1).size == (4, 3)
    assert train.target(1).dtype == np.uint8
    assert train.target(1).tolist() == VALUES.tolist()
    assert names(open_masks_split(folder, "train", 0.1, 0)) == names(train)
    assert names(open_masks_split(folder, "val", 0.1, 0)) == names(val)


def test_ade20k(tmp_path):
    values = np.array([[0, 1, 150], [255, 2, 20]], dtype=np.uint8)
    for part in ("training", "validation"):
        write_pair(tmp_path, part, f"ADE_{part}_1", values, masks="annotations")
    train, val = open_masks(tmp_path, 0.1, 0)
    assert len(train.classes) == 150
    assert train.target(0).tolist() == val.target(0).tolist() == [[255, 0, 149], [255, 1, 19]]
    assert [train.classes[k] for k in (0, 19, 149)] == ["wall", "chair", "flag"]
    with pytest.raises(ImageError, match=r"has the values 150; expected: 150 classes' values from 0 to 149, and 255"):
        open_masks(tmp_path, 0.1, 0, reduce_zero_label=False)[0].target(0)
    (tmp_path / "classes.txt").write_text("\n".join(ADE20K_CLASSES))  # a list of its own: no longer ADE20K
    with pytest.raises(ImageError, match="150"):
        open_masks(tmp_path, 0.1, 0)[0].target(0)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "annotations").rename(tmp_path / "masks")
    with pytest.raises(ConvNextError, match="no class list"):
        open_masks(tmp_path, 0.1, 0)


def test_ade20k_classes():
    assert len(set(ADE20K_CLASSES)) == 150
    # spots all over the published list (objectInfo150), so a name that is lost or doubled shows
    spots = {0: "wall", 12: "person", 39: "cushion", 76: "boat", 89: "television receiver", 115: "bag", 149: "flag"}
    assert {k: ADE20K_CLASSES[k] for k in spots} == spots


def test_reduce_zero_label(folder):
    (folder / "classes.txt").write_text("sea\nship\n")
    train, _ = open_masks(folder, 0.1, 0, reduce_zero_label=True)
    assert train.classes == ["sea", "ship"]
    assert train.target(0).tolist() == [[255, 0, 1, 255], [1, 1, 0, 255], [0, 0, 0, 0]]
    with pytest.raises(
        ImageError, match="it has the values 2; expected: 2 classes' values from 0 to 1, and 255"
    ) as error:
        open_masks(folder, 0.1, 0)[0].target(0)
    assert "If 0 is unlabelled there and classes are counted from 1: --reduce-zero-label True" in str(error.value)
    assert train.labels.remedy([3]) == "", "it is given already"


def test_classes_by_value(folder):
    path = folder / "classes.json"
    (folder / "classes.txt").unlink()
    path.write_text(json.dumps(["sky", "sea", "ship"]))
    assert open_masks(folder, 0.1, 0)[0].target(0).tolist() == VALUES.tolist()

    path.write_text(json.dumps({"200": "last", "1": "sea", "2": "ship"}))
    for option in (None, True):
        train, _ = open_masks(folder, 0.1, 0, option)
        assert train.classes == ["sea", "ship", "last"]
        assert train.target(0).tolist() == [[255, 0, 1, 255], [1, 1, 0, 255], [0, 0, 0, 0]]
    write_pair(folder, "train", "a", np.full((3, 4), 200, np.uint8))
    assert np.unique(train.target(0)).tolist() == [2]
    with pytest.raises(ConvNextError, match="does not name the value 0, which contradicts reduce_zero_label = False"):
        open_masks(folder, 0.1, 0, False)

    path.write_text(json.dumps({"0": "sky", "1": "sea", "2": "ship", "200": "last"}))
    assert open_masks(folder, 0.1, 0)[0].target(1).tolist() == VALUES.tolist()
    with pytest.raises(ConvNextError, match="names the value 0, which contradicts reduce_zero_label = True"):
        open_masks(folder, 0.1, 0, True)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("classes.txt", "", "at least one class"),
        ("classes.txt", "a\n\nb\n", "no name may be empty"),
        ("classes.txt", "a\nb\na", "or there twice"),
        ("classes.txt", "\n".join(map(str, range(256))), "values 0 to 255; they must be 0 to 254"),
        ("classes.json", '{"255": "a"}', "values 255 to 255; they must be 0 to 254"),
        ("classes.json", '{"-1": "a"}', "values -1 to -1"),
        ("classes.json", '{"one": "a"}', "invalid literal"),
        ("classes.json", '"abc"', "it holds a str"),
        ("classes.json", "[", "Cannot read the class list"),
    ],
)
def test_broken_class_lists(folder, name, text, said):
    (folder / "classes.txt").unlink()
    (folder / name).write_text(text)
    with pytest.raises(ConvNextError, match=said):
        open_masks(folder, 0.1, 0)


def test_255_classes_fit(folder):
    (folder / "classes.txt").write_text("\ufeff" + "".join(f"class {k}\n" for k in range(255)), encoding="utf-8")
    write_pair(folder, "train", "a", np.array([[0, 254, 255]], np.uint8))
    train, _ = open_masks(folder, 0.1, 0)
    assert train.classes[0] == "class 0"
    assert train.target(0).tolist() == [[0, 254, IGNORED]]
    with pytest.raises(ConvNextError, match="values 1 to 255"):
        open_masks(folder, 0.1, 0, reduce_zero_label=True)


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A greyscale PNG of so many bits a pixel; Pillow writes 2 and 4 only with a palette."""
    rows = [np.unpackbits(row[:, None], axis=1)[:, -bits:].ravel() for row in values]
    data = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_of_few_bits(tmp_path, bits):
    values = (np.arange(35).reshape(5, 7) % 2**bits).astype(np.uint8)
    (tmp_path / "grey.png").write_bytes(grey_png(values, bits))
    read = read_mask(tmp_path / "grey.png")
    assert read.dtype == np.uint8
    assert read.tolist() == values.tolist()


@pytest.mark.parametrize("options", [{}, {"bits": 2}, {"bits": 4, "transparency": 1}])
def test_palette(tmp_path, options):
    image = Image.fromarray(VALUES % 4, mode="L")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tolist())
    image.save(tmp_path / "palette.png", **options)
    with Image.open(tmp_path / "palette.png") as saved:
        assert saved.mode == "P"
    assert read_mask(tmp_path / "palette.png").tolist() == (VALUES % 4).tolist()


def test_16_bits(folder):
    write_pair(folder, "train", "a", VALUES)
    write(folder / "masks/train/a.png", VALUES.astype(np.uint16))
    train, _ = open_masks(folder, 0.1, 0)
    assert train.target(0).dtype == np.uint8
    assert train.target(0).tolist() == VALUES.tolist()
    write(folder / "masks/train/a.png", VALUES.astype(np.uint16) + np.uint16(256) * (VALUES == 2))  # 258
    with pytest.raises(ImageError, match="it has the values 258; expected"):
        train.target(0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_no_labels(folder, mode):
    Image.new(mode, (4, 3)).save(folder / "masks/train/a.png")
    with pytest.raises(ImageError, match=rf"Cannot read .*a.png': its mode is {mode}, but labels are one number"):
        open_masks(folder, 0.1, 0)[0].target(0)


def test_lossy_or_broken_label_files(folder):
    train, _ = open_masks(folder, 0.1, 0)
    Image.new("L", (4, 3)).save(folder / "masks/train/a.png", format="JPEG")
    with pytest.raises(ImageError, match="labels must be a PNG, and its content is JPEG"):
        train.target(0)
    (folder / "masks/train/b.png").write_bytes((folder / "masks/train/b.png").read_bytes()[:50])
    with pytest.raises(ImageError, match="b.png.*truncated or corrupt"):
        train.target(1)
    (folder / "masks/train/c.png").unlink()
    with pytest.raises(ImageError, match="c.png': there is no such file"):
        train.target(2)


@pytest.mark.parametrize("image_first", [True, False])
def test_sizes_that_differ(folder, image_first):
    write(folder / "masks/train/a.png", np.zeros((3, 5), np.uint8))
    train, _ = open_masks(folder, 0.1, 0)
    if image_first:
        train.image(0)
    with pytest.raises(ImageError, match="a.png': the image is 4 x 3 and the labels are 5 x 3 pixels; make them equal"):
        train.target(0)
    write_pair(folder, "train", "b", np.zeros((6, 7), np.uint8))
    train.image(2)
    assert train.target(1).shape == (6, 7)  # another image's size is not taken for this one's


def test_exif_orientation(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: stored 4 x 3, seen 3 x 4
    Image.new("RGB", (4, 3)).save(folder / "images/train/a.jpg", exif=exif)
    train, _ = open_masks(folder, 0.1, 0)
    assert train.image(0).size == (3, 4)
    with pytest.raises(ImageError, match="turn the labels, which lie on their side, as if made without .* EXIF"):
        train.target(0)
    upright = np.ascontiguousarray(np.rot90(VALUES, -1))
    write(folder / "masks/train/a.png", upright)
    assert train.target(0).tolist() == upright.tolist()
    assert train.target(0).shape == train.image(0).size[::-1]


def test_held_out(tmp_path):
    for i in range(40):
        write_pair(tmp_path, "", f"{i:03d}", masks="labels")
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    train, val = open_masks(tmp_path, 0.2, seed=0)
    assert (len(train), len(val)) == (32, 8)
    assert set(names(train)) | set(names(val)) == {f"images/{i:03d}.jpg" for i in range(40)}
    assert names(open_masks(tmp_path, 0.2, seed=0)[1]) == names(val)
    assert names(open_masks(tmp_path, 0.2, seed=1)[1]) != names(val)
    assert names(open_masks_split(tmp_path, "val", 0.2, seed=0)) == names(val)
    assert names(open_masks_split(tmp_path, "train", 0.2, seed=0)) == names(train)
    # an image that comes or goes moves few others
    for kind, ending in (("images", "jpg"), ("labels", "png")):
        (tmp_path / kind / f"{names(train)[0][7:10]}.{ending}").unlink()
    assert len(set(names(open_masks(tmp_path, 0.2, seed=0)[1])) ^ set(names(val))) <= 1
    assert [len(part) for part in open_masks(tmp_path, 0.0, seed=0)] == [39, 0], "all of it is trained on"


def test_train_without_val_is_split(folder):
    (folder / "images/val").rename(folder / "elsewhere")
    train, val = open_masks(folder, 0.4, 0)
    assert (len(train), len(val)) == (2, 1)
    assert all(name.startswith("images/train/") for name in names(train) + names(val))


def test_val_alone(folder):
    (folder / "images/train").rename(folder / "elsewhere")
    assert len(open_masks_split(folder, "val", 0.1, 0)) == 2
    for split in (lambda: open_masks(folder, 0.1, 0), lambda: open_masks_split(folder, "train", 0.1, 0)):
        with pytest.raises(ConvNextError, match=r"has images/val/ but no training part; put it into images/train/ and"):
            split()


def test_nested_folders_and_odd_names(folder):
    write_pair(folder, "train/bonn/night", "ünter wegs.v2")
    write(folder / "images/train/.hidden/x.png", VALUES)
    write(folder / "masks/train/zz spare.png", VALUES)  # labels without an image are passed over
    (folder / "images/train/notes.txt").write_text("no image")
    train, _ = open_masks(folder, 0.1, 0)
    assert names(train)[3:] == ["images/train/bonn/night/ünter wegs.v2.jpg"]
    assert train.target(3).tolist() == VALUES.tolist()


def test_missing_labels(folder):
    (folder / "masks/train/b.png").unlink()
    with pytest.raises(ConvNextError, match=r"1 of 3 images in .*images/train have no labels in .*images/train/b.jpg"):
        open_masks(folder, 0.1, 0)
    assert len(open_masks_split(folder, "val", 0.1, 0)) == 2
    (folder / "masks/val").rename(folder / "masks/validation")
    with pytest.raises(ConvNextError, match="2 of 2 images"):
        open_masks_split(folder, "val", 0.1, 0)


def test_no_images(folder):
    for path in (folder / "images/train").iterdir():
        path.unlink()
    with pytest.raises(ConvNextError, match="images/train has no images; put them there"):
        open_masks(folder, 0.1, 0)


def test_two_images_of_one_name(folder):
    write(folder / "images/train/a.png", VALUES)
    with pytest.raises(ConvNextError, match="images/train/a.jpg and images/train/a.png .* share a name"):
        open_masks(folder, 0.1, 0)


def test_other_folders(folder, tmp_path):
    (folder / "classes.txt").unlink()
    with pytest.raises(ConvNextError, match="has no class list. Write the names into .*classes.txt"):
        open_masks(folder, 0.1, 0)
    with pytest.raises(ConvNextError, match="There is no folder .*imagse'. Did you mean 'images'"):
        open_masks(folder / "imagse", 0.1, 0)
    with pytest.raises(ConvNextError, match="images has train/, val/, and must hold images/ with images and one of"):
        open_masks(folder / "images", 0.1, 0)
    assert not is_masks(folder / "images")
    assert not is_masks(folder / "nowhere")
    # COCO's annotations are JSON, YOLO's labels text
    other = folder / "other"
    write(other / "images/train/a.jpg", VALUES)
    for kind in ("annotations/instances_train.json", "labels/train/a.txt"):
        (other / kind).parent.mkdir(parents=True)
        (other / kind).write_text("{}")
    assert not is_masks(other)


def test_subset(folder):
    write(folder / "masks/train/c.png", np.full((3, 4), 2, np.uint8))
    train, _ = open_masks(folder, 0.1, 0)
    some = train.subset([2, 0]).subset(np.array([0, 1, 1]))
    assert names(some) == ["images/train/c.jpg", "images/train/a.jpg", "images/train/a.jpg"]
    assert np.unique(some.target(0)).tolist() == [2]
    assert some.target(2).tolist() == VALUES.tolist()
    assert len(train) == 3


def test_pickle_is_compact(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb")
    for top, ending in (("images", "jpg"), ("masks", "png")):
        (tmp_path / top / "train").mkdir(parents=True)
        for i in range(500):
            (tmp_path / top / "train" / f"ADE_train_{i:08d}.{ending}").touch()
    train, _ = open_masks(tmp_path, 0.1, 0)
    stored = pickle.dumps(train)
    assert len(stored) / 500 < 110  # two paths of 34 bytes, two ends and a row of 8; a list of them takes over 300
    assert names(pickle.loads(stored)) == names(train)


def test_fingerprint(folder):
    first = open_masks(folder, 0.1, 0)[0]
    prints = {first.fingerprint(), first.subset([0, 1]).fingerprint(), first.subset([1, 0, 2]).fingerprint()}
    assert open_masks(folder, 0.1, 5)[0].fingerprint() in prints
    prints.add(open_masks(folder, 0.1, 0, reduce_zero_label=True)[0].fingerprint())
    (folder / "classes.txt").write_text("sky\nsea\nboat\n")
    prints.add(open_masks(folder, 0.1, 0)[0].fingerprint())
    (folder / "masks").rename(folder / "labels")
    prints.add(open_masks(folder, 0.1, 0)[0].fingerprint())
    assert len(prints) == 6


@pytest.mark.shared
@pytest.mark.skipif(not COCO.is_dir(), reason="needs ../shared/data/coco-mini")
def test_coco_mini(tmp_path):
    (tmp_path / "images").symlink_to(COCO)
    (tmp_path / "masks").symlink_to(COCO / "semantic")
    (tmp_path / "classes.json").symlink_to(COCO / "semantic" / "classes.json")
    train, val = open_masks(tmp_path, 0.1, 0)
    assert (len(train), len(val), len(train.classes)) == (100, 100, 133)
    value_of = {name: int(value) for value, name in json.loads((tmp_path / "classes.json").read_text()).items()}
    for images in (train, val):
        for i in range(0, 100, 7):
            labels = images.target(i)
            with Image.open(images.sources(i)[1]) as stored:
                back = np.array([*(value_of[name] for name in images.classes), *[0] * 123])[labels]
                np.testing.assert_array_equal(back, np.asarray(stored))

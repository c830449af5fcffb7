"""The same boxes as COCO, YOLO, Pascal VOC and LabelMe; and every mistake in them: one sentence with file and line."""

import json

import numpy as np
import pytest

from convnext.classification.open import open_parts
from convnext.data.formats import find_format
from convnext.data.formats.coco import read_coco
from convnext.data.formats.labelme import read_labelme
from convnext.data.formats.voc import read_voc
from convnext.data.formats.yolo import read_yolo
from convnext.data.shapes import write_shapes
from convnext.detection.check import check_coco
from convnext.detection.open import open_objects
from convnext.errors import ConvNextError
from convnext.recipes.reading import FOUND

KINDS = ("coco", "yolo", "voc", "labelme")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One folder for each format, with the same nine images, five of them to train on, and the same boxes."""
    root = tmp_path_factory.mktemp("boxes")
    write_shapes(root / "shapes", 5, 4, 48)
    folders = {kind: root / kind for kind in KINDS}
    for part in ("train", "val"):
        content = json.loads((root / "shapes" / "annotations" / f"instances_{part}.json").read_text())
        content["annotations"] = [
            {key: each[key] for key in ("id", "image_id", "category_id", "bbox")}
            for each in content["annotations"]
            if not each["iscrowd"]
        ]
        content["images"].reverse()
        names = {each["id"]: each["name"] for each in content["categories"]}
        for kind, folder in folders.items():
            images = folder / {"yolo": f"images/{part}", "voc": "JPEGImages"}.get(kind, part)
            images.mkdir(parents=True, exist_ok=True)
            for each in content["images"]:
                data = (root / "shapes" / part / each["file_name"]).read_bytes()
                (images / each["file_name"]).write_bytes(data)
        (folders["coco"] / "annotations").mkdir(exist_ok=True)
        (folders["coco"] / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        for name in (f"yolo/labels/{part}", "voc/Annotations", "voc/ImageSets/Main"):
            (root / name).mkdir(parents=True, exist_ok=True)
        stems = [each["file_name"][:-4] for each in content["images"]]
        (root / f"voc/ImageSets/Main/{part}.txt").write_text("\n".join(stems))
        for image, stem in zip(content["images"], stems, strict=True):
            mine = [each for each in content["annotations"] if each["image_id"] == image["id"]]
            width, height = image["width"], image["height"]
            lines, objects, shapes = [], [], []
            for each in mine:
                x, y, w, h = each["bbox"]
                label = names[each["category_id"]]
                number = sorted(names).index(each["category_id"])
                lines.append(
                    f"{number} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}\n"
                )
                corners = zip(("xmin", "ymin", "xmax", "ymax"), (x, y, x + w, y + h), strict=True)
                inner = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
                objects.append(f"<object><name>{label}</name><bndbox>{inner}</bndbox></object>\n")
                shapes.append({"label": label, "points": [[x + w, y], [x, y + h]], "shape_type": "rectangle"})
            (root / f"yolo/labels/{part}/{stem}.txt").write_text("".join(lines))
            size = f"<size><width>{width}</width><height>{height}</height></size>"
            (root / f"voc/Annotations/{stem}.xml").write_text(f"<annotation>{size}\n{''.join(objects)}</annotation>")
            (root / f"labelme/{part}/{stem}.json").write_text(
                json.dumps({"shapes": shapes, "imageHeight": height, "imageWidth": width, "imagePath": "elsewhere.jpg"})
            )
    (folders["yolo"] / "data.yaml").write_text(
        "train: ../images/train\nval: images/val\nnc: 3\nnames:\n  0: circle\n  1: rectangle\n  2: triangle\n"
    )
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_is_found(written, kind):
    assert find_format(written[kind], FOUND).name == kind


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_same_boxes_in_every_format(written, kind):
    """Names, order, targets to 1e-6, fingerprint and, as labels, the classes of an image."""
    for one, other in zip(
        open_objects(str(written["coco"]), 0.2, 0, FOUND), open_objects(str(written[kind]), 0.2, 0, FOUND), strict=True
    ):
        assert one.classes == other.classes
        assert [one.name(i) for i in range(len(one))] == [other.name(i) for i in range(len(other))]
        for i in range(len(one)):
            mine, its = one.target(i), other.target(i)
            assert set(mine) == set(its) == {"boxes", "labels", "ignore"}
            np.testing.assert_allclose(mine["boxes"], its["boxes"], atol=1e-6)
            assert mine["labels"].tolist() == its["labels"].tolist()
            np.testing.assert_array_equal(np.asarray(one.image(i)), np.asarray(other.image(i)))
        assert one.fingerprint() == other.fingerprint()
    as_labels = [open_parts(str(written[each]), 0.2, 0) for each in ("coco", kind)]
    assert as_labels[1][0].multi_label
    assert as_labels[0][1].labels.tolist() == as_labels[1][1].labels.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_check_reads_every_format(written, kind):
    report = check_coco(str(written[kind]))
    assert report.train.images + report.val.images == 9
    assert report.errors == []


def test_polygons_are_masks(written, tmp_path):
    image = next((written["yolo"] / "images/train").glob("*.png"))
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for stem in "ab":
        (tmp_path / f"images/{stem}.png").write_bytes(image.read_bytes())
        (tmp_path / f"labels/{stem}.txt").write_text("1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    train, _ = open_objects(str(tmp_path), 0.5, 0, FOUND)
    target, (height, width) = train.target(0), train.size(0)
    assert train.has_masks
    np.testing.assert_allclose(target["boxes"], [[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
    assert abs(target["masks"].mean() - 0.25) < 0.05


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("3 0.5 0.5 0.1 0.1", r"\.txt, line 2: there is no class 3; the list has 0 to 2"),
        ("0.5 0.5 0.5 0.1 0.1", r"line 2: the class '0.5' is no whole number"),
        ("nan 0.5 0.5 0.1 0.1", r"line 2: the class 'nan'"),
        ("0 0.5 0.5 0.1", r"line 2 has 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"line 2 has 6 numbers"),
        ("0 20 30 100 50", r"line 2: the numbers must be shares"),
        ("0 nan 0.5 0.1 0.1", r"line 2: the numbers must be shares"),
        ("cat 0.5 0.5 0.1 0.1", r"line 2: 'cat 0.5 0.5 0.1 0.1' are not numbers"),
    ],
)
def test_mistakes_of_yolo(written, tmp_path, line, said):
    make_yolo(written, tmp_path).write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(ConvNextError, match=said):
        read_yolo(tmp_path, FOUND)


def make_yolo(written, folder):
    """A YOLO folder of one image; its label file."""
    image = next((written["yolo"] / "images/train").glob("*.png"))
    for name in ("images", "labels"):
        (folder / name).mkdir()
    (folder / "images/a.png").write_bytes(image.read_bytes())
    (folder / "data.yaml").write_text("train: images\nnames: [a, b, c]\n")
    return folder / "labels/a.txt"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("train: images\nnames: [a, [b]\n", r"data\.yaml, line \d, is not YAML"),
        ("train: images\n", r"data\.yaml has no class names"),
        ("train: images\nnames: [a, a]\n", r"class 'a' twice"),
        ("train: images\nnc: 2\nnames: [a]\n", r"says nc: 2, and names 1"),
        ("train: images\nnames: {1: a}\n", r"keys of 'names' must be 0 to 0"),
        ("train: /etc\nnames: [a]\n", r"/etc is not below"),
        ("train: ../../../etc\nnames: [a]\n", r"is not below"),
        ("names: [a]\n", r"names no images"),
        ("- a\n", r"must have lines such as"),
        ("!!python/object/apply:os.system ['true']\n", r"is not YAML"),
    ],
)
def test_mistakes_of_data_yaml(written, tmp_path, config, said):
    make_yolo(written, tmp_path)
    (tmp_path / "data.yaml").write_text(config)
    with pytest.raises(ConvNextError, match=said):
        read_yolo(tmp_path, FOUND)


def test_an_object_that_leaves_its_image_is_said(written, tmp_path):
    make_yolo(written, tmp_path).write_text("0 0.9 0.5 0.4 0.1\n")
    assert "line 1: the object leaves its image" in read_yolo(tmp_path, FOUND).problems[0]
    report = check_coco(str(tmp_path))
    assert any("a.txt, line 1" in warning for warning in report.warnings)
    assert any("occur once" in warning for warning in report.warnings)


BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation>\n<object><name>a</name></object></annotation>", r"a\.xml, line 2: the object has no <bndbox>"),
        (f"<annotation>\n\n<object>{BOX}</object></annotation>", r"line 3: the object has no <name>"),
        (
            f"<annotation><object><name>a</name>{BOX.replace('>1<', '>one<')}</object></annotation>",
            r"line 1: <xmin> is 'one'",
        ),
        ("<annotation>", r"a\.xml is not XML"),
        ("<html/>", r"<html> is not Pascal VOC"),
        ("", r"is not XML"),
        (
            '<!DOCTYPE a [<!ENTITY x "boom"><!ENTITY y "&x;&x;">]>\n<annotation>&y;</annotation>',
            r"line 1: a document type is not read",
        ),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">\n<annotation/>', r"a document type is not read"),
        ("<a>" * 60, r"too many elements"),
        ("<annotation><filename>../../etc/passwd</filename></annotation>", r"'../../etc/passwd' is outside"),
    ],
)
def test_mistakes_of_voc(tmp_path, text, said):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/a.xml").write_text(text)
    with pytest.raises(ConvNextError, match=said):
        read_voc(tmp_path, FOUND)


def test_difficult_objects_and_lists_of_voc(written, tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for stem in "abc":
        hard = f"<object><name>dog</name><difficult>1</difficult>{BOX}</object>"
        (tmp_path / f"Annotations/{stem}.xml").write_text(
            f"<annotation><object><name>cat</name>{BOX}</object>{hard}</annotation>"
        )
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("a\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("b\n")
    content = read_voc(tmp_path, FOUND)
    assert [(item.name, item.part) for item in content.items] == [("a.jpg", "train"), ("b.jpg", "val")]
    assert content.notes == ["1 images that no list in ImageSets/Main names are left out."]
    assert [(each.box, each.crowd) for each in content.items[0].objects] == [
        ((1, 1, 4, 4), False),
        ((1, 1, 4, 4), True),
    ]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([{"points": [[1, 1], [2, 2], [3, 1]]}], r"a\.json, shape 0 has no label"),
        ([{"label": "a", "points": [[1, 1], [2, 2]]}], r"shape 0 must have 3 points"),
        ([{"label": "a", "points": [[1, 1], [2, "x"], [3, 1]]}], r"shape 0 must have 3 points"),
        ({}, r"has no list 'shapes'"),
    ],
)
def test_mistakes_of_labelme(written, tmp_path, shapes, said):
    image = next((written["yolo"] / "images/train").glob("*.png"))
    (tmp_path / "a.png").write_bytes(image.read_bytes())
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes}))
    with pytest.raises(ConvNextError, match=said):
        read_labelme(tmp_path, FOUND)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ConvNextError, match=r"a\.json is not JSON"):
        read_labelme(tmp_path, FOUND)


def test_shapes_of_labelme(written, tmp_path):
    image = next((written["yolo"] / "images/train").glob("*.png"))
    (tmp_path / "a.png").write_bytes(image.read_bytes())
    triangle = [[1, 1], [9, 1], [1, 9]]
    shapes = [
        {"label": "cat", "points": triangle, "group_id": 1},
        {"label": "cat", "points": [[x + 10, y] for x, y in triangle], "group_id": 1},
        {"label": "dog", "points": [[5, 5], [8, 9]], "shape_type": "circle"},
        {"label": "dog", "points": [[5, 5]], "shape_type": "point"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes}))
    content = read_labelme(tmp_path, FOUND)
    assert [each.box for each in content.items[0].objects] == [(1, 1, 18, 8), (0, 0, 10, 10)]
    assert len(content.items[0].objects[0].segmentation) == 2
    assert content.notes == ["1 points and lines are left out."]


def test_a_path_of_coco_that_leaves_the_folder(written, tmp_path):
    path = tmp_path / "train/_annotations.coco.json"
    path.parent.mkdir()
    (path.parent / "a.jpg").write_bytes(b"")
    images = [
        {"id": k, "file_name": name, "width": 9, "height": 9} for k, name in enumerate(("a.jpg", "../../etc/passwd"))
    ]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    for read in (lambda: read_coco(tmp_path, FOUND), lambda: open_objects(str(tmp_path), 0.5, 0, FOUND)):
        with pytest.raises(ConvNextError, match=r"'../../etc/passwd' is outside"):
            read()

"""Tables of every shape, and every mistake in them: one sentence with file and line."""

import numpy as np
import pytest
from PIL import Image

from convnext.classification.check import check
from convnext.classification.open import fingerprint, open_dataset, open_for_evaluation, open_parts
from convnext.data.formats.table import read_tables
from convnext.errors import ConvNextError
from convnext.recipes.reading import Reading

FOUND = Reading()


@pytest.fixture
def folder(tmp_path):
    """Twelve images in cat/ and dog/."""
    for i in range(12):
        path = tmp_path / ("cat" if i % 2 else "dog") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.glob("*/*.png"))


def write(root, header, rows, name="labels.csv"):
    path = root / name
    path.write_text("".join(f"{line}\n" for line in [header, *rows] if line))
    return path


def test_a_table_is_the_folder_to_the_bit(folder):
    """Rows in any order: the same names, order, split and fingerprint as the folder per class."""
    rows = [f"{name},{name.split('/')[0]}" for name in files(folder)]
    table = write(folder, "file,label", rows[::-1])
    for one, other in zip(
        open_parts(str(folder), 0.25, 3, Reading(format="folder")), open_parts(str(table), 0.25, 3), strict=True
    ):
        assert [one.name(i) for i in range(len(one))] == [other.name(i) for i in range(len(other))]
        assert one.labels.tolist() == other.labels.tolist()
        assert fingerprint(one) == fingerprint(other)
        assert one.source(0) == other.source(0)


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("labels.csv", "file,label", "{0},{1}"),
        ("labels.csv", "height,IMAGE_PATH,class", "6,{0},{1}"),
        ("labels.csv", "\ufefffile;label", '"{0}";"{1}"'),
        ("labels.tsv", "label\tfile", "{1}\t{0}"),
        ("labels.csv", "", "{0},{1}"),
        ("labels.csv", "", "{0}   {1}"),
        ("labels.jsonl", "", '{{"file_name": "{0}", "label": "{1}"}}'),
    ],
)
def test_columns_are_found(folder, name, header, row):
    table = write(folder, header, [row.format(file, file.split("/")[0]) for file in files(folder)], name)
    content = read_tables(table, FOUND)
    assert content.classes == ["cat", "dog"]
    assert not content.multi_label
    assert [item.name for item in content.items] == files(folder)
    assert [item.labels for item in content.items] == [(0,)] * 6 + [(1,)] * 6


@pytest.mark.parametrize(
    ("name", "header", "rows", "reading"),
    [
        ("labels.csv", "file,labels", ["{0},a|b", "{1},", "{2},c"], FOUND),
        ("labels.csv", "file,labels", ['{0},"b, a"', "{1},", "{2},c"], Reading(separator=",")),
        ("labels.csv", "file,labels", ["{0},a b", "{1},", "{2},c"], Reading(separator=" ")),
        ("labels.csv", "file,a,b,c", ["{0},1,1,0", "{1},0,0,0", "{2},0,0,1"], FOUND),
        ("labels.csv", "file,age,b,c,a", ["{0},7,1,0,1", "{1},9,0,0,0", "{2},8,0,1,0"], Reading(label_columns=("a", "b", "c"))),
        ("t.jsonl", "", ['{{"file":"{0}","tags":["b","a"]}}', '{{"file":"{1}"}}', '{{"file":"{2}","tags":["c"]}}'], FOUND),
    ],
)  # fmt: skip
def test_several_labels(folder, name, header, rows, reading):
    table = write(folder, header, [row.format(*files(folder)) for row in rows], name)
    content = read_tables(table, reading)
    assert content.multi_label
    assert content.classes == ["a", "b", "c"]
    assert [item.labels for item in content.items] == [(0, 1), (), (2,)]


def test_targets_of_several_labels(folder):
    rows = [f"{name},{'x|y' if i % 3 else 'y'}" for i, name in enumerate(files(folder))]
    train, val = open_dataset(str(write(folder, "file,labels", rows)), 0.25, 0)
    assert train.multi_label
    assert train.labels.shape == (len(train), 2)
    assert (train.target(0).tolist(), str(train.target(0).dtype)) == (train.labels[0].tolist(), "torch.float32")
    assert len(train) + len(val) == 12
    assert (val.counts() > 0).all(), "each class is held out, too"
    assert train.counts().sum() + val.counts().sum() == 4 + 2 * 8
    for_model = open_for_evaluation(str(folder / "labels.csv"), ["y", "z", "x"], 0.25, 0)
    assert for_model.labels[:, [2, 0]].tolist() == val.labels.tolist()
    report = check(str(folder / "labels.csv"), 0.25)
    assert (report.multi_label, report.train_images + report.val_images, report.format) == (True, 12, "CSV")
    assert report.errors == []


def test_splits(folder):
    words = [
        "train",
        "Train",
        "val",
        "validation",
        "test",
        "training",
        "dev",
        "train",
        "valid",
        "test",
        "train",
        "train",
    ]
    rows = [f"{name},{name[:3]},{word}" for name, word in zip(files(folder), words, strict=True)]
    content = read_tables(write(folder, "file,label,split", rows), FOUND)
    assert (len(content.part("train")), len(content.part("val"))) == (6, 4)
    assert content.notes == ["2 rows of the test part are left out."]
    assert len(open_parts(str(folder / "labels.csv"), 0.1, 0)[1]) == 4


def test_two_tables(folder):
    for name, part in (("train.csv", files(folder)[:8]), ("val.csv", files(folder)[8:])):
        write(folder, "file,label", [f"{file},{int(file[-6:-4]) % 3}" for file in part], name)
    train, val = open_parts(str(folder), 0.1, 0, Reading(format="table"))
    assert (len(train), len(val), train.classes) == (8, 4, ["0", "1", "2"])


def test_images_elsewhere_and_names_without_ending(folder, tmp_path_factory):
    table = tmp_path_factory.mktemp("tables") / "t.csv"
    table.write_text("id,label\n" + "".join(f"{name[:-4]},{name[:3]}\n" for name in files(folder / ".")))
    with pytest.raises(
        ConvNextError, match=r"images of .*t\.csv are not there: looked for 'cat/01' \(line 2\).*--read.images"
    ):
        read_tables(table, FOUND)
    moved = folder / "cat"
    table.write_text("id,label\n01,1\n03,2\n")
    content = read_tables(table, Reading(images=str(moved)))
    assert [item.file for item in content.items] == [moved / "01.png", moved / "03.png"]


def test_an_order_of_classes(folder):
    table = write(folder, "file,label", [f"{name},{name.split('/')[0]}" for name in files(folder)])
    (folder / "classes.txt").write_text("dog\nwolf\ncat\n")
    assert read_tables(table, FOUND).classes == ["dog", "wolf", "cat"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labels.csv", "file,label\ncat/01.png,cat\ncat/01.png,dog\n", r"line 3: .*is .dog. here and .cat. in .*line 2"),
        ("labels.csv", "file,label\ncat/01.png,\n", r"line 2 has no label"),
        ("labels.csv", "file,label\ncat/01.png,a,b\n", r"line 2, has 3 cells, and the first line 2"),
        ("labels.csv", 'file,label\ncat/01.png,"a\n', r"line 2: unexpected end of data"),
        ("labels.csv", "file,label,label\n", r"two columns 'label'"),
        ("labels.csv", "file,label\n", r"no rows"),
        ("labels.csv", "", r"no rows"),
        ("labels.csv", "file,label,split\ncat/01.png,a,later\n", r"line 2: 'split' is 'later', and must be train, val or test"),
        ("labels.csv", "file,a,b\ncat/01.png,1,0\ncat/03.png,2,0\n", r"which columns have the labels.*file, a, b"),
        ("labels.csv", "file,colour,size\ncat/01.png,red,2\n", r"which columns have the labels"),
        ("labels.csv", "weight,label\n3,red\n", r"which column has the image files"),
        ("labels.csv", "file,label\n../../etc/passwd,a\n", r"line 2: '../../etc/passwd' is outside .*--read.images"),
        ("labels.csv", "file,label\n/etc/passwd,a\n", r"line 2: '/etc/passwd' is outside"),
        ("labels.jsonl", '{"file": "cat/01.png", "label": "a"}\n{"file": \n', r"labels\.jsonl, line 2, is not JSON"),
        ("labels.jsonl", '["cat/01.png"]\n', r"line 1, is no object"),
        ("labels.jsonl", '{"file": "cat/01.png", "label": {"a": 1}}\n', r"line 1: .* is no label"),
    ],
)  # fmt: skip
def test_mistakes(folder, name, text, said):
    (folder / name).write_text(text)
    with pytest.raises(ConvNextError, match=said):
        read_tables(folder / name, FOUND)


def test_more_mistakes(folder):
    table = write(folder, "file,a,b", ["cat/01.png,1,0", "cat/03.png,2,0"])
    with pytest.raises(ConvNextError, match=r"line 3: 'a' is '2', and must be 0 or 1"):
        read_tables(table, Reading(label_columns=("a", "b")))
    with pytest.raises(ConvNextError, match=r"no column 'lable'\. Did you mean 'label'"):
        read_tables(write(folder, "file,label", ["cat/01.png,x"]), Reading(label_columns=("lable",)))
    table.write_bytes(b"file,label\ncat/01.png,caf\xe9\n")
    with pytest.raises(ConvNextError, match=r"labels\.csv, line 2, is not UTF-8"):
        read_tables(table, FOUND)
    with pytest.raises(ConvNextError, match=r"no format 'tabel'. Did you mean 'table'"):
        open_parts(str(folder), 0.1, 0, Reading(format="tabel"))
    (folder / "classes.txt").write_text("dog\n")
    with pytest.raises(ConvNextError, match=r"classes\.txt lacks the label 'cat'"):
        read_tables(write(folder, "file,label", ["cat/01.png,cat"]), FOUND)


def test_a_repeated_row_is_said(folder):
    content = read_tables(write(folder, "file,label", ["cat/01.png,cat", "cat/01.png,cat", "dog/00.png,dog"]), FOUND)
    assert len(content.items) == 2
    assert "line 3 repeats 'cat/01.png'" in content.problems[0]

"""Vectors of images, neighbours and protocols, beside scikit-learn's."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import convnext
from convnext.cli.main import run
from convnext.features.neighbours import near_duplicates, nearest, normalised, outliers
from convnext.features.protocols import NEIGHBOURS, knn, linear
from convnext.models import build
from convnext.weights.save import save_weights
from pictures import draw_classes

PREPROCESS = {"size": 32, "crop_ratio": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network of random weights, which tells stripes across from stripes down all the same."""
    torch.manual_seed(0)
    network = build("roadmap_resnet50_separate-downsampling", num_classes=3, width_mult=0.125, depth_mult=0.34)
    file = tmp_path_factory.mktemp("model") / "m.safetensors"
    return save_weights(network, file, metadata={"classes": list("abc"), "preprocess": PREPROCESS})


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    return draw_classes(tmp_path_factory.mktemp("data") / "striped", {"across": 20, "down": 20}, size=32)


@pytest.fixture(scope="module")
def clouds():
    """Vectors of three overlapping classes: 300 to learn from, 100 held out."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    values = (generator.normal(0, 1, (400, 16)) + 1.2 * np.eye(16)[labels]).astype(np.float32)
    return values[:300], values[300:], labels[:300], labels[300:]


def test_neighbours_vote_as_in_scikit_learn(clouds):
    known, asked, labels, truth = clouds
    found = knn(known, asked, labels, truth, 3)
    assert list(found) == list(NEIGHBOURS)
    for k, accuracy in found.items():
        theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(known, labels)
        assert accuracy == pytest.approx(100 * theirs.score(asked, truth))
    assert 40 < found[20] < 99, "neither chance nor certainty"


def test_the_nearest_are_those_of_all_cosines(clouds):
    known, asked, *_ = clouds
    places, values = nearest(asked, known, 7)
    every = normalised(asked) @ normalised(known).T
    assert (places == np.argsort(-every, axis=1, kind="stable")[:, :7]).all()
    assert values == pytest.approx(np.sort(every, axis=1)[:, ::-1][:, :7])
    assert nearest(asked, known[:3], 7)[0].shape == (100, 3)


def test_a_linear_classifier_learns_what_there_is(clouds):
    known, asked, labels, truth = clouds
    strength, accuracy = linear(known, asked, labels, truth, 0)
    assert accuracy > knn(known, asked, labels, truth, 3)[1]
    assert (strength, accuracy) == linear(known, asked, labels, truth, 0)


def test_near_duplicates_and_outliers():
    generator = np.random.default_rng(0)
    labels = [["a"], ["b"]] * 30
    values = generator.normal(0, 0.1, (60, 8)) + np.eye(8)[[0, 1] * 30]
    values[7] = values[3] * 2 + 1e-4
    values[40], values[41] = np.eye(8)[1], np.eye(8)[0]  # labelled as each other
    pairs = near_duplicates(values, alike=0.9999)
    assert [(pair.one, pair.other) for pair in pairs] == [(3, 7)]
    assert {i for i, *_ in outliers(values, labels, 2)} == {40, 41}


def test_embed_writes_names_labels_and_vectors(model, striped, tmp_path, capsys):
    out = tmp_path / "v.parquet"
    argv = ["embed", str(model), "--workers", "0", "--device", "cpu"]
    assert run([*argv, str(striped), "--out", str(out)]) == 0
    table = pq.read_table(out)
    names, values = table["file"].to_pylist(), np.array(table["vector"].to_pylist(), dtype=np.float32)
    assert table["labels"].to_pylist() == [[name.split("/")[0]] for name in names]
    expected = convnext.load(model, device="cpu").embed([str(striped / name) for name in names])
    assert values == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (table.schema.metadata[b"stage"], len(names)) == (b"last", 40)
    assert run([*argv, str(striped), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    (striped / "across" / "broken.png").write_bytes(b"no image")
    files = str(striped / "across" / "*.png")
    assert run([*argv, files, "--out", str(out), "--overwrite", "--stage", "0", "--dtype", "float16"]) == 2
    (striped / "across" / "broken.png").unlink()
    assert "broken.png" in capsys.readouterr().err
    half = pq.read_table(out)
    assert (half.column_names, str(half.schema.field("vector").type.value_type)) == (["file", "vector"], "halffloat")
    assert len(half) == 20
    assert half.schema.field("vector").type.list_size < values.shape[1]


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_protocols_measure_features_for_classes_that_the_model_lacks(model, striped, tmp_path, capsys, protocol):
    argv = ["evaluate", str(model), "--data", str(striped), "--workers", "0", "--device", "cpu"]
    assert run([*argv, "--protocol", protocol, "--out", str(tmp_path / "e")]) == 0
    written = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert max(written["results"]["features"].values()) >= 75
    assert (written["images"], written["trained_images"]) == (4, 36)
    assert "held-out" in capsys.readouterr().out


@pytest.mark.slow  # it draws a batch as well
def test_data_check_shows_what_looks_alike(model, tmp_path, capsys):
    folder = draw_classes(tmp_path / "striped", {"across": 12, "down": 12}, size=32)
    (folder / "down" / "same.png").write_bytes((folder / "across" / "3.png").read_bytes())
    run(["data", "check", str(folder), "--model", str(model), "--out", str(tmp_path / "c"), "--image-size", "32"])
    out = capsys.readouterr().out
    assert "across/3.png" in out
    assert "down/same.png" in out.partition("mostly have other labels")[2]

"""Images kept for the page about a run: what training sees to the pixel, the telling ones in order, what was found."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pycocotools import mask

from convnext import create_model, recipes
from convnext.classification.answers import Kept, write_answers
from convnext.classification.augment import Finish, TrainTransform, collate_augmented
from convnext.classification.dataset import ArrayDataset
from convnext.classification.evaluate import Sliced
from convnext.classification.examples import HITS, MISSED, MISTAKES, explainer, telling_answers, telling_labels
from convnext.classification.label_metrics import LabelScores
from convnext.classification.spec import SPEC
from convnext.classification.transforms import Preprocess
from convnext.data.loader import TrainSamples, train_loader
from convnext.data.pixels import DensePreprocess
from convnext.data.sampler import TrainBatches, epoch_order
from convnext.data.shapes import SEMANTIC, write_shapes, write_shapes_semantic
from convnext.detection.average_precision import to_coco
from convnext.detection.coco import open_coco
from convnext.detection.examples import telling as found_objects
from convnext.detection.spec import SPEC as DETECTION
from convnext.report.detection import color_of
from convnext.report.segmentation import palette
from convnext.segmentation.examples import telling as predicted_regions
from convnext.segmentation.sliding import predict_labels
from convnext.segmentation.spec import SPEC as SEGMENTATION
from convnext.task.examples import SEEN, WIDE, Example, spread, training_examples, write_examples
from convnext.task.spec import Loaded

DIGITS = recipes.get("quickstart")
STRONG = replace(DIGITS.augment, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5, mixup=0.8)


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
    return ArrayDataset("x", pixels, np.array([0, 1, 2, 0, 1, 2]), ["r", "g", "b"])


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    model = create_model("convnext_atto", num_classes=3, layer_scale_init_value=1.0).eval()
    return Loaded(model, ["r", "g", "b"], ["red", "green", "blue"], Preprocess.for_size(64), "a test")


def test_training_images_are_those_of_the_first_batch():
    recipe = replace(DIGITS, augment=STRONG)
    drawn = list(training_examples(SPEC, recipe))
    train = SPEC.open_split(recipe, "train")
    pre = Preprocess.for_size(8)
    samples = TrainSamples(train, TrainTransform(pre, STRONG), recipe.seed)
    batch = next(iter(train_loader(samples, TrainBatches(len(train), 0, SEEN, 1, 1), 0, False, collate_augmented)))
    seen = Finish(pre)(batch.images, batch.erase).permute(0, 2, 3, 1).numpy() * pre.std + pre.mean
    assert len(drawn) == SEEN
    for example, values, i in zip(drawn, seen, batch.indices, strict=True):
        side = 128 // 8
        pixels = np.asarray(example.pictures[0])[side // 2 :: side, side // 2 :: side]
        np.testing.assert_array_equal(pixels, (values.clip(0, 1) * 255).round().astype(np.uint8))
        assert example.words == ", ".join(train.label_names(i))
        assert example.section.endswith("before Mixup")


def test_the_generators_of_whoever_asks_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(training_examples(SPEC, DIGITS))
    assert torch.equal(torch.rand(1), expected)


def test_training_images_that_are_gone_are_left_out(tmp_path):
    assert list(training_examples(SPEC, replace(DIGITS, data=str(tmp_path / "gone")))) == []


def test_the_surest_mistake_and_the_least_sure_hit_come_first(images, loaded):
    said = np.array([0, 1, 0, 1, 1, 0])  # images 2, 3 and 5 are wrong
    kept = Kept(said, np.array([0.9, 0.5, 0.6, 0.7, 0.8, 0.99]), np.zeros(6))
    found = list(telling_answers(kept, images, loaded))
    assert [(each.section, each.words.split(" · ")[1]) for each in found] == [
        *((MISTAKES, f"x/{i}") for i in (5, 3, 2)),
        *((HITS, f"x/{i}") for i in (1, 4, 0)),
    ]
    assert found[0].words == "red 99 %, is blue · x/5"
    assert [picture.size for picture in found[0].pictures] == [(128, 128), (128, 128)], "and what speaks for it"
    alone = replace(loaded, module=torch.nn.Identity())
    assert {len(each.pictures) for each in telling_answers(kept, images, alone)} == {1}, (
        "an exported file explains none"
    )


def test_labels_that_are_wrong_missing_or_hardly_said(images, loaded):
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]], dtype=bool)
    p = np.array([[0.9, 0.1, 0.6], [0.2, 0.8, 0.7], [0.1, 0.9, 0.1], [0.1, 0.1, 0.1], [0.1, 0.1, 0.3], [0.6, 0.1, 0.2]])
    scores = LabelScores(np.log(p / (1 - p)).astype(np.float32), truth, np.full(3, 0.5))
    several = images.relabeled(truth, images.classes)
    found = [(each.section, each.words) for each in telling_labels(scores, several, loaded)]
    assert found == [
        (MISTAKES, "blue 70 %, is green · x/1"),
        (MISTAKES, "blue 60 %, is red · x/0"),
        (MISSED, "red 10 %, is red, green · x/2"),
        (MISSED, "blue 20 %, is red, blue · x/5"),
        (MISSED, "blue 30 %, is blue · x/4"),
        (HITS, "red 60 %, is red, blue · x/5"),
        (HITS, "green 80 %, is green · x/1"),
        (HITS, "red 90 %, is red · x/0"),
        (HITS, "green 90 %, is red, green · x/2"),
    ]


def test_a_map_is_about_the_class_that_was_said(images, loaded):
    explain, image = explainer(loaded), images.image(0)
    about = [np.asarray(explain(image, k)).astype(int) for k in range(3)]
    assert all(np.abs(about[a] - about[b]).max() > 10 for a, b in ((0, 1), (0, 2), (1, 2)))
    among = explainer(replace(loaded, module=Sliced(loaded.module, [2, 0])))
    np.testing.assert_array_equal(np.asarray(among(image, 0)), about[2])


def test_names_that_are_no_utf8_are_written(images, tmp_path):
    odd = ArrayDataset("\udcff", np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1), ["\udcfe"])
    write_answers(Kept(np.zeros(1, int), np.ones(1), np.ones(1)), odd, odd.classes, tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["image"].to_pylist() == ["\\udcff/0"]
    write_examples(lambda: [Example("s", "\udcff", (Image.new("L", (4, 4)),))], tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "b.parquet")["words"].to_pylist() == ["\\udcff"]
    write_examples(list, tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return open_coco(write_shapes(tmp_path_factory.mktemp("shapes"), images=2, val_images=3, size=96))[1]


def test_objects_that_were_found_are_drawn_where_they_are(shapes):
    truth = shapes.ground_truth()["annotations"]
    sure = [{**each, "score": 0.9} for each in truth if each["image_id"] != shapes.image_ids[1]]
    for each in sure:
        del each["segmentation"]
    unsure = [{**each, "score": 0.1} for each in sure]
    found = list(found_objects(SimpleNamespace(detections=sure + unsure), shapes))
    assert len(found) == 3
    assert {picture.size[0] for each in found for picture in each.pictures} <= {240, WIDE}
    counts = [each.words.split(" · ")[0].split("; found: ") for each in found]
    assert counts[1][1] == "nothing"
    crowds = sum(each["iscrowd"] for each in truth if each["image_id"] == shapes.image_ids[0])
    there, said = (sum(int(part.split()[0]) for part in words.split(", ")) for words in counts[0])
    assert said == there + crowds, "crowds are no single objects"
    nothing = np.asarray(found[1].pictures[1]).astype(int)
    plain = shapes.image(1).resize(found[1].pictures[1].size, Image.Resampling.NEAREST)
    assert np.abs(nothing - np.asarray(plain)).max() == 0


def test_masks_that_were_found_are_drawn_like_those_that_are_there(shapes):
    truth, category = shapes.target(0), shapes.category_ids
    prediction = {key: torch.from_numpy(truth[key]) for key in ("boxes", "labels", "masks")}
    prediction["scores"] = torch.ones(len(truth["labels"]))
    detections = to_coco(prediction, int(shapes.image_ids[0]), category, mask.encode)
    pictures = next(found_objects(SimpleNamespace(detections=detections), shapes)).pictures
    there, found = (np.asarray(each).astype(int) for each in pictures)
    assert there.shape == found.shape
    assert (there == found).all(axis=2).mean() > 0.9, "all but the scores on the plates"
    for each in detections:
        del each["segmentation"]
    boxes = np.asarray(next(found_objects(SimpleNamespace(detections=detections), shapes)).pictures[1])
    missing = ~(there == boxes).all(axis=2)
    assert missing.sum() > 1.5 * (~(there == found).all(axis=2)).sum(), "without masks more is missing"


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_training_images_have_their_regions_on_them(task, tmp_path):
    spec, name = {"detection": (DETECTION, "small/detect"), "segmentation": (SEGMENTATION, "small/segment")}[task]
    write = {"detection": write_shapes, "segmentation": write_shapes_semantic}[task]
    recipe = replace(recipes.get(name), data=str(write(tmp_path, images=3, val_images=1, size=96)))
    small = {"short_sides": (64,), "long": 96} if task == "detection" else {"short": 64, "long": 256, "crop": 64}
    recipe = replace(recipe, augment=replace(recipe.augment, **small))
    train = spec.open_split(recipe, "train")
    views = spec.training_views(recipe, train)
    samples, found = TrainSamples(train, views.transform, recipe.seed), list(training_examples(spec, recipe))
    assert len(found) == 3
    for each, i in zip(found, epoch_order(len(train), recipe.seed, 0), strict=True):
        _, target, _, _ = samples[0, int(i)]
        labels = target["labels"] if task == "detection" else target[target != 255]
        wanted = {
            color_of(k) if task == "detection" else tuple(palette()[k].tolist()) for k in labels.unique().tolist()
        }
        pixels = np.asarray(each.pictures[0].convert("RGB")).reshape(-1, 3)
        assert wanted
        assert wanted <= set(map(tuple, pixels.tolist())), "the colours of its classes"
        assert max(each.pictures[0].size) >= WIDE
        assert train.name(int(i)) in each.words


def test_regions_that_were_predicted_are_compared(tmp_path):
    torch.manual_seed(0)
    model = create_model("upernet_convnext_atto", num_classes=4, channels=16, auxiliary_channels=8).eval()
    loaded = Loaded(model, list(SEMANTIC), list(SEMANTIC), DensePreprocess(64, 256, crop=64), "a test")
    data = write_shapes_semantic(tmp_path, images=1, val_images=2, size=96)
    recipe = replace(SEGMENTATION.recipe(), data=str(data), reduce_zero_label=True)
    samples = SEGMENTATION.open_split(recipe, "val")
    found = list(predicted_regions(loaded, samples, "slide", "fp32"))
    with torch.inference_mode():
        labels = predict_labels(model, samples.image(0), loaded.preprocess, crop=64).numpy()
    truth = samples.target(0)
    share = 100 * (labels == truth)[truth != 255].mean()
    assert found[0].words == f"{share:.0f} % of the pixels agree · {samples.name(0)}"
    assert [len(each.pictures) for each in found] == [2, 2]


def test_positions_at_equal_distances():
    assert spread(3, 8) == [0, 1, 2]
    assert spread(16, 8) == list(range(0, 16, 2))
    assert spread(0, 8) == []

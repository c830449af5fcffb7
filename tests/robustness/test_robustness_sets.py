"""The released layouts, the class lists, and that only a set's own classes count."""

import shutil

import pytest
import torch
from torch import nn
from torchvision import transforms as T

from convnext import paper
from convnext.classification.transforms import Normalize
from convnext.errors import ConvNextError
from convnext.robustness.results import Results
from convnext.robustness.run import run
from convnext.robustness.sets import gaps, released_units, severity_folders, wnids
from convnext.robustness.subject import Subject
from convnext.robustness.write import MARKER
from convnext.runtime.world import World

WORLD = World(torch.device("cpu"))


class Planted(nn.Module):
    """Answers every image with the same logits (K,)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def subject(model, classes, size=16):
    return Subject("planted", model, list(classes), T.Resize((size, size)), Normalize((0.5,) * 3, (0.5,) * 3), {})


def evaluate(tmp_path, subject, units):
    results = Results(tmp_path / "robustness.json")
    run(subject, units, results, WORLD, batch=8, workers=0)
    return results.records[subject.name]


def test_the_class_lists_are_the_released_ones():
    everything = wnids("clean")
    assert len(everything) == 1000
    assert list(everything) == sorted(everything)
    for part in ("imagenet-a", "imagenet-r"):
        assert len(wnids(part)) == 200
        assert set(wnids(part)) < set(everything)
    assert wnids("imagenet-a") != wnids("imagenet-r")
    assert wnids("imagenet-sketch") == everything


@pytest.mark.parametrize("part", ["imagenet-a", "imagenet-r"])
def test_only_the_200_classes_of_a_and_r_count(tmp_path, class_folders, part):
    first, second = wnids(part)[5], wnids(part)[150]
    outsider = next(name for name in wnids("clean") if name not in wnids(part))
    logits = torch.zeros(1000)
    for name, value in ((outsider, 9.0), (first, 5.0), (second, 4.0)):
        logits[wnids("clean").index(name)] = value
    model = subject(Planted(logits), wnids("clean"))

    folder = class_folders(tmp_path / part, [first, second], per_class=2, size=20)
    class_folders(folder, [first], per_class=3, size=20)
    (record,) = evaluate(tmp_path, model, released_units(part, folder)).values()
    assert (record.images, record.correct) == (5, 3)  # the outsider, which is likeliest of all, is no answer

    folder = class_folders(tmp_path / "sketch", [first, outsider], size=20)
    (record,) = evaluate(tmp_path, model, released_units("imagenet-sketch", folder)).values()
    assert (record.images, record.correct) == (2, 1)  # here it is, so `first` is wrong


def test_classes_are_matched_by_name_whatever_the_order_of_the_outputs(tmp_path, class_folders):
    backwards = wnids("clean")[::-1]
    logits = torch.zeros(1000)
    logits[backwards.index(wnids("imagenet-r")[7])] = 1.0
    folder = class_folders(tmp_path / "r", wnids("imagenet-r")[6:8], size=20)
    (record,) = evaluate(tmp_path, subject(Planted(logits), backwards), released_units("imagenet-r", folder)).values()
    assert (record.images, record.correct) == (2, 1)


def test_every_layout_is_found(released):
    counts = {
        "imagenet-a": 1,
        "imagenet-r": 1,
        "imagenet-sketch": 1,
        "clean": 1,
        "imagenet-c": 75,
        "imagenet-c-bar": 50,
    }
    images = {"imagenet-a": 6, "imagenet-r": 3, "imagenet-sketch": 3, "clean": 3, "imagenet-c": 2, "imagenet-c-bar": 2}
    for part, count in counts.items():
        units = released_units(part, released / part)
        assert len(units) == len({unit.key for unit in units}) == count
        assert {len(unit.open()) for unit in units} == {images[part]}
        assert gaps(units) == []
    assert gaps(released_units("imagenet-c", released / "imagenet-c" / "blur"))[0].count(",") >= 10


def test_imagenet_c_is_found_without_the_folders_of_its_archives(released, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for place in (released / "imagenet-c").glob("*/*"):
        (flat / place.name).symlink_to(place)
    nested, found = (released_units("imagenet-c", folder) for folder in (released / "imagenet-c", flat))
    assert [unit.key for unit in found] == [unit.key for unit in nested]


def test_severities_as_the_generator_of_c_bar_names_them(released, tmp_path):
    whole = tmp_path / "c-bar"
    shutil.copytree(released / "imagenet-c-bar", whole)
    for corruption in whole.iterdir():
        for severity, value in enumerate(
            (2.35, 3.2, 4.9, 9.1, 10.0), 1
        ):  # 10.00 is the strongest, whatever its first letter
            (corruption / str(severity)).rename(corruption / f"{value:.2f}")
    units = released_units("imagenet-c-bar", whole)
    assert len(units) == 50
    assert [unit.severity for unit in units[:5]] == [1, 2, 3, 4, 5]
    first = next(iter(sorted(whole.iterdir())))
    assert [path.name for path in severity_folders(first).values()] == ["2.35", "3.20", "4.90", "9.10", "10.00"]
    shutil.rmtree(first / "4.90")
    with pytest.raises(ConvNextError, match="has 4 severities"):
        severity_folders(first)


def test_images_of_imagenet_c_are_not_resized_for_a_model_of_224():
    from PIL import Image

    image = Image.effect_noise((224, 224), 80).convert("RGB")
    model = subject(nn.Identity(), ["x"], size=224)
    torch.testing.assert_close(model.transform("crop")(image), model.normalize(image), rtol=0, atol=0)
    assert subject(nn.Identity(), ["x"], size=384).transform("crop")(image).shape == (3, 384, 384)


def test_what_is_no_released_set_is_refused(tmp_path, class_folders, released):
    with pytest.raises(ConvNextError, match=r"no folder .* for ImageNet-A"):
        released_units("imagenet-a", tmp_path / "nowhere")
    val = class_folders(tmp_path / "val", wnids("clean"), size=4)
    with pytest.raises(
        ConvNextError, match=r"800 folders that are none of the 200 classes of ImageNet-A, such as 'n01440764'"
    ):
        released_units("imagenet-a", val)
    with pytest.raises(ConvNextError, match=r"no corruption of ImageNet-C: .* it holds n01440764"):
        released_units("imagenet-c", val)
    written = tmp_path / "written"
    class_folders(written / "fog" / "1", ["n01440764"], size=4)
    (written / MARKER).write_text("{}")
    with pytest.raises(ConvNextError, match="written by `convnext data corrupt`"):
        released_units("imagenet-c", written)


def test_a_model_of_other_classes_is_refused(tmp_path, released):
    model = subject(Planted(torch.zeros(2)), ["cat", "dog"])
    with pytest.raises(ConvNextError, match="200 of 200, such as 'n01498041'; the model's 2 are cat, dog"):
        evaluate(tmp_path, model, released_units("imagenet-a", released / "imagenet-a"))


def test_the_sets_are_those_of_the_paper(released):
    evaluated = {unit.corruption for unit in released_units("imagenet-c", released / "imagenet-c")}
    assert evaluated == set(paper.ALEXNET_ERRORS)

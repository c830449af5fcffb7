"""Values, file names and class names that nobody thinks of, drawn and made smaller by hypothesis; the same ones every time."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st
from PIL import Image
from scenario import Scenario, is_full, scenario, sizes

from convnext import models, recipes
from convnext.classification.open import open_dataset
from convnext.cli import main
from convnext.errors import ConvNextError
from convnext.recipes.ranges import check_ranges, range_of
from convnext.training import overridden
from convnext.weights.save import save_weights

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")
MODEL = {"name": "convnext_atto", "num_classes": 2}
PREPROCESS = {"size": 32, "crop_ratio": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


def examples(now: Scenario, tried: int, drawn: st.SearchStrategy, check: Callable[[Any], None]) -> None:
    """Call `check` with `tried` examples; the smallest that fails is written down."""

    @settings(
        derandomize=True, database=None, deadline=None, max_examples=tried, suppress_health_check=list(HealthCheck)
    )
    @given(drawn)
    def each(value):
        now.tried += 1
        check(value)
        now.survived += 1

    try:
        each()
    except Exception as error:
        now.lost.append(f"{error}")


# -- values of options


def places(kind: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every field of a recipe."""
    found = []
    for each in fields(kind):
        value = getattr(kind, each.name)
        found += places(value, (*prefix, each.name)) if is_dataclass(value) else [(*prefix, each.name)]
    return found


def nested(path: tuple[str, ...], value: Any) -> dict:
    return {path[0]: value if len(path) == 1 else nested(path[1:], value)}


NUMBERS = st.floats() | st.integers() | st.sampled_from([0, -0.0, 1e308, 5e-324, 2**31, 2**63, -(2**63), 2**64])
VALUES = NUMBERS | st.lists(NUMBERS, max_size=3).map(tuple) | st.text(max_size=8) | st.none() | st.booleans()


def sound(instance: Any) -> None:
    """Every number of a recipe is finite and in its range; told without `check_ranges`."""
    for each in fields(instance):
        value = getattr(instance, each.name)
        if is_dataclass(value):
            sound(value)
            continue
        bounds = range_of(type(instance), each.name)
        numbers = [v for v in (value if isinstance(value, tuple | list) else [value]) if isinstance(v, int | float)]
        assert all(math.isfinite(number) for number in numbers), (each.name, value)
        for low, high in ((bounds.at_least, bounds.at_most),) if bounds else ():
            assert all(low is None or number >= low for number in numbers), (each.name, value)
            assert all(high is None or number <= high for number in numbers), (each.name, value)


@sizes(30, 2000)
def test_values_of_options(request, tried):
    what = (
        "hypothesis: numbers, tuples, words for every field of the three tasks' recipes: one sentence, or a recipe whose numbers "
        "are finite and in range"
    )
    chosen = [recipes.get(name) for name in ("quickstart", "small/detect", "small/segment")]
    cases = st.sampled_from([(recipe, path) for recipe in chosen for path in places(recipe)])

    def check(drawn):
        (recipe, path), value = drawn
        try:
            changed = overridden(recipe, nested(path, value))
            check_ranges(changed)
        except ConvNextError as error:
            assert 10 < len(str(error)) < 2000  # noqa: PT017
            return
        sound(changed)

    with scenario("drawn values", what, is_full(request)) as now:
        examples(now, tried, st.tuples(cases, VALUES), check)


# -- names


NAMES = st.binary(min_size=1, max_size=60).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"_"))
TEXTS = st.text(min_size=1, max_size=30).map(lambda text: text.replace("/", "_").replace("\0", "_"))


def distinct(names: list[bytes]) -> list[bytes]:
    return sorted({name for name in names if name.strip(b".") and not name.startswith(b".")})


@pytest.fixture
def photo(tmp_path) -> bytes:
    path = tmp_path / "photo.png"
    Image.new("RGB", (8, 8), (200, 30, 30)).save(path)
    return path.read_bytes()


@pytest.fixture
def model(tmp_path) -> Path:
    metadata = {"model": MODEL, "classes": ["a", "b"], "preprocess": PREPROCESS}
    return save_weights(models.build(**MODEL).state_dict(), tmp_path / "m.safetensors", metadata=metadata)


def assert_harmless(text: str) -> None:
    """Nothing in it moves a cursor or changes a colour."""
    assert not [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)], ascii(text)


@sizes(0, 100)
def test_names_of_files(model, photo, tmp_path, request, tried, capsys):
    what = (
        "hypothesis: folders of images with any bytes as names, by `predict` as a table and as JSON: exit 0, each file "
        "once, nothing that a terminal would interpret"
    )

    def check(drawn):
        with tempfile.TemporaryDirectory(dir=tmp_path) as place:
            folder = os.fsencode(place)
            for name in (names := distinct(drawn)):
                with open(folder + b"/" + name + b".png", "wb") as file:
                    file.write(photo)
            if not names:
                return
            assert main.run(["predict", str(model), place]) == 0
            assert_harmless("".join(capsys.readouterr()))
            assert main.run(["predict", str(model), place, "--json"]) == 0
            captured = capsys.readouterr()
            assert_harmless(captured.out + captured.err)
            files = [json.loads(line)["file"] for line in captured.out.splitlines()]
            assert len(files) == len(set(files)) == len(names)

    with scenario("drawn file names", what, is_full(request)) as now:
        examples(now, tried, st.lists(NAMES, min_size=1, max_size=6), check)


@sizes(0, 100)
def test_names_of_classes(photo, tmp_path, request, tried, capsys):
    what = (
        "hypothesis: any names of classes, as folders that are read, in the metadata of weights, in the answers of `predict`: the "
        "same everywhere, nothing that a terminal would interpret"
    )
    tensors = models.build(**MODEL).state_dict()

    def check(drawn):
        classes = sorted(drawn)
        with tempfile.TemporaryDirectory(dir=tmp_path) as place:
            for name in classes:
                (folder := Path(place, "photos", name)).mkdir(parents=True)
                for i in range(2):
                    (folder / f"{i}.png").write_bytes(photo)
            train, _ = open_dataset(f"{place}/photos", 0.5, 0)
            assert list(train.classes) == classes
            metadata = {"model": MODEL, "classes": classes, "preprocess": PREPROCESS}
            file = save_weights(tensors, Path(place) / "m.safetensors", metadata=metadata)
            for options in ([], ["--json"]):
                assert main.run(["predict", str(file), f"{place}/photos", *options]) == 0
                captured = capsys.readouterr()
                assert_harmless(captured.out + captured.err)
            lines = [json.loads(line) for line in captured.out.splitlines()]
            assert {each["class"] for line in lines for each in line["predictions"]} == set(classes)

    def usable(name: str) -> bool:
        return name.strip(".") != "" and not name.startswith(".") and len(os.fsencode(name)) < 250

    names = TEXTS.filter(lambda name: name.isascii() or max(name) < "\ud800" or min(name) > "\udfff").filter(usable)
    with scenario("drawn class names", what, is_full(request)) as now:
        examples(now, tried, st.lists(names, min_size=2, max_size=2, unique_by=str.casefold), check)

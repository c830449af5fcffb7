"""The recipes are Tables 5 and 6, cell by cell."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest

from convnext import recipes
from convnext.errors import ConvNextError
from convnext.recipes.diff import difference, flatten
from convnext.recipes.plan import make_plan
from convnext.recipes.schema import ByEpochs, Classification, ModelOptions, Optim, Recipe
from convnext.runtime.run_folder import claim, read_config
from convnext.weights import catalog

TABLE5 = {
    "optim.lr": 4e-3, "optim.weight_decay": 0.05, "optim.betas": (0.9, 0.999), "optim.eps": 1e-8, "optim.min_lr": 1e-6,
    "total_batch": 4096, "optim.layer_decay": None, "optim.clip_grad": None, "augment.rand_augment": "rand-m9-mstd0.5-inc1",
    "augment.label_smoothing": 0.1, "augment.mixup": 0.8, "augment.cutmix": 1.0, "augment.random_erasing": 0.25,
    "model.layer_scale_init_value": 1e-6, "image_size": 224,
}  # fmt: skip
TABLE6 = {
    "optim.lr": 5e-5, "optim.weight_decay": 1e-8, "optim.betas": (0.9, 0.999), "total_batch": 512, "epochs": 30,
    "optim.warmup_epochs": 0.0, "augment.rand_augment": "rand-m9-mstd0.5-inc1", "augment.label_smoothing": 0.1,
    "augment.mixup": 0.0, "augment.cutmix": 0.0, "optim.clip_grad": None,
}  # fmt: skip


def expect(name: str, fields: dict) -> None:
    flat = flatten(recipes.get(name))
    assert {key: flat[key] for key in fields} == fields, name


@pytest.mark.parametrize(("size", "rate"), [("tiny", 0.1), ("small", 0.4), ("base", 0.5), ("large", 0.5)])
def test_table5_imagenet_1k(size, rate):
    own = {"epochs": 300, "optim.warmup_epochs": 20.0, "ema.decay": 0.9999}
    expect(f"table5/{size}", TABLE5 | own | {"model.drop_path_rate": rate, "model.name": f"convnext_{size}"})


@pytest.mark.parametrize(("size", "rate"), [("base", 0.1), ("large", 0.1), ("xlarge", 0.2)])
def test_table5_imagenet_22k(size, rate):
    own = {"epochs": 90, "optim.warmup_epochs": 5.0, "ema.decay": None}
    expect(f"table5/{size}-22k", TABLE5 | own | {"model.drop_path_rate": rate, "model.name": f"convnext_{size}"})


@pytest.mark.parametrize("size", ["tiny", "base", "xlarge"])
def test_imagenet_22k_is_trained_on_as_a_whole(size):
    recipe = recipes.get(f"table5/{size}-22k")
    plan = make_plan(recipe, 14_197_122)  # Section 3.1: "~14M images"
    assert (recipe.val_share, plan.steps_per_epoch, plan.total_steps) == (0.0, 3466, 311_940)


@pytest.mark.parametrize(("size", "rate", "scale"), [("small", 0.1, 0.0), ("base", 0.2, 0.0), ("large", 0.5, 1e-6)])
def test_isotropic(size, rate, scale):
    own = {"epochs": 300, "optim.warmup_epochs": 50.0, "model.drop_path_rate": rate, "ema.decay": 0.9999}
    expect(f"table5/isotropic-{size}", TABLE5 | own | {"model.layer_scale_init_value": scale})


@pytest.mark.parametrize(("size", "rate"), [("base", 0.8), ("large", 0.95)])
def test_table6_from_1k(size, rate):
    own = {"optim.layer_decay": 0.7, "image_size": 384, "ema.decay": None, "model.drop_path_rate": rate}
    weights = {"base": "convnext_base.in1k_raw", "large": "convnext_large.in1k"}[
        size
    ]  # L from its average, Section A.2
    expect(f"table6/{size}-384", TABLE6 | own | {"model.head_init_scale": 0.001, "model.weights": weights})


@pytest.mark.parametrize("px", [224, 384])
@pytest.mark.parametrize(("size", "rate", "ema"), [("base", 0.2, None), ("large", 0.3, None), ("xlarge", 0.4, 0.9999)])
def test_table6_from_22k(size, rate, ema, px):
    own = {"optim.layer_decay": 0.8, "image_size": px, "ema.decay": ema, "model.drop_path_rate": rate}
    weights = f"convnext_{size}.in22k"
    expect(f"table6/{size}-22k-1k-{px}", TABLE6 | own | {"model.head_init_scale": 0.001, "model.weights": weights})


@pytest.mark.parametrize(("size", "rate"), [("tiny", 0.0), ("small", 0.1)])
def test_the_thesis_has_tiny_and_small_from_imagenet_22k(size, rate):
    expect(f"table5/{size}-22k", {"model.drop_path_rate": 0.0, "epochs": 90, "ema.decay": None})
    expect(f"table6/{size}-22k-1k-384", {"model.drop_path_rate": rate, "model.weights": f"convnext_{size}.in22k"})
    for name in (f"table5/{size}-22k", f"table6/{size}-22k-1k-224"):
        assert recipes.get(name).source.startswith("thesis: Table 2."), name


def test_the_starting_weights_are_released_ones_and_needed_where_the_paper_fine_tunes():
    named = {name: r for name, r in recipes.recipes().items() if name.startswith(("table6/", "coco/", "ade20k/"))}
    assert {r.model.weights for r in named.values()} <= set(catalog.names())
    assert all(r.needs_weights for r in named.values())
    assert not any(r.needs_weights for name, r in recipes.recipes().items() if name not in named)


def test_the_precision_of_the_papers_own_runs():
    said = {name: r.published_precision for name, r in recipes.recipes().items()}
    assert {said[name] for name in said if name.startswith(("table5/", "table6/"))} == {"fp32"}
    halves = {name for name in said if said[name] == "fp16"}
    assert halves == {name for name in said if name.startswith(("coco/", "ade20k/"))} - {
        "coco/cascade-large-22k", "coco/cascade-xlarge-22k", "ade20k/upernet-large-22k", "ade20k/upernet-xlarge-22k"
    }  # fmt: skip


def test_what_the_paper_does_not_have_is_marked():
    for name in ("table5/atto", "table5/xlarge", "small/scratch", "quickstart"):
        assert recipes.get(name).source.startswith("ours"), name
    for name in ("table5/tiny", "table5/xlarge-22k", "table6/base-384", "table6/xlarge-22k-1k-384"):
        assert recipes.get(name).source.startswith("Table"), name


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ConvNextError, match="table5/tiny"):
        recipes.get("table5/tinny")


def test_difference():
    one = Classification()
    assert difference(one, one) == []
    assert difference(one, replace(one, epochs=3)) == [("epochs", 300, 3)]
    assert difference(one, replace(one, optim=replace(one.optim, lr=1.0))) == [("optim.lr", 4e-3, 1.0)]


def test_nothing_heavy_is_imported():
    script = "import sys; from convnext import recipes, paper; recipes.recipes(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.fixture
def counting():
    """A recipe class of a task from outside the package, and a recipe of it by name."""

    @dataclass(frozen=True)
    class Counting(ByEpochs, Recipe):
        task: ClassVar[str] = "counting"
        model: ModelOptions = field(default_factory=lambda: ModelOptions("convnext_atto"))
        optim: Optim = field(default_factory=lambda: Optim(warmup_epochs=1.0))
        total_batch: int = 8

    recipes.register("counting/apples", Counting(epochs=5))
    yield Counting
    del recipes._registered["counting/apples"], Recipe.kinds["counting"]


def test_a_recipe_from_outside_is_found_by_name_planned_and_read_back_from_its_run(counting, tmp_path):
    recipe = recipes.get("counting/apples")
    assert "counting/apples" in recipes.recipes()
    assert Recipe.kinds["counting"] is counting
    plan = make_plan(recipe, 80)
    assert (plan.total_steps, plan.eval_steps, recipe.length_option) == (50, 10, "--epochs")
    assert claim(tmp_path / "run", "counting/apples", recipe) == "new"
    assert read_config(tmp_path / "run") == ("counting/apples", recipe)


def test_a_name_of_the_package_is_not_replaced():
    with pytest.raises(ConvNextError, match="another name"):
        recipes.register("quickstart", Classification())


def test_every_kind_of_recipe_is_known_by_its_task():
    assert {"classification", "detection", "segmentation"} <= set(Recipe.kinds)
    assert all(isinstance(recipe, Recipe.kinds[recipe.task]) for recipe in recipes.recipes().values())


def test_each_kind_states_its_length():
    lengths = {
        name: recipes.get(name).length(1000) for name in ("table5/tiny", "coco/mask-rcnn-tiny", "ade20k/upernet-tiny")
    }
    assert list(lengths.values()) == [(300_000, 1000), (36_000, 1000), (160_000, 16_000)]
    assert recipes.get("ade20k/upernet-tiny").length_option == "--steps"

"""The folder of a run: claimed once, read back as it was written, and refused with the difference."""

import json
from dataclasses import replace

import pytest

from convnext import recipes
from convnext.errors import ConvNextError
from convnext.recipes.schema import Classification, Detection, Optim, PolyOptim
from convnext.runtime import run_folder
from convnext.runtime.run_folder import choose_folder, claim, read_config


@pytest.mark.parametrize("name", ["quickstart", "small/detect", "ade20k/upernet-tiny", "coco/mask-rcnn-tiny"])
def test_a_recipe_is_read_back_as_it_was_written(tmp_path, name):
    recipe = recipes.get(name)
    assert claim(tmp_path, name, recipe) == "new"
    assert read_config(tmp_path) == (name, recipe)
    assert claim(tmp_path, name, recipe) == "unfinished"


@pytest.mark.parametrize("recipe", [Detection(optim=Optim(lr=1e-3)), Classification(optim=PolyOptim(power=2.0))])
def test_any_optimizer_of_any_task_is_read_back(tmp_path, recipe):
    claim(tmp_path, "mine", recipe)
    assert read_config(tmp_path)[1] == recipe


def test_another_config_is_refused_with_the_difference(tmp_path):
    recipe = recipes.get("quickstart")
    claim(tmp_path, "quickstart", recipe)
    with pytest.raises(ConvNextError, match="epochs: 12 there, 3 now"):
        claim(tmp_path, "quickstart", replace(recipe, epochs=3))


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path):
    """TensorBoard's files cannot be written there."""
    with pytest.raises(ConvNextError, match="not UTF-8. Give another --out"):
        claim(tmp_path / "\udcff", "quickstart", recipes.get("quickstart"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "juggling"}, "none of classification"),
        ({"epochs": "many"}, "epochs"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"colour": 1}, "colour"),
        ({"optim": {"lr": 1.0, "colour": 1}}, "colour"),
        ({"optim": 3}, "cannot be read"),
        ({"optim": {"lr": float("nan")}}, "--optim.lr is nan"),
    ],
)
def test_a_damaged_config_is_refused(tmp_path, change, words):
    claim(tmp_path, "quickstart", recipes.get("quickstart"))
    path = tmp_path / run_folder.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConvNextError, match=words):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", "", '{"name": "x"}'])
def test_a_config_that_is_none_is_refused(tmp_path, text):
    (tmp_path / run_folder.CONFIG).write_text(text)
    with pytest.raises(ConvNextError, match="cannot be read"):
        read_config(tmp_path)


def test_leftovers_of_killed_processes_are_cleared_when_the_run_continues(tmp_path):
    recipe = recipes.get("quickstart")
    claim(tmp_path, "quickstart", recipe)
    (tmp_path / "checkpoints" / ".writing-999999999").mkdir(parents=True)
    (tmp_path / ".best.safetensors.999999999").write_text("half")
    assert claim(tmp_path, "quickstart", recipe) == "unfinished"
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "environment.json", ".lock", "checkpoints"}
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("left", [".config.json.999999999", "environment.json", ".environment.json.999999999"])
def test_a_folder_of_a_command_killed_before_its_run_began_is_free(tmp_path, left):
    recipe = recipes.get("quickstart")
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / left).write_text("{")
    folder = choose_folder("quickstart", recipe, tmp_path)
    assert folder == tmp_path / "quickstart"
    assert claim(folder, "quickstart", recipe) == "new"
    assert read_config(folder)[1] == recipe


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConvNextError, match="not empty"):
        claim(tmp_path, "quickstart", recipes.get("quickstart"))

import json
import resource

import pytest
import torch
from safetensors import safe_open

from convnext import models
from convnext.errors import ConvNextError
from convnext.weights.load import load_model, read_checkpoint
from convnext.weights.save import save_weights


def test_our_format_holds_all_that_is_needed(random_model, tmp_path):
    model = random_model("convnext_atto", num_classes=3, drop_path_rate=0.1, stem_stride=2)
    path = save_weights(model, tmp_path / "new" / "x.safetensors", metadata={"classes": ["a", "b", "c"]})
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["convnext"])
    assert metadata == {"model": model.config, "num_classes": 3, "classes": ["a", "b", "c"]}
    again, checkpoint = load_model(path)
    assert (checkpoint.format, checkpoint.metadata) == ("safetensors", metadata)
    assert again.config == model.config
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())


def test_steps_of_the_roadmap_are_kept_by_our_format(tmp_path):
    name = next(name for name in models.names() if name.startswith("roadmap_resnet50_"))
    model = models.build(name, num_classes=3, width_mult=0.125)
    again, _ = load_model(save_weights(model, tmp_path / "x.safetensors"))
    assert again.state_dict().keys() == model.state_dict().keys()


def test_names_of_a_compiled_model_are_its_own(tmp_path):
    tensors = models.build("convnext_atto").state_dict()
    save_weights({f"_orig_mod.{name}": t for name, t in tensors.items()}, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.safetensors").tensors.keys() == tensors.keys()


def test_an_unknown_format(tmp_path):
    with pytest.raises(ConvNextError, match=r"no format 'safetensor'\. Did you mean 'safetensors'"):
        save_weights({}, tmp_path / "x", "safetensor")


@pytest.mark.parametrize("format", ["safetensors", "official", "timm", "transformers"])
def test_a_full_disk_leaves_what_was_there(format, random_model, tmp_path):
    model = random_model("convnext_atto")
    path = save_weights(model, tmp_path / "x", format)
    before = read_checkpoint(path).tensors
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may grow beyond this
    try:
        with pytest.raises(ConvNextError, match="could not be written"):
            save_weights(random_model("convnext_atto", seed=1), path, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = read_checkpoint(path).tensors
    assert all(torch.equal(t, after[name]) for name, t in before.items())
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConvNextError, match="could not be written"):
        save_weights(models.build("convnext_atto"), tmp_path / "file" / "x.safetensors")
    with pytest.raises(ConvNextError, match="could not be written"):
        save_weights(models.build("convnext_atto"), tmp_path)

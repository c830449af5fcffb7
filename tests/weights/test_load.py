import argparse
import os

import pytest
import torch

from convnext import models
from convnext.errors import ConvNextError
from convnext.models.convnext import ConvNeXt
from convnext.weights.load import load_model, load_weights, read_checkpoint
from convnext.weights.save import save_weights


def atto(**options):
    return models.build("convnext_atto", **{"num_classes": 5, **options})


@pytest.fixture
def file(random_model, tmp_path):
    """Weights of `convnext_atto` with 5 classes, as the reference would save them."""
    return save_weights(random_model("convnext_atto", num_classes=5), tmp_path / "atto.pth", "official")


def refuses(model, path, message, **options):
    """The load is refused with this message, and the model is as it was."""
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ConvNextError, match=message) as caught:
        load_weights(model, path, **options)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    return str(caught.value)


# -- which tensors of a file


def test_a_training_checkpoint_of_the_reference(tmp_path):
    raw, ema = atto().state_dict(), atto().state_dict()
    content = {
        "model": raw,
        "model_ema": ema,
        "optimizer": {"state": {0: {"step": 1}}},
        "epoch": 3,
        "args": argparse.Namespace(lr=4e-3),
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    auto = read_checkpoint(tmp_path / "checkpoint.pth")
    assert (auto.which, auto.available) == ("raw", ("raw", "ema"))
    assert torch.equal(auto.tensors["head.weight"], raw["head.weight"])
    asked = read_checkpoint(tmp_path / "checkpoint.pth", which="ema")
    assert torch.equal(asked.tensors["head.weight"], ema["head.weight"])


def test_only_averaged_weights_are_taken_when_there_is_nothing_else(tmp_path):
    torch.save({"state_dict_ema": atto().state_dict()}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").which == "ema"
    with pytest.raises(ConvNextError, match="holds no 'raw' weights, only 'ema'"):
        read_checkpoint(tmp_path / "x.pth", which="raw")


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", None])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "m.", "model._orig_mod."]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_and_prefixes(wrapper, prefix, zipped, tmp_path):
    model = atto()
    state = {f"{prefix}{name}": t for name, t in model.state_dict().items()} | {"n_averaged": torch.tensor(1)}
    path = tmp_path / "weights.of.any.name"
    torch.save({wrapper: state} if wrapper else state, path, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(path).tensors.keys() == model.state_dict().keys()


# -- from shapes to a model


@pytest.mark.parametrize("name", [n for n in models.names() if n.startswith("convnext_")])
def test_every_size_is_inferred_from_its_shapes(name):
    with torch.device("meta"):
        model = models.build(name, num_classes=11, in_chans=4, layer_scale_init_value=1e-6)
    assert models.identify(model.state_dict()) == {
        "name": name, "num_classes": 11, "in_chans": 4, "layer_scale_init_value": 1e-6
    }  # fmt: skip


def test_a_size_without_a_name_loads_into_a_model_but_is_not_inferred(tmp_path):
    model = ConvNeXt((1, 1, 2, 1), (8, 16, 24, 32), num_classes=3)
    save_weights(model, tmp_path / "x.pth", "official")
    assert load_weights(ConvNeXt((1, 1, 2, 1), (8, 16, 24, 32), num_classes=3), tmp_path / "x.pth").missing == []
    with pytest.raises(ConvNextError, match=r"depths \(1, 1, 2, 1\) and dims \(8, 16, 24, 32\)"):
        load_model(tmp_path / "x.pth")


def test_load_model_takes_options_and_a_new_head(file):
    model, _ = load_model(file, drop_path_rate=0.3)
    assert model.stages[3][1].drop_path_rate == 0.3
    assert load_model(file, new_head=True, num_classes=7)[0].head.out_features == 7
    with pytest.raises(ConvNextError, match="has no option 'drop_path'"):
        load_model(file, drop_path=0.3)


def test_a_detectors_checkpoint_is_said_to_be_one(file, tmp_path):
    tensors = {f"backbone.{name}": t for name, t in read_checkpoint(file).tensors.items()}
    torch.save({"state_dict": tensors}, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").format == "official"
    with pytest.raises(ConvNextError, match="holds convnext_atto inside a detector or segmenter"):
        load_model(tmp_path / "x.pth")
    refuses(
        atto(),
        tmp_path / "x.pth",
        "looks like convnext_atto inside a detector or segmenter, and the model is convnext_atto",
    )


# -- what fits and what does not


def test_a_trained_model_draws_no_weights_that_its_file_replaces(file, monkeypatch):
    import convnext

    def drawn(*args, **options):
        raise AssertionError("drawn")

    monkeypatch.setattr("torch.nn.init.trunc_normal_", drawn)
    module = convnext.load(file, device="cpu").module
    assert all(torch.equal(module.state_dict()[name], t) for name, t in read_checkpoint(file).tensors.items())
    with pytest.raises(AssertionError, match="drawn"):
        atto()


def test_everything_fits(file):
    model = atto()
    report = load_weights(model, file)
    assert (report.missing, report.unexpected, report.dropped, report.new_head) == ([], [], [], False)
    assert torch.equal(model.head.weight, read_checkpoint(file).tensors["head.weight"])


def test_another_number_of_classes(file):
    model = atto(num_classes=10)
    message = refuses(model, file, "has 5 classes, and the model 10")
    assert "num_classes=5" in message
    assert "new_head=True" in message
    own = model.head.weight.clone()
    assert load_weights(model, file, new_head=True).new_head
    assert torch.equal(model.head.weight, own)
    assert torch.equal(model.norm.weight, read_checkpoint(file).tensors["norm.weight"])


def test_new_head_changes_nothing_where_the_classifier_fits(file):
    model = atto()
    assert not load_weights(model, file, new_head=True).new_head
    assert torch.equal(model.head.weight, read_checkpoint(file).tensors["head.weight"])


def test_a_file_without_a_classifier(file, tmp_path):
    tensors = {name: t for name, t in read_checkpoint(file).tensors.items() if not name.startswith("head.")}
    save_weights(tensors, tmp_path / "x.pth", "official")
    refuses(atto(), tmp_path / "x.pth", "has no classifier, and the model has one of 5 classes: pass new_head=True")
    assert load_weights(atto(), tmp_path / "x.pth", new_head=True).new_head


def test_a_backbone_starts_from_a_classifier(file):
    model = atto(num_classes=None)
    report = load_weights(model, file)
    assert sorted(report.dropped) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    assert (report.missing, report.unexpected) == ([], [])
    assert torch.equal(model.norm3.weight, torch.ones(320))
    assert torch.equal(model.stages[0][0].gamma, read_checkpoint(file).tensors["stages.0.0.gamma"])


def test_a_backbone_takes_a_backbones_norms(random_model, tmp_path):
    source = random_model("convnext_atto", num_classes=None)
    model = atto(num_classes=None)
    assert load_weights(model, save_weights(source, tmp_path / "x.safetensors")).dropped == []
    assert torch.equal(model.norm3.weight, source.norm3.weight)


def test_partial(file, tmp_path):
    tensors = read_checkpoint(file).tensors
    for i in range(12):
        tensors[f"extra.{i}"] = torch.zeros(1)
    del tensors["downsample_layers.0.0.weight"]
    save_weights(tensors, tmp_path / "x.pth", "official")
    model = atto()
    message = refuses(model, tmp_path / "x.pth", r"lacks downsample_layers\.0\.0\.weight\. The model lacks extra\.0")
    assert "extra.7 and 4 more (12 in all)" in message
    assert "partial=True" in message
    report = load_weights(model, tmp_path / "x.pth", partial=True)
    assert (report.missing, len(report.unexpected)) == (["downsample_layers.0.0.weight"], 12)
    assert torch.equal(model.head.bias, tensors["head.bias"])


def test_another_model(file):
    refuses(models.build("convnext_femto"), file, "looks like convnext_atto, and the model is convnext_femto")
    refuses(models.build("convnext_femto"), file, "another shape, such as downsample_layers", partial=True)
    refuses(
        ConvNeXt((2, 2, 5, 2), (40, 80, 160, 320), num_classes=5),
        file,
        r"the model is a model of depths \(2, 2, 5, 2\)",
    )


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_another_number_of_channels_is_adapted_as_timm_does(channels, file):
    from timm.models import adapt_input_conv

    model = atto(in_chans=channels)
    report = load_weights(model, file)
    how = "summed" if channels == 1 else "repeated and scaled"
    assert report.adapted == f"The stem's weights for 3 channels were {how} for {channels}."
    stem = read_checkpoint(file).tensors["downsample_layers.0.0.weight"]
    assert torch.equal(model.downsample_layers[0][0].weight, adapt_input_conv(channels, stem))
    again, checkpoint = load_model(file, in_chans=channels)
    assert checkpoint.report.adapted == report.adapted
    assert torch.equal(again.downsample_layers[0][0].weight, model.downsample_layers[0][0].weight)


def test_channels_that_say_nothing_about_each_other(random_model, tmp_path):
    save_weights(random_model("convnext_atto", in_chans=5, num_classes=5), tmp_path / "five.pth", "official")
    refuses(atto(in_chans=4), tmp_path / "five.pth", "for 5 channels, and the model for 4: build it with in_chans=5")
    assert load_weights(atto(in_chans=1), tmp_path / "five.pth").adapted
    save_weights(random_model("convnext_atto", in_chans=1, num_classes=5), tmp_path / "one.pth", "official")
    x, grey = torch.randn(1, 1, 32, 32), atto(in_chans=1)
    rgb = atto()
    load_weights(grey, tmp_path / "one.pth")
    load_weights(rgb, tmp_path / "one.pth")
    torch.testing.assert_close(rgb(x.expand(1, 3, 32, 32)), grey(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("with_it", "without", "value"), [(0.0, 1e-6, "1e-6"), (1e-6, 0.0, "0,")])
def test_layer_scale_on_one_side_only(with_it, without, value, tmp_path):
    save_weights(atto(layer_scale_init_value=without), tmp_path / "x.pth", "official")
    refuses(atto(layer_scale_init_value=with_it), tmp_path / "x.pth", f"Build the model with .*={value}")


# -- what is no checkpoint


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it ran"),)

    for zipped in (True, False):
        torch.save({"model": Payload()}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ConvNextError, match=r"more than tensors .*mkdir.* could run code"):
            read_checkpoint(tmp_path / "x.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "x.pth")
    with pytest.raises(ConvNextError, match=r"more than tensors .*Linear"):
        read_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"not a checkpoint", "it begins with b'not a"),
        (b"PK\x03\x04 no zip", "damaged or incomplete"),
        (b"\x80\x02", "damaged or incomplete"),
    ],
)
def test_other_files_are_named_for_what_they_are(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ConvNextError, match=message):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("format", ["official", "safetensors"])
def test_truncated_files(format, tmp_path):
    whole = save_weights(atto(), tmp_path / "whole", format).read_bytes()
    for length in (50, len(whole) // 2, len(whole) - 10):
        (tmp_path / "part").write_bytes(whole[:length])
        with pytest.raises(ConvNextError, match="damaged or incomplete"):
            read_checkpoint(tmp_path / "part")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"epoch": 3}, "its names are epoch"),
        ({}, "none at all"),
        ({"conv1.weight": torch.ones(1)}, "its names are conv1.weight. Known are the names of official, timm"),
    ],
)
def test_other_contents(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ConvNextError, match=message):
        read_checkpoint(tmp_path / "x.pth")


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(ConvNextError, match="no file or folder"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ConvNextError, match=r"Did you mean 'convnext_tiny\.in1k'"):
        read_checkpoint("convnext_tinny.in1k")
    with pytest.raises(ConvNextError, match=r"neither model\.safetensors nor"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["convnext_atto", "convnext_isotropic_small"])
def test_a_model_without_classifier_takes_the_norm_before_it(name, tmp_path):
    options = {"layer_scale_init_value": 0.5}
    whole = models.build(name, num_classes=5, **options)
    torch.nn.init.normal_(whole.norm.weight)
    save_weights(whole, tmp_path / "whole.safetensors")
    bare = models.build(name, num_classes=0, **options)
    report = load_weights(bare, tmp_path / "whole.safetensors")
    assert sorted(report.dropped) == ["head.bias", "head.weight"]
    assert torch.equal(bare.norm.weight, whole.norm.weight)

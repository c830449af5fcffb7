"""Models of other libraries: their own preprocessing to the bit, their classes, and errors for people."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image

from convnext.errors import ConvNextError
from convnext.robustness.load import load_subject
from convnext.robustness.peers import TABLE8, load_peer
from convnext.robustness.sets import wnids

CPU = torch.device("cpu")


@pytest.fixture
def picture():
    waves = np.add.outer(np.sin(np.arange(300) / 9), np.cos(np.arange(411) / 5))[..., None] * [50, 60, 30] + 120
    return Image.fromarray(waves.astype(np.uint8))


@pytest.fixture
def no_download(monkeypatch):
    """Peers get random weights, and all else of them stays as it is."""
    create, get_model = timm.create_model, torchvision.models.get_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, pretrained=False))
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: get_model(name, weights=None))


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050.lamb_in1k", "levit_128s.fb_dist_in1k", "convnext_atto.d2_in1k"]
)
def test_timm(no_download, picture, name):
    subject = load_subject(f"timm:{name}", CPU)
    config = timm.data.resolve_model_data_config(subject.model)
    theirs = timm.data.create_transform(**config, is_training=False)(picture)
    torch.testing.assert_close(subject.transform("image")(picture), theirs, rtol=0, atol=2e-6)
    assert subject.size == config["input_size"][1]
    assert subject.classes == list(wnids("clean"))
    assert not subject.model.training


@pytest.mark.parametrize("name", ["resnet18", "resnet50.IMAGENET1K_V1", "mobilenet_v3_small", "convnext_tiny"])
def test_torchvision(no_download, picture, name):
    subject = load_subject(f"torchvision:{name}", CPU)
    weights = torchvision.models.get_model_weights(name.partition(".")[0])[name.partition(".")[2] or "DEFAULT"]
    torch.testing.assert_close(subject.transform("image")(picture), weights.transforms()(picture), rtol=0, atol=2e-6)
    assert subject.classes == list(wnids("clean"))


@pytest.mark.parametrize("edge", [32, 384])
def test_transformers(tmp_path, picture, edge):
    labels = {0: "cat", 1: "dog"}
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    transformers.ConvNextForImageClassification(config).save_pretrained(tmp_path)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": edge}, crop_pct=0.875)
    processor.save_pretrained(tmp_path)
    subject = load_subject(f"transformers:{tmp_path}", CPU)
    theirs = torch.as_tensor(processor(images=picture, return_tensors="pt")["pixel_values"][0])
    ours = subject.transform("image")(picture)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert subject.classes == ["cat", "dog"]
    assert subject.model(ours[None]).shape == (1, 2)


def test_peers_whose_row_of_table_8_is_known_exist():
    assert set(TABLE8) >= {"torchvision:resnet50.IMAGENET1K_V1"}
    for name in TABLE8:
        library, _, rest = name.partition(":")
        if library == "timm":
            assert rest in timm.list_pretrained()
        else:
            architecture, _, weights = rest.partition(".")
            assert weights in torchvision.models.get_model_weights(architecture).__members__


def test_a_peer_has_its_row_of_table_8(no_download):
    assert load_peer("torchvision:resnet50.IMAGENET1K_V1").paper_row.c_bar == 57.7
    assert load_peer("torchvision:resnet50").paper_row is None


def test_the_identity_tells_weights_and_preprocessing_apart(no_download):
    torch.manual_seed(0)
    one, other = (load_peer("timm:mobilenetv3_small_050.lamb_in1k") for _ in range(2))
    assert one.identity("fp32") != other.identity("fp32")
    other.model.load_state_dict(one.model.state_dict())
    assert one.identity("fp32") == other.identity("fp32") != other.identity("bf16")
    other.preprocess = other.preprocess | {"crop_pct": 1.0}
    assert one.identity("fp32") != other.identity("fp32")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnet5O", "timm could not load 'resnet5O' .*Did you mean"),
        ("torchvision:resnet5O", "torchvision could not load 'resnet5O' .*Did you mean"),
        ("torchvision:resnet50.IMAGENET1K_V9", "KeyError: 'IMAGENET1K_V9'"),
    ],
)
def test_unknown_names(name, said):
    with pytest.raises(ConvNextError, match=said):
        load_peer(name)


def test_no_network(monkeypatch):
    def offline(*_, **__):
        raise OSError("Failed to resolve 'huggingface.co'")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConvNextError, match=r"Failed to resolve.*downloaded, which takes a network, or a cache"):
        load_peer("timm:resnet18.a1_in1k")


def test_a_library_that_is_not_installed(monkeypatch):
    from convnext.robustness import peers

    def missing(*_):
        raise ImportError("No module named 'transformers'")

    monkeypatch.setitem(peers.LIBRARIES, "transformers", replace(peers.LIBRARIES["transformers"], load=missing))
    with pytest.raises(ConvNextError, match="needs transformers, which cannot be imported"):
        load_peer("transformers:facebook/convnext-tiny-224")

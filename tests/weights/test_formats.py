"""Every format against the library it belongs to: the same logits, and names and tensors that come back identical."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import oracle
from convnext import models
from convnext.errors import ConvNextError
from convnext.weights.load import load_model, load_weights, read_checkpoint
from convnext.weights.save import save_weights

TOLERANCE = 1e-4  # of logits of about 1, fp32: only the order of the sums differs
FOREIGN = ["official", "timm", "torchvision", "transformers"]
SMALLER = ["atto", "femto", "pico", "nano"]
LARGER = ["small", "base", "large", "xlarge"]


def sizes(*slow):
    return pytest.mark.parametrize("size", ["tiny", *(pytest.param(size, marks=pytest.mark.slow) for size in slow)])


def same(ours, theirs):
    """Equal names, types and bits."""
    assert ours.keys() == theirs.keys()
    assert all(t.dtype == theirs[name].dtype and torch.equal(t, theirs[name]) for name, t in ours.items())


@torch.no_grad()
def logits_agree(ours, theirs, read=lambda output: output):
    x = oracle.input((2, 3, 64, 64), seed=1)
    ours, theirs = ours(x), read(theirs(x))
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("case", "batch"), [("convnext_tiny_224_seed0", 2), ("convnext_isotropic_small_224_seed0", 1)])
def test_a_reference_checkpoint_gives_the_references_logits(case, batch, tmp_path):
    torch.save({"model": oracle.state_dict(f"{case}.keys.txt", seed=0)}, tmp_path / "reference.pth")
    model, checkpoint = load_model(tmp_path / "reference.pth")
    assert checkpoint.format == "official"
    assert checkpoint.metadata["model"]["name"] == case.removesuffix("_224_seed0")
    with torch.no_grad():
        logits = model.eval()(oracle.input((batch, 3, 224, 224), seed=0))
    expected = np.load(oracle.ORACLES / f"{case}.npz")["logits"]
    np.testing.assert_allclose(logits.numpy(), expected, atol=TOLERANCE, rtol=0)


@sizes(*SMALLER, *LARGER)
def test_timm(size, random_model, tmp_path):
    import timm

    ours, theirs = random_model(f"convnext_{size}"), timm.create_model(f"convnext_{size}").eval()
    theirs.load_state_dict(torch.load(save_weights(ours, tmp_path / "a.pth", "timm")))
    logits_agree(ours, theirs)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "b.pth")
    again, checkpoint = load_model(tmp_path / "b.pth")
    assert checkpoint.format == "timm"
    assert again.config["name"] == f"convnext_{size}"
    same(again.state_dict(), ours.state_dict())


@sizes("small", "base", "large")
def test_torchvision(size, random_model, tmp_path):
    import torchvision

    ours, theirs = random_model(f"convnext_{size}"), getattr(torchvision.models, f"convnext_{size}")().eval()
    theirs.load_state_dict(load_file(save_weights(ours, tmp_path / "a.safetensors", "torchvision")))
    logits_agree(ours, theirs)
    torch.save(theirs.state_dict(), tmp_path / "b.pth")
    again, checkpoint = load_model(tmp_path / "b.pth")
    assert checkpoint.format == "torchvision"
    same(again.state_dict(), ours.state_dict())


@sizes(*SMALLER, *LARGER)
def test_transformers(size, random_model, tmp_path):
    import transformers

    ours = random_model(f"convnext_{size}", num_classes=7)
    metadata = {
        "classes": list("abcdefg"),
        "preprocess": {"size": 64, "crop_ratio": 0.8, "mean": [0.1] * 3, "std": [0.2] * 3, "interpolation": "bilinear"},
    }
    save_weights(ours, tmp_path / "a", "transformers", metadata)
    theirs, info = transformers.ConvNextForImageClassification.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.config.id2label[6] == "g"
    logits_agree(ours, theirs.eval(), lambda output: output.logits)

    theirs.save_pretrained(tmp_path / "b")
    transformers.AutoImageProcessor.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    again, checkpoint = load_model(tmp_path / "b")
    assert checkpoint.format == "transformers"
    assert {key: checkpoint.metadata[key] for key in metadata} == metadata
    same(again.state_dict(), ours.state_dict())


def test_transformers_without_a_classifier(random_model, tmp_path):
    import transformers

    x = oracle.input((1, 3, 64, 64), seed=1)
    backbone = random_model("convnext_atto", num_classes=None)
    save_weights(backbone, tmp_path / "backbone", "transformers")
    theirs = transformers.ConvNextBackbone.from_pretrained(tmp_path / "backbone").eval()
    with torch.no_grad():
        for ours, map_ in zip(backbone(x).values(), theirs(x).feature_maps, strict=True):
            torch.testing.assert_close(ours, map_, atol=TOLERANCE, rtol=0)
    same(load_model(tmp_path / "backbone")[0].state_dict(), backbone.state_dict())

    classifier = random_model("convnext_atto", num_classes=3)
    save_weights(classifier, tmp_path / "classifier", "transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the classifier that ConvNextModel leaves out
        transformers.ConvNextModel.from_pretrained(tmp_path / "classifier").save_pretrained(tmp_path / "bare")
    bare = read_checkpoint(tmp_path / "bare")
    assert models.identify(bare.tensors)["num_classes"] is None
    same(bare.tensors, {k: t for k, t in classifier.state_dict().items() if not k.startswith("head.")})


@pytest.mark.parametrize("format", FOREIGN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_come_back_identical(format, dtype, random_model, tmp_path):
    tensors = random_model("convnext_atto", num_classes=5).to(dtype).state_dict()
    once = read_checkpoint(save_weights(tensors, tmp_path / "once", format))
    assert once.format == format
    assert models.identify(once.tensors) == {
        "name": "convnext_atto", "num_classes": 5, "in_chans": 3, "layer_scale_init_value": 1e-6
    }  # fmt: skip
    same(once.tensors, tensors)
    once.metadata["classes"] = list("abcde")
    save_weights(once.tensors, tmp_path / "ours.safetensors", metadata=once.metadata)
    twice = read_checkpoint(tmp_path / "ours.safetensors")
    assert twice.metadata == once.metadata
    same(twice.tensors, tensors)


@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_a_model_without_layer_scale(format, random_model, tmp_path):
    model = random_model("convnext_atto", num_classes=5, layer_scale_init_value=0.0)
    again, _ = load_model(save_weights(model, tmp_path / "x", format))
    same(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("format", FOREIGN[1:])
def test_a_format_refuses_what_it_cannot_hold(format, tmp_path):
    with pytest.raises(ConvNextError, match=f"{format} format has no place for stem.weight"):
        save_weights(models.build("convnext_isotropic_small"), tmp_path / "x", format)
    with pytest.raises(ConvNextError, match=f"{format} format has no stem of stride 2"):
        save_weights(models.build("convnext_atto", stem_stride=2), tmp_path / "x", format)
    assert not list(tmp_path.iterdir())


def test_torchvision_always_has_layer_scale(tmp_path):
    with pytest.raises(ConvNextError, match="without LayerScale"):
        save_weights(models.build("convnext_atto", layer_scale_init_value=0.0), tmp_path / "x", "torchvision")


def test_variants_of_timm_that_compute_something_else_are_refused(tmp_path):
    import timm

    for variant, extra in (("convnext_atto_ols", "stem.1"), ("convnextv2_atto", "grn")):
        torch.save(timm.create_model(variant).state_dict(), tmp_path / "x.pth")
        with pytest.raises(ConvNextError, match=rf"{extra}|tensors have another shape"):
            load_weights(models.build("convnext_atto"), tmp_path / "x.pth")


# -- what transformers does to an image


@pytest.mark.parametrize(("size", "ratio"), [(64, 0.875), (64, 1.0), (384, 0.9), (384, 1.0)])
@pytest.mark.parametrize("shape", [(90, 130), (500, 403)])
def test_the_image_processor_of_transformers_does_the_same(size, ratio, shape, tmp_path):
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    from convnext.classification.transforms import Preprocess, eval_transform

    pre = Preprocess(size=size, crop_ratio=ratio)
    model = models.build("convnext_atto", num_classes=3)
    save_weights(
        model, tmp_path, "transformers", {"preprocess": pre.to_dict() | {"mean": [*pre.mean], "std": [*pre.std]}}
    )
    noise = np.random.default_rng(0).integers(0, 255, (shape[0] // 10 + 1, shape[1] // 10 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BICUBIC)
    ours = eval_transform(pre)(image)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0]
    assert theirs.shape == ours.shape
    assert (ours - theirs).abs().mean() < 0.05  # two resamplers, a pixel of the centre; the other crop ratio: 0.97

    back = Preprocess.from_dict(read_checkpoint(tmp_path).metadata["preprocess"])
    assert torch.equal(eval_transform(back)(image), ours)


def test_a_crop_of_the_whole_short_side_is_no_warp(tmp_path):
    """ConvNextImageProcessor at 224 px with crop_pct 1.0: the short side becomes 224, and the centre is kept."""
    from PIL import Image

    from convnext.classification.transforms import Preprocess

    save_weights(models.build("convnext_atto", num_classes=3), tmp_path, "transformers")
    file = tmp_path / "preprocessor_config.json"
    file.write_text(file.read_text().replace("0.875", "1.0"))
    image = Image.effect_noise((300, 200), 50).convert("RGB")
    expected = image.resize((336, 224), Image.Resampling.BICUBIC).crop((56, 0, 280, 224))
    pre = Preprocess.from_dict(read_checkpoint(tmp_path).metadata["preprocess"])
    assert pre.resize_crop(image).tobytes() == expected.tobytes()


def test_what_transformers_cannot_express_is_said(random_model, tmp_path):
    with pytest.raises(ConvNextError, match="no image processor for the preprocessing of a detector"):
        save_weights(
            random_model("convnext_atto"), tmp_path / "x", "transformers", {"preprocess": {"short": 800, "long": 1333}}
        )


# -- OpenMMLab


def as_openmmlab(tensors, convolutions=False):
    """Our names -> mmpretrain's: three layers of a block, and a classifier's norm and head."""
    renamed = {}
    for name, t in tensors.items():
        for ours, theirs in (
            ("dwconv", "depthwise_conv"),
            ("pwconv1", "pointwise_conv1"),
            ("pwconv2", "pointwise_conv2"),
        ):
            name = name.replace(f".{ours}.", f".{theirs}.")
        if convolutions and "pointwise" in name and name.endswith("weight"):
            t = t[..., None, None]
        renamed[name] = t
    return renamed


@pytest.mark.parametrize("convolutions", [False, True])
def test_a_classifier_of_mmpretrain(convolutions, random_model, tmp_path):
    ours = random_model("convnext_atto", num_classes=5)
    theirs = {}
    for name, t in as_openmmlab(ours.state_dict(), convolutions).items():
        head = name.replace("head.", "head.fc.")
        theirs[
            head if name.startswith("head.") else f"backbone.{name}".replace("backbone.norm.", "backbone.norm3.")
        ] = t
    torch.save({"meta": {"epoch": 1}, "state_dict": theirs}, tmp_path / "x.pth")
    again, checkpoint = load_model(tmp_path / "x.pth")
    assert checkpoint.format == "openmmlab"
    same(again.state_dict(), ours.state_dict())


@pytest.mark.parametrize("name", ["mask_rcnn_convnext_atto", "upernet_convnext_atto"])
def test_a_detector_of_mmdet_3_and_a_segmenter_of_mmseg_1(name, tmp_path):
    import convnext
    from convnext import tasks

    ours = convnext.create_model(name, num_classes=4)
    torch.save({"state_dict": as_openmmlab(ours.state_dict())}, tmp_path / "x.pth")
    assert tasks.open_trained(str(tmp_path / "x.pth")).spec is tasks.of_model(name)
    same(convnext.create_model(name, weights=str(tmp_path / "x.pth")).state_dict(), ours.state_dict())

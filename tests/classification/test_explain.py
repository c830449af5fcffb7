"""Maps of what speaks for a class, beside the package that people use for them and beside the formula."""

import numpy as np
import pytest
import torch
from PIL import Image

import convnext
from convnext.classification.explain import stage_maps
from convnext.cli.main import run
from convnext.errors import ConvNextError
from convnext.models import build
from convnext.report.explanation import overlay
from convnext.weights.save import save_weights
from pictures import draw_classes

PREPROCESS = {"size": 64, "crop_ratio": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
SMALL = {"width_mult": 0.125, "depth_mult": 0.34, "num_classes": 5}


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build(name, **SMALL).eval()
    for parameter in model.parameters():  # gamma is 1e-6 at first, and the head almost nothing
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else torch.nn.init.uniform_(parameter, 0.2, 1.0)
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    metadata = {"classes": list("abcde"), "preprocess": PREPROCESS}
    model = network("roadmap_resnet50_separate-downsampling")
    return save_weights(model, tmp_path_factory.mktemp("model") / "m.safetensors", metadata=metadata)


@pytest.mark.parametrize("name", ["roadmap_resnet50_separate-downsampling", "roadmap_resnet50_patchify-stem"])
def test_maps_are_the_formula(name):
    """The last stage by hand: of logits = head(norm(mean over positions)), with the gradient of a function of the map."""
    model, x = network(name), torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits, maps, classes = stage_maps(model, x)
    assert torch.allclose(logits, model(x), atol=1e-5)
    assert classes.tolist() == logits.argmax(1).tolist()
    *_, last = model.stage_outputs(x)
    last = last.detach().requires_grad_()
    axes = (1, 2) if name.endswith("downsampling") else (2, 3)
    mean = last.mean(axes, keepdim=axes == (2, 3))
    model.head(model.norm(mean).flatten(1)).gather(1, classes[:, None]).sum().backward()
    expected = (last.grad.relu() * last).sum(6 - sum(axes)).relu().detach()  # over the axis that is left: 3 or 1
    torch.testing.assert_close(maps[-1], expected / expected.amax((1, 2), keepdim=True), rtol=1e-3, atol=1e-4)
    assert [tuple(each.shape[1:]) for each in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.slow  # its import takes four seconds
def test_maps_are_those_of_grad_cam():
    gradcam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, x = network("roadmap_resnet50_separate-downsampling"), torch.randn(2, 3, 64, 64)
    _, maps, _ = stage_maps(model, x, torch.tensor([1, 4]))
    for stage, values in enumerate(maps):
        layer = model.stage_parts[stage][-1]
        with gradcam.LayerCAM(model, [layer], reshape_transform=lambda y: y.permute(0, 3, 1, 2)) as cam:
            cam(x, targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(4)])
            kept = cam.activations_and_grads
            activations, gradients = (each[0].numpy() for each in (kept.activations, kept.gradients))
            theirs = cam.get_cam_image(x, layer, None, activations, gradients, False).clip(0)
        assert values.numpy() == pytest.approx(theirs / theirs.max((1, 2), keepdims=True), rel=1e-4, abs=1e-5)


def test_predict_writes_what_speaks_for_the_class(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures = draw_classes(tmp_path / "p", {"across": 2}, size=48)
    argv = ["predict", str(file), str(pictures), "--device", "cpu"]
    assert run([*argv, "--explain", "--batch", "2"]) == 0
    written = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert written == ["0.explained.jpg", "0.jpg", "1.explained.jpg", "1.jpg"]
    with Image.open(tmp_path / "predictions" / "0.explained.jpg") as drawn:
        assert drawn.width > 5 * 256
    model = convnext.load(file, device="cpu")
    one, plain = (model.predict(pictures / "across" / "0.png", explain=explain) for explain in (True, False))
    assert one.probabilities == pytest.approx(plain.probabilities, abs=1e-4)
    assert one.explanation.choice == one.top(1)[0]
    with pytest.raises(ConvNextError, match="explain=True"):
        plain.explain()


def test_an_overlay_is_the_image_where_the_map_is_zero():
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    values = np.zeros((8, 8), np.float32)
    values[:, 6:] = 1
    found, before = np.asarray(overlay(image, values)), np.asarray(image)
    assert (found[:, :16] == before[:, :16]).all()
    assert np.abs(found[:, 28:].astype(int) - before[:, 28:]).max() > 20


def test_an_exported_file_says_why_it_cannot(file, tmp_path):
    class Exported(torch.nn.Module):
        pass

    with pytest.raises(ConvNextError, match="checkpoint"):
        stage_maps(Exported(), torch.zeros(1, 3, 8, 8))

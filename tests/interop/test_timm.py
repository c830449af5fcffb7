"""timm's interface on our networks: the categories of timm's own model tests, and equality with timm's networks.

The categories (forward, backward, default settings, features, fx; https://github.com/huggingface/pytorch-image-models,
`tests/test_models.py`) are asked of every name. TorchScript is left out: `torch.jit.script` is deprecated by PyTorch, and our
checks of images are Python. By default only small networks are asked.
"""

import math

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import FeatureInfo, get_notrace_functions, get_notrace_modules
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import convnext
from convnext.classification.transforms import Preprocess, eval_transform
from convnext.errors import ConvNextError
from convnext.interop.timm import TimmConvNeXt, settings
from convnext.models import convnext as stages
from convnext.models import isotropic
from convnext.weights import timm as names_of_timm
from interop.test_things_people_do import distance

TAGGED = convnext.timm_register()
NAMES = [name for name in TAGGED if name.endswith(".ours")]
SMALL = {
    "convnext_atto.ours": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
    "convnext_isotropic_small.ours": {"depth": 3, "dim": 16},
}
CASES = [pytest.param(name, options, id=f"small {name}") for name, options in SMALL.items()]
CASES += [pytest.param(name, {}, id=name, marks=pytest.mark.slow) for name in NAMES]
every_name = pytest.mark.parametrize(("name", "options"), CASES)


def make(name: str, options: dict, **more) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options, **more).eval()


def images(side: int = 64, count: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


# -- the categories


@every_name
def test_forward(name, options):
    model, x = make(name, options), images(224, 1)
    y = model(x)
    assert y.shape == (1, 1000)
    assert y.isfinite().all()
    model.set_grad_checkpointing()
    assert torch.allclose(model(x), y, rtol=1e-4, atol=1e-5)
    model.set_grad_checkpointing(False)
    assert not any("forward" in vars(module) for module in model.modules())


@every_name
def test_backward(name, options):
    model = make(name, options, num_classes=42).train()
    y = model(images(128))
    assert y.shape == (2, 42)
    y.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


CONFIGURED = [
    *CASES,
    *(pytest.param(name, {}, id=name, marks=pytest.mark.slow) for name in TAGGED if name not in NAMES),
]


@pytest.mark.parametrize(("name", "options"), CONFIGURED)
def test_default_settings(name, options):
    model = make(name, options)
    cfg, names = model.default_cfg, model.state_dict()
    assert cfg["first_conv"] + ".weight" in names
    assert cfg["classifier"] + ".weight" in names
    assert model.get_classifier().out_features == model.num_classes == cfg["num_classes"]
    x = torch.zeros(1, *cfg["input_size"])
    features = model.forward_features(x)
    before = model.forward_head(features, pre_logits=True)
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    assert before.shape == (1, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert torch.equal(model(x), before)
    model.reset_classifier(0, "")
    assert model(x).shape == features.shape
    bare = make(name, options, num_classes=0, global_pool="")
    assert bare(x).shape == features.shape


@every_name
@pytest.mark.parametrize("how", [{}, {"feature_cls": "getter"}])
def test_features(name, options, how):
    model, x = make(name, options, features_only=True, **how), images(96)
    maps = model(x)
    assert len(maps) == len(model.feature_info.channels()) >= 3
    for y, channels, stride in zip(maps, model.feature_info.channels(), model.feature_info.reduction(), strict=True):
        assert y.shape == (2, channels, 96 // stride, 96 // stride)
        assert y.isfinite().all()


@every_name
def test_intermediates(name, options):
    model, x = make(name, options), images(96)
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    last, maps = model.forward_intermediates(x)
    assert [y.shape[1] for y in maps] == info.channels()
    assert [96 // y.shape[2] for y in maps] == info.reduction()
    assert torch.equal(last, model.forward_features(x))
    assert torch.equal(last, maps[-1])
    model.set_grad_checkpointing()
    assert torch.allclose(model.forward_intermediates(x)[0], last, rtol=1e-4, atol=1e-5)


def traced(model):
    """The model as torchvision's feature extractor of its last node, which timm's tests make with these arguments."""
    how = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    nodes = [[names[-1]] for names in get_graph_node_names(model, tracer_kwargs=how)]
    return create_feature_extractor(
        model, train_return_nodes=nodes[0], eval_return_nodes=nodes[1], tracer_kwargs=how, suppress_diff_warning=True
    )


@every_name
def test_forward_of_the_fx_graph(name, options):
    model, x = make(name, options), images(128, 1)
    with torch.inference_mode():
        (y,) = traced(model)(x).values()
        assert torch.equal(y, model(x)) or distance(y, model(x)) < 1e-5


@every_name
def test_backward_of_the_fx_graph(name, options):
    model = traced(make(name, options, num_classes=42).train()).train()
    (y,) = model(images(128)).values()
    assert y.shape == (2, 42)
    y.mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("classes", [5, 0])
def test_weights_of_a_file(name, classes, tmp_path):
    """For 1 channel and other classes, as timm's test of released weights asks for them, which would be downloaded."""
    whole = make(name, SMALL[name])
    torch.save({"model": whole.state_dict()}, tmp_path / "released.pth")
    given = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "released.pth")}}
    model = make(name, SMALL[name], in_chans=1, num_classes=classes, **given)
    stem = model.default_cfg["first_conv"] + ".weight"
    theirs = whole.state_dict()
    assert torch.allclose(model.state_dict()[stem], theirs.pop(stem).sum(1, keepdim=True))
    ours = {k: v for k, v in model.state_dict().items() if not k.startswith("head.") and k != stem}
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert len(make(name, SMALL[name], features_only=True, **given)(images())) >= 3


# -- beside timm's own networks


@pytest.fixture(scope="module")
def pair():
    """timm's network, and ours with its weights; branches are not negligible."""
    sizes = SMALL["convnext_atto.ours"]
    torch.manual_seed(0)
    theirs = timm.create_model("convnext_atto", **sizes).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.5 if p.ndim == 1 else p[0].numel() ** -0.5) + ("norm" in name))
    ours = make("convnext_atto.ours", sizes)
    ours.load_state_dict(names_of_timm.to_ours(theirs.state_dict()))
    return theirs, ours


@pytest.fixture(scope="module")
def file_of_timms(pair, tmp_path_factory):
    file = tmp_path_factory.mktemp("timm") / "theirs.pth"
    torch.save(pair[0].state_dict(), file)
    return str(file)


def test_names_of_timm_stay_timms(pair):
    assert type(pair[0]).__module__ == "timm.models.convnext"
    assert "convnext_tiny" in timm.list_models(module="convnext")
    assert timm.get_pretrained_cfg("convnext_tiny").tag == "in12k_ft_in1k"
    assert convnext.timm_register() == TAGGED
    assert set(TAGGED) <= set(timm.list_models("*.ours*", include_tags=True))
    assert timm.is_model_pretrained("convnext_xlarge.ours_in22k")
    assert not timm.is_model_pretrained("convnext_atto.ours")


@pytest.mark.parametrize("taken", [None, (1, 3), (0,), (-2,)])
def test_the_same_maps_as_timms_network(file_of_timms, taken):
    sizes, x = SMALL["convnext_atto.ours"], images()
    given = {"features_only": True, "pretrained": True, "pretrained_cfg_overlay": {"file": file_of_timms}}
    given |= {} if taken is None else {"out_indices": taken}
    theirs = timm.create_model("convnext_atto", **sizes, **given).eval()
    ours = make("convnext_atto.ours", sizes, **given)
    with torch.no_grad():
        for one, other in zip(ours(x), theirs(x), strict=True):
            assert distance(one, other) < 1e-5
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", ""])
def test_the_same_numbers_as_timms_network(pair, pool):
    theirs, ours = pair
    x = images()
    with torch.no_grad():
        for model in pair:
            model.reset_classifier(1000 if pool else 0, pool)
        if pool:
            ours.head.load_state_dict(theirs.get_classifier().state_dict())
        assert ours.state_dict().keys() == names_of_timm.to_ours(theirs.state_dict()).keys()
        assert distance(ours(x), theirs(x)) < 1e-5
        features = theirs.forward_features(x)
        assert distance(ours.forward_features(x), features) < 1e-5
        assert distance(ours.forward_head(features, True), theirs.forward_head(features, True)) < 1e-5


def test_the_same_numbers_as_our_own_network():
    size = SMALL["convnext_atto.ours"]
    theirs, x = make("convnext_atto.ours", size, num_classes=7), images()
    ours = stages.ConvNeXt(**size, num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))
        assert distance(theirs.deploy("fp32")(x), ours(x)) < 1e-5
    small = SMALL["convnext_isotropic_small.ours"]
    theirs = make("convnext_isotropic_small.ours", small)
    ours = isotropic.IsotropicConvNeXt(**small).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))


@pytest.mark.parametrize("tag", ["ours_in1k_384", "ours"])
def test_settings_give_our_preprocessing(tag):
    name = f"convnext_base.{tag}"
    cfg = timm.get_pretrained_cfg(name).to_dict()
    theirs = create_transform(**resolve_data_config(pretrained_cfg=cfg))
    ours = eval_transform(Preprocess.for_size(cfg["input_size"][1]))
    noise = torch.randint(0, 256, (211, 300, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy())
    assert (theirs(image) - ours(image)).abs().max() < 1e-5
    assert settings("convnext_base")[name]["num_classes"] == 1000


# -- what training scripts do


def test_layer_decay_is_the_papers():
    model = make("convnext_tiny.ours", {"dims": (8, 8, 8, 8)})
    ids, last = model.layer_decay_ids()
    scales = {
        id(p): group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5) for p in group["params"]
    }
    assert {n: scales[id(p)] for n, p in model.named_parameters()} == {n: 0.5 ** (last - i) for n, i in ids.items()}
    assert model.no_weight_decay() == set()
    assert [n for n, p in model.named_parameters() if p.ndim == 1] == [
        n for n, p in model.named_parameters() if id(p) in {id(q) for q in undecayed(model)}
    ]


def undecayed(model):
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    return [p for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]]


def test_a_training_step_and_its_checkpoint(tmp_path):
    """timm's optimizer, averaging and checkpoints around our network, and our reader on the file."""
    from timm.utils import CheckpointSaver, ModelEmaV3

    sizes = SMALL["convnext_atto.ours"]
    model = make("convnext_atto.ours", sizes, num_classes=4, drop_rate=0.1, drop_path_rate=0.2).train()
    model.set_grad_checkpointing()
    optimizer, average = create_optimizer_v2(model, opt="adamw", lr=1e-2, layer_decay=0.8), ModelEmaV3(model, decay=0.5)
    x, target = images(32, 8), torch.arange(8) % 4
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        average.update(model)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=tmp_path, recovery_dir=tmp_path)
    saver.save_checkpoint(0, metric=1.0)
    file = tmp_path / "last.pth.tar"
    again = make("convnext_atto.ours", sizes, num_classes=4, checkpoint_path=str(file))
    ours = stages.ConvNeXt(**sizes, num_classes=4).eval()
    convnext.load_weights(ours, file, which="ema")
    average.module.eval()
    with torch.no_grad():  # timm takes the average where there is one
        assert torch.equal(again(x), average.module(x))
        assert torch.equal(ours(x), average.module(x))


def test_a_folder_of_timms_is_opened_again(tmp_path):
    sizes = SMALL["convnext_atto.ours"]
    model, x = make("convnext_atto.ours", sizes, num_classes=4), images()
    timm.models.save_for_hf(model, tmp_path, model_args=sizes)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(again) is TimmConvNeXt
    assert torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"output_stride": 16}, "stem_stride"), ({"global_pool": "catavgmax"}, "There is no global_pool")],
)
def test_refused(options, reason):
    with pytest.raises(ConvNextError, match=reason):
        make("convnext_atto.ours", SMALL["convnext_atto.ours"], **options)


def test_maps_that_there_are_not():
    model = make("convnext_atto.ours", SMALL["convnext_atto.ours"])
    for indices in (5, (4,), (-5,), ()):
        with pytest.raises(ConvNextError, match="There are 4 maps"):
            model.forward_intermediates(images(), indices)
    with pytest.raises(ConvNextError, match="NCHW"):
        model.forward_intermediates(images(), output_fmt="NHWC")


def test_finer_stems():
    model = make("convnext_atto.ours", SMALL["convnext_atto.ours"], features_only=True, stem_stride=2)
    assert model.feature_info.reduction() == [2, 4, 8, 16]
    assert [32 // y.shape[2] for y in model(images(32))] == [2, 4, 8, 16]


def test_reading_only_as_far_as_needed():
    model = make("convnext_isotropic_small.ours", SMALL["convnext_isotropic_small.ours"])
    last, maps = model.forward_intermediates(images(), indices=(0,), stop_early=True)
    assert len(maps) == 1
    assert torch.equal(last, maps[0])
    assert math.prod(last.shape[2:]) == 16

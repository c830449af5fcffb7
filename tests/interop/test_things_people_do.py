"""What people do to a module, on every kind of model and every way of computing it: equal to its parts, or refused.

A row changes a model or uses it in some way; a cell is a row, a model and a form of computing. Each cell is compared
with the same row on the model's parts, called one by one by `Literal`, which knows nothing of faster forms. An error other
than ConvNextError is a wrong cell, as another number is. The last test prints the counts.
"""

import copy
import io
import pickle
import sys
from collections import Counter
from contextlib import suppress
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors
from torchvision.models.feature_extraction import create_feature_extractor

from convnext import models
from convnext.errors import ConvNextError
from convnext.models.convnext import ConvNeXt
from convnext.models.fold import fold
from convnext.models.isotropic import IsotropicConvNeXt
from convnext.models.recompute import recompute_blocks
from convnext.ops import depthwise, onednn
from convnext.ops.backend import backend
from interpreter import interpreted, run_cases

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)

SIDE = 32
TOLERANCE = 2e-5  # relative, of a whole output: fp32 in two orders of summation, through four blocks


# -- the models, and what they compute


def make(kind: str) -> nn.Module:
    """A small network with branches that are not negligible."""
    torch.manual_seed(0)
    scale = {"layer_scale_init_value": 1.0}
    if kind == "isotropic":
        model = IsotropicConvNeXt(2, 24, num_classes=5, **scale)
    elif kind == "roadmap":
        model = models.build("roadmap_resnet50_layer-norm", num_classes=5, width_mult=0.25, depth_mult=0.3, **scale)
    elif kind == "atto":
        model = models.build("convnext_atto", num_classes=5, **scale)
    else:
        model = ConvNeXt((1, 1, 1, 1), (16, 24, 32, 40), num_classes=5 if kind == "classifier" else None, **scale)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3) + p.data * (
            p.ndim == 1
        )
    return model.eval()


def images() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


class Literal(nn.Module):
    """A network as Figure 4 and Table 9 of the paper draw it: every part is called, by PyTorch, one after the other."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x):
        """Blocks are called, for what is hooked to them or overridden in them, but compute as `parts` does."""
        blocks = [m for m in self.model.modules() if hasattr(m, "dwconv") and "forward" not in vars(m)]
        for block in blocks:
            block.forward = partial(self.parts, block)
        try:
            return self.network(self.model, x)
        finally:
            for block in blocks:
                del block.forward

    @staticmethod
    def network(model, x):
        if hasattr(model, "spec"):
            x = model.stem(x)
            for stage in model.stages:
                x = stage(x)
            return model.head(model.norm(x.mean((2, 3), keepdim=True)).flatten(1))
        if hasattr(model, "blocks"):
            return model.head(model.norm(model.blocks(model.stem(x).permute(0, 2, 3, 1)).mean((1, 2))))
        maps = {}
        for i, stage in enumerate(model.stages):
            one, other = model.downsample_layers[i]
            x = other(one(x).permute(0, 2, 3, 1)) if i == 0 else other(one(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            x = stage(x)
            if model.num_classes is None:
                maps[f"stage{i}"] = getattr(model, f"norm{i}")(x).permute(0, 3, 1, 2)
        return maps or model.head(model.norm(x.mean((1, 2))))

    @staticmethod
    def parts(block, x):
        y = block.pwconv1(block.norm(block.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        y = F.gelu(y) if getattr(block, "between", None) is None else block.between(F.gelu(y))
        y = block.pwconv2(y)
        return x + (y if block.gamma is None else y * block.gamma)


PATHS = {  # of a block, its depthwise convolution, its norm and its first linear layer or 1x1 convolution
    "classifier": ("stages.1.0", "dwconv", "norm", "pwconv1"),
    "isotropic": ("blocks.1", "dwconv", "norm", "pwconv1"),
    "roadmap": ("stages.0.0", "branch.0", "branch.1", "branch.2"),
}
KINDS = ["classifier", "backbone", "isotropic", "roadmap"]


class Parts:
    """The block that is changed, and a way to put something else in a part's place."""

    def __init__(self, model: nn.Module, kind: str):
        self.model = model
        block, *names = PATHS.get(kind, PATHS["classifier"])
        self.paths = dict(zip(("conv", "norm", "linear"), (f"{block}.{name}" for name in names), strict=True))
        self.block = model.get_submodule(block)

    def __getattr__(self, name):
        return self.model.get_submodule(self.paths[name])

    def put(self, name, module):
        parent, _, last = self.paths[name].rpartition(".")
        setattr(self.model.get_submodule(parent), last, module)


# -- rows that change a model


class Wrapped(nn.Module):
    """A layer and an adapter beside it, as LoRA has them."""

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base_layer, self.scale = base, nn.Parameter(torch.tensor(0.5))

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, x):
        y = self.base_layer(x)
        return y + self.scale * torch.tanh(y)


class GRN(nn.Module):
    """Global response normalisation of ConvNeXt V2 (Woo et al., CVPR 2023), on (B, H, W, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(0.5 * torch.ones(channels)), nn.Parameter(0.1 * torch.ones(channels))

    def forward(self, x):
        norms = x.norm(dim=(1, 2), keepdim=True)
        return x + self.gamma * (x * norms / (norms.mean(-1, keepdim=True) + 1e-6)) + self.beta


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return 2 * weight


def nothing(p):
    pass


def adapter_on_a_linear_layer(p):
    p.put("linear", Wrapped(p.linear))


def adapter_on_the_convolution(p):
    p.put("conv", Wrapped(p.conv))


def weight_norm(p):
    parametrizations.weight_norm(p.linear)
    p.linear.parametrizations.weight.original0.data *= 1.5


def old_weight_norm(p):
    nn.utils.weight_norm(p.linear).weight_g.data *= 1.5


def parametrized_convolution(p):
    parametrize.register_parametrization(p.conv, "weight", Doubled())


def parametrized_norm(p):
    parametrize.register_parametrization(p.norm, "weight", Doubled())


def pruned(p):
    prune.l1_unstructured(p.linear, "weight", 0.5)


def pruned_for_good(p):
    prune.l1_unstructured(p.linear, "weight", 0.5)
    prune.remove(p.linear, "weight")


def narrowed(p):
    """Structured pruning: a hidden layer of three quarters."""
    if hasattr(p.block, "pwconv1"):
        keep = p.block.pwconv1.out_features * 3 // 4
        p.block.pwconv1.weight = nn.Parameter(p.block.pwconv1.weight[:keep].detach().clone())
        p.block.pwconv1.bias = nn.Parameter(p.block.pwconv1.bias[:keep].detach().clone())
        p.block.pwconv2.weight = nn.Parameter(p.block.pwconv2.weight[:, :keep].detach().clone())


def forward_hook(name):
    def change(p):
        getattr(p, name).register_forward_hook(lambda module, given, y: y + 0.5 * torch.tanh(y))

    return change


def forward_pre_hook(p):
    p.norm.register_forward_pre_hook(lambda module, given: (given[0] + torch.tanh(given[0]),))


def hook_on_the_block(p):
    p.block.register_forward_hook(lambda module, given, y: y + torch.tanh(y))


def hook_on_the_head(p):
    if hasattr(p.model, "head"):
        p.model.head.register_forward_pre_hook(lambda module, given: (given[0] + 1,))


def hook_on_a_stage(p):
    p.model.get_submodule(p.paths["conv"].split(".")[0])[0].register_forward_hook(
        lambda module, given, y: y + torch.tanh(y)
    )


def dilated(p):
    p.conv.dilation, p.conv.padding = (2, 2), (6, 6)


def padded_otherwise(p):
    p.conv.padding_mode, p.conv._reversed_padding_repeated_twice = "replicate", [3] * 4


def convolution_replaced(p):
    p.put("conv", nn.Identity())


def norm_replaced(p):
    p.put("norm", nn.Identity())


def norm_with_another_eps(p):
    p.norm.eps = 0.1


def norm_without_bias(p):
    p.norm.bias = None


def linear_without_bias(p):
    p.linear.bias = None


def subclassed(p):
    p.linear.__class__ = type(
        "Mine", (type(p.linear),), {"forward": lambda self, x: 1.5 * super(type(self), self).forward(x)}
    )


def forward_overridden(p):
    norm = p.norm
    norm.forward = lambda x: 1.5 * type(norm).forward(norm, x)


def head_replaced(p):
    if hasattr(p.model, "head"):
        p.model.head = nn.Identity()


def response_normalisation(p):
    if hasattr(p.block, "between"):
        p.block.between = GRN(p.block.pwconv1.out_features)


def no_layer_scale(p):
    p.block.gamma = None


def quantized(p):
    torch.ao.quantization.quantize_dynamic(p.model, {nn.Linear}, inplace=True)


def blocks_run_again(p):
    if not hasattr(p.model, "spec"):
        recompute_blocks(p.model)


CHANGES = {
    f.__name__: f
    for f in (
        nothing, adapter_on_a_linear_layer, adapter_on_the_convolution, weight_norm, old_weight_norm,
        parametrized_convolution, parametrized_norm, pruned, pruned_for_good, narrowed, forward_pre_hook, hook_on_the_block,
        hook_on_the_head, hook_on_a_stage, dilated, padded_otherwise, convolution_replaced, norm_replaced, norm_with_another_eps,
        norm_without_bias, linear_without_bias, subclassed, forward_overridden, head_replaced, response_normalisation,
        no_layer_scale, quantized, blocks_run_again,
    )
} | {f"forward_hook_on_the_{name}": forward_hook(name) for name in ("conv", "norm", "linear")}  # fmt: skip


# -- rows that use a model: (model, images) -> tensors


def deep_copied(model, x):
    return copy.deepcopy(model)(x)


def pickled(model, x):
    return pickle.loads(pickle.dumps(model))(x)


def saved_whole(model, x):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)(x)


def state_loaded(model, x):
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).zero_()
    other.load_state_dict(model.state_dict(), assign=True)
    return other(x)


def from_the_meta_device(model, x):
    other = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return other(x)


def in_double(model, x):
    return copy.deepcopy(model).double()(x.double())


def in_autocast(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


def vectorised(model, x):
    return torch.vmap(model)(x[:, None])


def ensemble(model, x):
    parameters, buffers = stack_module_state([model, copy.deepcopy(model)])
    return torch.vmap(lambda p, b: functional_call(model, (p, b), (x,)))(parameters, buffers)


def called_functionally(model, x):
    return functional_call(model, {name: 1.1 * p.detach() for name, p in model.named_parameters()}, (x,))


def directional(model, x):
    return torch.func.jvp(model, (x,), (torch.ones_like(x),))[1]


def dual_numbers(model, x):
    with forward_ad.dual_level():
        y = model(forward_ad.make_dual(x, torch.ones_like(x)))
        return forward_ad.unpack_dual(y).tangent if isinstance(y, torch.Tensor) else {
            name: forward_ad.unpack_dual(t).tangent for name, t in y.items()
        }  # fmt: skip


def gradient_of_the_image(model, x):
    if isinstance(model(x), dict):
        return x
    return torch.func.grad(lambda x: model(x).square().sum())(x)


def per_sample_gradients(model, x):
    """Of the parameters, as differentially private training takes them."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, image):
        y = functional_call(model, parameters, (image[None],))
        return sum(t.square().sum() for t in (y.values() if isinstance(y, dict) else [y]))

    return torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)


def jit_traced(model, x):
    return torch.jit.trace(model, x, check_trace=False, strict=False)(x)


def fx_traced(model, x):
    return torch.fx.symbolic_trace(model)(x)


def flops(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return torch.tensor(float(counter.get_total_flops()))


def fake_tensors_first(model, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, suppress(ConvNextError):
        model(mode.from_tensor(x))
    return model(x)


def meta_context_first(model, x):
    with torch.device("meta"):
        model(x)
    return model(x)


def empty_batch(model, x):
    return model(x[:0])


def image_class(model, x):
    y = model(tv_tensors.Image(x))
    return (
        {k: t.as_subclass(torch.Tensor) for k, t in y.items()} if isinstance(y, dict) else y.as_subclass(torch.Tensor)
    )


def inference_then_training(model, x):
    with torch.inference_mode():
        model(x)
    y = model(x)
    return {k: t.detach() for k, t in y.items()} if isinstance(y, dict) else y.detach()


def hook_on_all_modules(model, x):
    def hook(module, given, y):
        return y + 0.5 * torch.tanh(y) if type(module) is nn.LayerNorm else None

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        return model(x)
    finally:
        handle.remove()


def function_mode(model, x):
    class Doubling(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            y = function(*args, **(kwargs or {}))
            return 1.5 * y if function is F.gelu else y

    with Doubling():
        return model(x)


def channels_last(model, x):
    return copy.deepcopy(model).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))


def averaged(model, x):
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    return average(x)


def moved_about(model, x):
    return model.to("cpu").float().cpu()(x)


def halved(model, x):
    """A deployed model refuses it."""
    return copy.deepcopy(model).bfloat16()(x.bfloat16())


USES = {
    f.__name__: f
    for f in (
        deep_copied, pickled, saved_whole, state_loaded, from_the_meta_device, in_double, in_autocast, vectorised, ensemble,
        called_functionally, directional, dual_numbers, gradient_of_the_image, per_sample_gradients, jit_traced, fx_traced, flops,
        fake_tensors_first, meta_context_first, empty_batch, image_class, inference_then_training, hook_on_all_modules,
        function_mode, channels_last, averaged, moved_about, halved,
    )
}  # fmt: skip
LOOSE = {"in_autocast": 0.05, "halved": 0.05}  # bf16, rounded at other places
NO_LITERAL = {
    "jit_traced",
    "fx_traced",
    "pickled",
    "saved_whole",
    "deep_copied",
}  # `call` of the plain network is the truth
NOT_THESE = {  # forms in which the row has no meaning: they have other parameters and other modules than the model
    "called_functionally": ("export", "deploy"),
    "per_sample_gradients": ("export", "deploy"),
    "hook_on_all_modules": ("export", "deploy"),
    "ensemble": ("deploy",),
    "function_mode": ("deploy",),
}


# -- the cells


def with_parts(run, model, x):
    with backend("reference"), torch.no_grad():
        return run(Literal(model), x)


def forms(model: nn.Module) -> dict:
    """Name -> (context of the call, the model that is called)."""
    found = {
        "plain": lambda: (backend("reference"), model),
        "with gradients": lambda: (torch.enable_grad(), model),
        "oneDNN": lambda: (torch.no_grad(), model),
        "export": lambda: (backend("reference"), fold(model)),
    }
    if hasattr(model, "deploy"):
        found["deploy"] = lambda: (torch.no_grad(), model.deploy("fp32"))
    return found


def tensors(y) -> list[torch.Tensor]:
    found = list(y.values()) if isinstance(y, dict) else [y]
    return [t.detach().double() for t in found]


def distance(found, expected) -> float:
    """Relative; infinite for other shapes."""
    pairs = list(zip(tensors(found), tensors(expected), strict=True))
    if any(a.shape != b.shape or not a.isfinite().all() for a, b in pairs):
        return float("inf")
    return max(((a - b).norm() / b.norm().clamp_min(1e-12)).item() for a, b in pairs)


COUNTS: Counter = Counter()


def judge(row: str, kind: str, form: str, compute, expected, tolerance: float) -> str:
    """equal, refused or wrong, with the reason; counted."""
    try:
        off = distance(compute(), expected)
        verdict, reason = ("equal", "") if off <= tolerance else ("wrong", f"off by {off:.3g}")
    except ConvNextError as error:
        verdict, reason = ("refused", "") if str(error).endswith(".") else ("wrong", f"no sentence: {error}")
    except Exception as error:
        verdict, reason = "wrong", f"{type(error).__name__}: {str(error)[:200]}"
    COUNTS[verdict] += 1
    return f"{row}, {kind}, {form}: {reason}" if verdict == "wrong" else ""


def cold() -> None:
    """As a new process: nothing has been tried or kept."""
    onednn._usable.clear()
    depthwise.tap_indices.cache_clear()


def changed(row: str, kind: str) -> nn.Module:
    model = make(kind)
    CHANGES[row](Parts(model, kind))
    return model


BY_DEFAULT = {  # one of each sort on a classifier; the whole table is slow
    "nothing", "adapter_on_a_linear_layer", "weight_norm", "parametrized_norm", "pruned", "forward_hook_on_the_conv",
    "hook_on_the_block", "dilated", "convolution_replaced", "subclassed", "response_normalisation", "quantized",
    "blocks_run_again", "deep_copied", "vectorised", "called_functionally", "dual_numbers", "gradient_of_the_image",
    "fx_traced", "flops", "fake_tensors_first", "empty_batch", "image_class", "hook_on_all_modules", "averaged",
}  # fmt: skip
BY_DEFAULT_ELSEWHERE = {"nothing", "forward_hook_on_the_norm", "dual_numbers"}


def cells(rows) -> list:
    """(row, kind) of every cell, those slow that are not run by default."""

    def slow(row: str, kind: str) -> bool:
        return row not in (BY_DEFAULT if kind == "classifier" else BY_DEFAULT_ELSEWHERE)

    marked = ((row, kind, pytest.mark.slow if slow(row, kind) else ()) for row in rows for kind in KINDS)
    return [pytest.param(row, kind, marks=marks) for row, kind, marks in marked]


@pytest.mark.parametrize(("row", "kind"), cells(CHANGES))
def test_a_changed_model(row, kind):
    model, x = changed(row, kind), images()
    expected = with_parts(lambda m, x: m(x), model, x)
    if row not in ("nothing", "blocks_run_again", "pruned_for_good") and not (row == "narrowed" and kind == "roadmap"):
        unchanged = with_parts(lambda m, x: m(x), make(kind), x)
        exempt = (row == "quantized" and kind == "roadmap") or (kind == "backbone" and "head" in row)
        exempt |= kind == "roadmap" and row in ("response_normalisation",)
        assert exempt or distance(expected, unchanged) > 100 * TOLERANCE, "the row does nothing"
    assert [wrong for form in forms(model) if (wrong := cell_of_change(row, kind, form, model, x, expected))] == []


def cell_of_change(row, kind, form, model, x, expected) -> str:
    def compute():
        context, form_of_it = forms(model)[form]()
        with context:
            return form_of_it(x)

    tolerance = 0.05 if row == "quantized" else TOLERANCE  # its scales are of the values at hand
    return judge(row, kind, form, compute, expected, tolerance)


@pytest.mark.parametrize(("row", "kind"), cells(USES))
def test_a_use(row, kind):
    model, x, wrong = make(kind), images(), []
    with backend("reference"), torch.no_grad():
        expected = model(x) if row in NO_LITERAL else USES[row](model, x)
    for form in forms(model):
        if form in NOT_THESE.get(row, ()):
            continue

        def compute(form=form):
            cold()
            context, form_of_it = forms(model)[form]()
            with context:
                return USES[row](form_of_it, x)

        wrong.append(judge(row, kind, form, compute, expected, LOOSE.get(row, TOLERANCE)))
    assert [w for w in wrong if w] == []


@pytest.mark.parametrize(
    "kind", ["classifier", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("isotropic", "roadmap"))]
)
def test_a_feature_extractor(kind):
    model, x = make(kind), images()
    block = PATHS[kind][0]
    extractor = create_feature_extractor(model, {block: "block"})
    seen = []
    model.get_submodule(block).register_forward_hook(lambda module, given, y: seen.append(y))
    with torch.no_grad():
        model(x)
        assert distance(extractor(x)["block"], seen[0]) <= TOLERANCE


def test_counts(capsys):
    """Run with the rest of the file."""
    with capsys.disabled():
        cells = sum(COUNTS.values())
        print(f"\n{cells} cells: {COUNTS['equal']} equal, {COUNTS['refused']} refused, {COUNTS['wrong']} wrong")
    assert COUNTS["wrong"] == 0
    assert not cells or COUNTS["refused"] < cells / 5


# -- in Triton's interpreter, in a process of its own


def triton_cell(name: str) -> str:
    """`row` of the isotropic network, whose maps of 2 x 2 pixels the interpreter manages."""
    if name in CHANGES:
        model, x = changed(name, "isotropic"), images()
        expected, use = with_parts(lambda m, x: m(x), model, x), lambda m, x: m(x)
    else:
        model, x, use = make("isotropic"), images(), USES[name]
        with backend("reference"), torch.no_grad():
            expected = model(x) if name in NO_LITERAL else use(model, x)

    def compute():
        with backend("triton"), torch.no_grad():
            return use(model, x)

    return judge(
        name, "isotropic", "triton", compute, expected, LOOSE.get(name, 0.05 if name == "quantized" else TOLERANCE)
    )


FEW = ["forward_hook_on_the_conv", "response_normalisation"]


@pytest.mark.slow
def test_some_rows_in_the_interpreter():
    assert {k: v for k, v in interpreted(__file__, FEW).items() if v} == {}


@pytest.mark.slow
def test_all_rows_in_the_interpreter():
    rows = [*CHANGES, *(row for row in USES if row != "in_double")]  # fp64 is refused by the kernels' own sentence
    assert {k: v for k, v in interpreted(__file__, rows).items() if v} == {}


if __name__ == "__main__":
    run_cases(sys.argv[1:], triton_cell)

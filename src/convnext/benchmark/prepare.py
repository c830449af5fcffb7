"""One configuration made ready to run: `step()` does one forward pass, or one training step, on images never seen in a row."""

from collections.abc import Callable
from contextlib import contextmanager
from itertools import count, cycle
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext.benchmark import networks, runtimes
from convnext.benchmark.configs import Config
from convnext.ops.backend import backend
from convnext.runtime import graphs
from convnext.runtime.precision import autocast

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ROTATED_BYTES = 256 * 2**20  # of input, several times the largest caches
MAX_ROTATED = 64
LR, WEIGHT_DECAY = 1e-4, 0.05

_numbers = count()


def weights_dtype(config: Config) -> torch.dtype:
    return torch.float32 if config.autocast or config.runtime != "torch" else DTYPES[config.precision]


@contextmanager
def arithmetic(config: Config, device: torch.device):
    """The process-wide switches of a configuration: tf32 or not, the choice of our kernels, the fastest of cuDNN's."""
    matmul, conv, search = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )
    tf32 = config.precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = device.type == "cuda"
    try:
        with backend(config.backend):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv
        torch.backends.cudnn.benchmark = search


def prepare(config: Config, device: torch.device, rotated: bool = True) -> Callable[[], object]:
    """Build the model with random weights, and the images: random, and enough of them that a cache does not hold them
    (only one batch if not `rotated`).

    Training is the forward pass, cross-entropy, the backward pass and a step of fused AdamW. On a GPU the returned function
    does not wait for the device.
    """
    torch.manual_seed(0)
    model: Any
    with device:
        model = networks.build(config.model, config.image_size)
    model = model.to(device).train(config.mode == "train")
    if config.runtime != "torch":
        return _inference(runtimes.convert(model, config), images(config, device, rotations(config)), "fp32", device)
    if config.form == "deploy":
        model = model.deploy(precision="bf16" if config.precision == "bf16" else "fp32")
    else:
        model = model.to(weights_dtype(config))
    if config.layout == "nhwc" and not config.ours:  # ours has its own
        model = model.to(memory_format=torch.channels_last)
    batches = images(config, device, rotations(config) if rotated else 1)
    network = compiled(model, config)
    precision = config.precision if config.autocast else "fp32"
    if config.mode == "train":
        if spec := networks.dense_spec(config.model):
            targets, losses = spec.example_targets(batches[0]), cast(Any, network)
            return _training(
                model, lambda x: sum(losses(x, targets).values()), batches, precision, device, config.graph
            )
        loss_of = _with_loss(model, network, batches[0])
        return _training(model, loss_of, batches, precision, device, config.graph)
    return _inference(network, batches, precision, device, config.graph)


def batch_bytes(config: Config) -> int:
    height, width = networks.image_shape(config.model, config.image_size)
    return weights_dtype(config).itemsize * config.batch * 3 * height * width


def rotations(config: Config) -> int:
    """How many batches of images are taken in turn: between 2 and 64."""
    return min(max(ROTATED_BYTES // batch_bytes(config), 1) + 1, MAX_ROTATED)


def images(config: Config, device: torch.device, number: int) -> list[Tensor]:
    """That many batches of standard normal images (B, 3, H, W)."""
    dtype, shape = weights_dtype(config), (config.batch, 3, *networks.image_shape(config.model, config.image_size))
    layout = torch.channels_last if config.layout == "nhwc" else torch.contiguous_format
    return [torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout) for _ in range(number)]


def compiled(model: nn.Module, config: Config) -> Callable[[Tensor], Tensor]:
    """The model as torch.compile makes it, with fixed shapes, or as it is.

    torch.compile keeps its results with the code of a function, so that models of one class would share them: their number
    is limited, and a second shape would turn the first into a variable. So every configuration gets a function of its own.
    """
    if config.compile == "none":
        return model

    def call(x):
        return model(x)

    call.__code__ = call.__code__.replace(co_name=f"model_{next(_numbers)}")
    how = {
        "default": {},
        "reduce-overhead": {"mode": "reduce-overhead"},
        "max-autotune": {"mode": "max-autotune"},
        "freezing": {"options": {"freezing": True}},
    }[config.compile]
    return torch.compile(call, dynamic=False, **how)


def _inference(network, batches: list[Tensor], precision: str, device: torch.device, graph: bool = False):
    def forward(images: Tensor):
        # autocast within: the casts that it keeps are gone when it ends, and a graph must not read them
        with torch.inference_mode(), autocast(precision, device):
            return network(images)

    if graph:
        return _captured(forward, batches)
    endless = cycle(batches)
    return _begun(lambda: forward(next(endless)), device)


def _with_loss(model: nn.Module, network, images: Tensor) -> Callable[[Tensor], Tensor]:
    labels = torch.randint(getattr(model, "num_classes", 1000), (len(images),), device=images.device)
    return lambda x: F.cross_entropy(network(x), labels)


def _training(model: nn.Module, loss_of, batches: list[Tensor], precision: str, device: torch.device, graph: bool):
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True, capturable=graph)

    def train(images: Tensor) -> Tensor:
        with autocast(precision, device):
            loss = loss_of(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    if graph:
        return _captured(train, batches)
    endless = cycle(batches)
    return _begun(lambda: train(next(endless)), device)


def _captured(work: Callable[[Tensor], object], batches: list[Tensor]):
    """One CUDA graph of the work on a batch; each step copies the next images to where the graph reads them."""
    endless = cycle(batches)
    static = torch.empty_like(batches[0]).copy_(batches[0])
    for _ in range(3):
        graphs.aside(lambda: work(static))
    replay, answer = graphs.recorded(lambda: work(static))

    def step():
        static.copy_(next(endless))
        replay()
        return answer

    return step


def _begun(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """On a GPU, tell the graphs that max-autotune and reduce-overhead keep where a step begins."""
    if device.type != "cuda":
        return step

    def marked():
        torch.compiler.cudagraph_mark_step_begin()
        return step()

    return marked

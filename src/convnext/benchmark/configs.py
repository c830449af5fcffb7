"""Configurations of a benchmark: one as a plain value, and the product of the choices of a command."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from convnext.errors import ConvNextError
from convnext.robustness.peers import is_peer

MODES = ("inference", "train")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
COMPILES = ("none", "default", "reduce-overhead", "max-autotune", "freezing")
LAYOUTS = ("nchw", "nhwc")
BACKENDS = ("auto", "reference")
RUNTIMES = ("torch", "onnxruntime", "openvino", "openvino-int8", "convnext-int8")


@dataclass(frozen=True)
class Config:
    """One way to run one model.

    `precision` is the type of the weights and the images, unless `autocast`: then these are fp32 and the model runs under
    autocast. tf32 is fp32 whose products take the tensor cores. `form` is "plain", or "deploy": what `model.deploy()`
    makes of ours. `backend` is the choice of ours among its own kernels. `graph`: one captured CUDA graph. `runtime`: what
    runs it; another than torch takes images in fp32, computes in `precision` (int8 in its own) and is for inference on a CPU.
    """

    model: str
    mode: str = "inference"
    batch: int = 1
    image_size: int = 224
    precision: str = "fp32"
    autocast: bool = False
    layout: str = "nchw"
    compile: str = "none"
    graph: bool = False
    form: str = "plain"
    backend: str = "auto"
    runtime: str = "torch"

    @property
    def ours(self) -> bool:
        return library_of(self.model) == "ours"

    @property
    def quantised(self) -> bool:
        return self.runtime.endswith("-int8")

    @property
    def group(self) -> tuple:
        """Key of the configurations that are measured in turn and compared: the same work in the same arithmetic."""
        return self.mode, self.batch, self.image_size, self.precision, self.autocast

    @property
    def group_label(self) -> str:
        weights = "fp32 weights, autocast" if self.autocast else "weights"
        what = {"inference": "inference", "train": "training step"}[self.mode]
        return f"{what}, batch {self.batch}, {self.image_size} px, {self.precision} {weights}"

    @property
    def label(self) -> str:
        """How the model is run, in a few words; the group says the rest."""
        if self.runtime != "torch":
            return self.runtime
        words = [
            "deploy" if self.form == "deploy" else "eager" if self.compile == "none" else f"compile {self.compile}"
        ]
        words = [word.replace("compile default", "compile") for word in words] + [self.layout.upper()]
        return ", ".join(words + ["graph"] * self.graph + [f"{self.backend} ops"] * (self.backend != "auto"))

    def to_dict(self) -> dict:
        return asdict(self)


def library_of(model: str) -> str:
    """timm, torchvision or transformers where the name begins with it and a colon, else ours."""
    return model.partition(":")[0] if is_peer(model) else "ours"


@dataclass(frozen=True)
class Choices:
    """Choices of a command; None stands for those that suit the device (`resolved`): more for peers, of which the best counts."""

    modes: Sequence[str] = ("inference",)
    batches: Sequence[int] | None = None
    image_sizes: Sequence[int] = (224,)
    precisions: Sequence[str] | None = None
    compiles: Sequence[str] | None = None
    layouts: Sequence[str] | None = None
    backends: Sequence[str] = ("auto",)
    runtimes: Sequence[str] = ("torch",)
    graphs: str = "auto"
    """on, off, both; auto: both for inference with one image on a GPU, else off."""
    weights: str = "auto"
    """cast: of `precision`; autocast: fp32 weights under autocast; auto: autocast in training, cast in inference."""
    ours: dict[str, Sequence[str]] = field(default_factory=dict)
    """Our models' compiles and layouts where they differ from the peers'."""

    def resolved(self, device: str) -> "Choices":
        """With the defaults of a `cpu` or `cuda` device.

        Raises:
            ConvNextError: a choice that there is not, or not on this device.
        """
        known = {
            "modes": MODES,
            "precisions": PRECISIONS,
            "compiles": COMPILES,
            "layouts": LAYOUTS,
            "backends": BACKENDS,
            "runtimes": RUNTIMES,
        }
        for name, words in known.items():
            for word in getattr(self, name) or ():
                if word not in words:
                    raise ConvNextError(f"{word!r} is none of the {name}: {', '.join(words)}.")
        for name in ("batches", "image_sizes"):
            for number in getattr(self, name) or ():
                if number < 1:
                    raise ConvNextError(f"{number} is among the {name}; they are 1 or more.")
        gpu = device == "cuda"
        if not gpu and "tf32" in (self.precisions or ()):
            raise ConvNextError("tf32 is an arithmetic of GPUs; on a CPU take fp32 or bf16.")
        if not gpu and self.graphs in ("on", "both"):
            raise ConvNextError("CUDA graphs need a GPU; leave --graphs out, or give --device cuda.")
        if (gpu or tuple(self.modes) == ("train",)) and set(self.runtimes) != {"torch"}:
            raise ConvNextError("Other runtimes than torch are measured in inference on a CPU; leave --runtime out.")
        ours = {"compiles": ("none",), "layouts": ("nhwc",)}
        return replace(
            self,
            batches=self.batches or ((256,) if gpu else (1,)),
            precisions=self.precisions or (("bf16",) if gpu else ("fp32",)),
            compiles=self.compiles or (("none", "default", "max-autotune") if gpu else ("none",)),
            layouts=self.layouts or LAYOUTS,
            ours={name: self.ours.get(name) or getattr(self, name) or default for name, default in ours.items()},
        )


def expand(
    models: Iterable[str],
    choices: Choices,
    device: str,
    deployable: Callable[[str], bool] = lambda name: False,
    dense_sizes: Callable[[str], Sequence[int] | None] = lambda name: None,
) -> list[Config]:
    """Every sensible configuration of these models, ours and peers, group by group and without repetition.

    Args:
        device: "cpu" or "cuda".
        deployable: name -> True if this model of ours has the form `deploy`.
        dense_sizes: name -> heights of the images of a detector or segmenter, None for a classifier. They take one image in
            inference and two in training where no batch is chosen, in the layout that they have, under autocast.
    """
    chosen = choices.resolved(device)
    models = list(dict.fromkeys(models))
    forms = {
        name: ("plain", "deploy") if library_of(name) == "ours" and deployable(name) else ("plain",) for name in models
    }
    found = [
        config
        for mode, precision in product(chosen.modes, chosen.precisions or ())
        for name in models
        if (sizes := dense_sizes(name)) is not None
        for size in sizes
        for batch in choices.batches or (1 if mode == "inference" else 2,)
        for config in _of_model(
            name, ("plain",), mode, size, batch, precision, replace(chosen, weights="autocast", graphs="off"), device
        )
    ]
    models = [name for name in models if dense_sizes(name) is None]
    found += [
        config
        for mode, size, batch, precision in product(
            chosen.modes, chosen.image_sizes, chosen.batches or (), chosen.precisions or ()
        )
        for name in models
        for config in _of_model(name, forms[name], mode, size, batch, precision, chosen, device)
    ]
    return list(dict.fromkeys(found))


def _of_model(name: str, forms, mode: str, size: int, batch: int, precision: str, chosen: Choices, device: str):
    low = precision in ("fp16", "bf16")
    autocast = low and (chosen.weights == "autocast" or (chosen.weights == "auto" and mode == "train"))
    ours = library_of(name) == "ours"
    compiles = chosen.ours["compiles"] if ours else chosen.compiles
    layouts = chosen.ours["layouts"] if ours else chosen.layouts
    graphs = {"on": (True,), "off": (False,), "both": (False, True)}.get(chosen.graphs)
    if graphs is None:
        graphs = (False, True) if device == "cuda" and batch == 1 and mode == "inference" else (False,)
    plain = chosen.layouts[0] if chosen.layouts else "nchw"
    if mode == "inference" and not autocast:
        for runtime in chosen.runtimes:
            # no runtime takes tf32 or fp16 arithmetic on a CPU, ONNX Runtime no bf16, and our own int8 none but our models
            lacking = (runtime, precision) == ("onnxruntime", "bf16") or (runtime == "convnext-int8" and not ours)
            if runtime != "torch" and precision in ("fp32", "bf16") and not lacking:
                yield Config(name, mode, batch, size, precision, layout=plain, runtime=runtime)
    if "torch" not in chosen.runtimes:
        return
    ways: Iterable[Any] = product(forms, compiles or (), layouts or (), chosen.backends, graphs)
    for form, how, layout, backend, graph in ways:
        skipped = (
            (mode == "train" and (form == "deploy" or how == "freezing"))
            or (form == "deploy" and (how != "none" or autocast or precision == "fp16" or backend != "auto"))
            or (not ours and backend != chosen.backends[0])  # it has none
        )
        graph = graph and how not in ("max-autotune", "reduce-overhead")  # which capture by themselves
        if not skipped:
            yield Config(
                name, mode, batch, size, precision, autocast, layout, how, graph, form, backend if ours else "auto"
            )

"""`convnext benchmark MODEL.. --peers timm:convnext_tiny ..`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from convnext.cli.benchmark_tables import print_rows
from convnext.cli.parsing import parse
from convnext.console import stderr, stdout
from convnext.errors import ConvNextError
from convnext.recipes.ranges import BATCH, SIDE, ranged

DESCRIPTION = """Speed and peak memory of models, beside those of other libraries, measured in turn in one run.

    convnext benchmark convnext_tiny --peers timm:convnext_tiny torchvision:convnext_tiny
    convnext benchmark convnext_tiny convnext_small --peers timm:swin_tiny_patch4_window7_224 --batch 1 8
    convnext benchmark convnext_tiny --peers timm:convnext_tiny --mode both --device cuda --out results/h200.json
    convnext benchmark convnext_tiny --peers timm:convnext_tiny --batch 1 8 --precision fp32 bf16 --runtime torch openvino
    convnext benchmark convnext_atto --image-size 64 --compile none default --figure atto.png
    convnext benchmark --table 12                    ConvNeXt and Swin side by side, with the paper's numbers
    convnext benchmark convnext_isotropic_small --table 2
    convnext benchmark mask_rcnn_convnext_tiny mask_rcnn+timm:swin_tiny_patch4_window7_224 --mode both

Detectors and segmenters take the paper's images (800x1280, 512x2048), one in inference and two in training; detectors find
100 objects among 1,000 proposals. Table 3 and Section 4 are beside them in docs/fidelity.md.

MODEL is one of ours (`convnext info models`), a run's folder or a checkpoint; a peer is timm:NAME, torchvision:NAME or
transformers:ID. Only the architecture counts: weights and images are random. Training is the forward pass, the backward pass
and a step of fused AdamW.

What is not given suits the device. On a CPU: one image, fp32, eager, peers in both memory layouts. On a GPU: 256 images, bf16,
peers in both layouts, eager, compiled, and compiled with max-autotune, so that the best of them counts. bf16 and fp16 are the
type of the weights in inference, and autocast over fp32 weights in training.

Each round visits every configuration; speeds are medians over the rounds, and the ratio is to the best configuration of the
peers of the same architecture (of all peers where none is). Building, compiling and warming up are in no number. With --out
a stopped command can simply be repeated: what is finished is kept, until versions or code change. Use an idle machine."""


@dataclass(frozen=True)
class Arguments:
    model: tyro.conf.Positional[tuple[str, ...]] = ()
    """Models to benchmark; with --table those of its models that are wanted."""
    peers: tuple[str, ...] = ()
    """Models of other libraries to compare with."""
    mode: Literal["inference", "train", "both"] = "inference"
    batch: tuple[int, ...] = ranged((), **BATCH)
    """Images per step."""
    image_size: tuple[int, ...] = ranged((224,), nonempty=True, **SIDE)
    compile: tuple[Literal["none", "default", "reduce-overhead", "max-autotune", "freezing"], ...] = ()
    """torch.compile, for ours and for the peers; freezing folds the weights in (for inference on a CPU)."""
    layout: tuple[Literal["nchw", "nhwc"], ...] = ()
    """Of the images, and of the peers' weights."""
    precision: tuple[Literal["fp32", "tf32", "fp16", "bf16"], ...] = ()
    weights: Literal["auto", "cast", "autocast"] = "auto"
    """For fp16 and bf16: weights of that type, or fp32 weights under autocast."""
    backend: tuple[Literal["auto", "reference"], ...] = ("auto",)
    """Of our operations: the fastest, or plain PyTorch."""
    runtime: tuple[Literal["torch", "onnxruntime", "openvino", "openvino-int8", "convnext-int8"], ...] = ("torch",)
    """Runtimes that run the models; others than torch take the file that `convnext export` writes, on a CPU."""
    graphs: Literal["auto", "on", "off", "both"] = "auto"
    """CUDA graphs in inference; auto: with and without for one image."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    rounds: int = ranged(10, at_least=1)
    seconds: float = ranged(0.5, above=0)
    """Of measuring each configuration in each round."""
    memory: bool = True
    """Measure peak memory; on a CPU it takes a process of its own for each configuration."""
    table: Literal[1, 2, 12] | None = None
    """Measure what this table of the paper compares, and print its numbers beside."""
    out: Path | None = None
    """JSON file to add the rows to."""
    figure: Path | None = None
    """PNG to draw."""
    fresh: bool = False
    """Measure again what --out has already."""


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "benchmark", DESCRIPTION)
    if not arguments.model and arguments.table is None:
        raise ConvNextError(
            "Name one or more models first, such as convnext_tiny, or a table of the paper: --table 12."
        )
    from convnext.benchmark.rows import Results, environment

    device = _device(arguments.device)
    configs = _configs(arguments, device.type)
    results = Results.open(arguments.out, environment(device), " ".join(["convnext", "benchmark", *argv]))
    kept = 0 if arguments.fresh else sum(results.finished(config, arguments.rounds) for config in configs)
    out = stdout()
    out.print(
        f"{results.facts['device']}, torch {results.facts['versions']['torch']}, {len(configs)} configurations", end=""
    )
    out.print(f", {kept} of them kept from {arguments.out}" if kept else "")
    try:
        _measure(arguments, configs, device, results)
    finally:  # also after Ctrl-C: what is there
        rows = [row for config in configs if (row := results.find(config)) is not None]
        print_rows(rows, arguments, out)
    written = [str(arguments.out)] if arguments.out else []
    if arguments.figure:
        from convnext.report.benchmark import draw_benchmark

        written.append(str(draw_benchmark(rows, arguments.figure)))
    if written:
        out.print(f"Written: {', '.join(written)}")
    return 1 if rows and all(row["error"] for row in rows) else 0


def _device(name: str):
    import torch

    from convnext.runtime.device import choose_device

    return choose_device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _configs(arguments: Arguments, device: str):
    """The configurations to measure, after a look at every name."""
    from convnext.benchmark import configs, networks, tables

    choices = configs.Choices(
        modes=("inference", "train") if arguments.mode == "both" else (arguments.mode,),
        batches=arguments.batch or None,
        image_sizes=arguments.image_size,
        precisions=arguments.precision or None,
        compiles=arguments.compile or None,
        layouts=arguments.layout or None,
        backends=arguments.backend,
        runtimes=arguments.runtime,
        graphs=arguments.graphs,
        weights=arguments.weights,
    )
    if arguments.table is not None:
        if arguments.peers or arguments.image_size != (224,):
            raise ConvNextError("--table has its own peers and image sizes; leave --peers and --image-size out.")
        return tables.configs(arguments.table, choices, device, networks.deployable, arguments.model)
    names = [*arguments.model, *arguments.peers]
    for name in names:
        networks.check(name)
    return configs.expand(names, choices, device, networks.deployable, lambda name: _dense_sizes(arguments, name))


def _dense_sizes(arguments: Arguments, name: str):
    """Heights of the images of a detector or segmenter; None for a classifier."""
    from convnext.benchmark import networks

    if networks.dense_spec(name) is None:
        return None
    return networks.default_sizes(name) if arguments.image_size == (224,) else arguments.image_size


def _measure(arguments: Arguments, configs: Sequence, device, results) -> None:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from convnext.benchmark.run import benchmark

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def show(what: str, done: float, total: float) -> None:
            bar.update(task, description=what, completed=done, total=total)

        how = (arguments.rounds, arguments.seconds, arguments.memory)
        benchmark(configs, device, results, *how, show=show, fresh=arguments.fresh)

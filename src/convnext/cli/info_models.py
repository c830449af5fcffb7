"""`convnext info models`, `peers` and `roadmap`: models counted, beside the numbers that the paper prints."""

from fnmatch import fnmatch
from typing import Any

from convnext import tasks
from convnext.console import print_table, stdout, table
from convnext.errors import ConvNextError, nearest
from convnext.task.spec import Printed

STANDARD = "convnext_*"


def beside(counted: float, printed: float | None, digits: int, slack: float = 0.0) -> str:
    """The printed value, marked with * where the counted one differs by more than rounding, or than the share `slack`."""
    if printed is None:
        return ""
    allowed = slack * printed if slack else 0.5 * 10**-digits + 1e-9
    return f"{printed:g}{'' if abs(counted - printed) <= allowed else ' *'}"


def models(argv: list[str]) -> int:
    """A row for each model and size of its inputs."""
    from convnext.benchmark.flops import count_task

    speed = "--speed" in argv
    words = [word for word in argv if word != "--speed"]
    if len(words) > 1:
        raise ConvNextError(f"Not understood: {' '.join(words[1:])}. `convnext info --help` shows the forms.")
    pattern = words[0] if words else STANDARD
    rows, notes = [], []
    for spec in tasks.specs():
        chosen = [name for name in spec.models() if fnmatch(name, pattern)]
        if chosen and spec.counting:
            notes.append(spec.counting)
        for name in chosen:
            for height, width in spec.pixels(name):
                counted = count_task(spec, name, height, width)
                printed = spec.printed(name, height) or Printed()
                row = (
                    name,
                    f"{height}" if height == width else f"{width}x{height}",
                    f"{counted.params:,}",
                    beside(counted.params / 1e6, printed.params_m, 0),
                    f"{counted.macs / 1e9:.3f}",
                    beside(counted.macs / 1e9, printed.gmacs, 1, printed.slack),
                    f"{counted.activations / 1e6:.1f}",
                )
                if speed:
                    row = (*row, f"{images_per_second(spec, name, height, width):.3g}", f"{printed.fps or ''}")
                rows.append(row)
    if not rows:
        raise ConvNextError(f"No model matches {pattern!r}.{nearest(pattern, tasks.list_models())}")
    columns = ("model", "px", "params", "paper M", "GMACs", "paper", "act. M") + (
        ("images/s", "paper's FPS") if speed else ()
    )
    print_table(stdout(), table(columns, rows, spare=("act. M", "paper M", "paper")))
    marked = any("*" in cell for row in rows for cell in row)
    for note in dict.fromkeys(notes):
        stdout().print(note)
    stdout().print(
        "Beside the counted numbers, the paper's"
        + ("; * differs by more than rounding." if marked else ", equal after rounding.")
    )
    if speed:
        stdout().print(
            "Images per second: one at a time, random weights, on this device; the median of five. Detectors refine 1,000 "
            "proposals, and mask and paste 100 objects. The paper's FPS (Table 3) are of an A100."
        )
    return 0


def images_per_second(spec: Any, name: str, height: int, width: int) -> float:
    """Speed of a model with random weights on the device that would be chosen: the median of five calls, after one."""
    import time
    from statistics import median

    import torch

    from convnext.runtime.device import choose_device

    device = choose_device()
    model = spec.primed(spec.build(name)).eval().to(device)
    x = torch.randn(1, 3, height, width, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(6):
            start = time.perf_counter()
            model(x)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return 1 / median(times[1:])


def peers(argv: list[str]) -> int:
    """The paper's rivals, counted on timm's models; those whose name matches a pattern."""
    from convnext.benchmark.paper_peers import MISSING, TIMM, count_timm, printed

    pattern = argv[0] if argv else "*"
    rows = []
    for (model, size), name in TIMM.items():
        if not (fnmatch(model, pattern) or fnmatch(name, pattern)):
            continue
        counted, said = count_timm(name, size), printed(model, size)
        rows.append(
            (
                model,
                f"timm:{name}",
                size,
                f"{counted.params / 1e6:.1f}",
                beside(counted.params / 1e6, said and said.params_m, 0),
                f"{counted.macs / 1e9:.2f}",
                beside(counted.macs / 1e9, said and said.gflops, 1),
                *(f"{top1:g}" if top1 else "" for top1 in (said.top1 if said else ("", ""))),
            )
        )
    if not rows:
        close = nearest(pattern, [model for model, _ in TIMM])
        raise ConvNextError(f"No peer matches {pattern!r}.{close} `convnext info peers` lists them.")
    columns = ("paper's name", "model", "px", "params M", "paper", "GMACs", "paper", "top-1 1K", "22K -> 1K")
    print_table(stdout(), table(columns, rows, left=2, spare=("22K -> 1K", "top-1 1K", "paper's name", "paper")))
    stdout().print(
        "Counted on timm's models of these architectures; beside each, the paper's numbers (Tables 1 and 2). * differs by "
        "more than rounding: the paper takes these from the models' own papers. Any of them works in `benchmark --peers`. "
        f"{' and '.join(MISSING)} of Table 8 are in no library."
    )
    return 0


def roadmap(argv: list[str]) -> int:
    """Every step from ResNet to ConvNeXt with its MACs and the paper's accuracy."""
    from convnext import paper
    from convnext.benchmark.flops import count_named

    for regime, told in paper.ROADMAPS.items():
        rows = []
        for step in told.steps:
            counted = count_named(f"roadmap_{regime}_{step.key}")
            accuracy = f"{step.top1:.2f}" + (f" ± {step.std:.2f}" if step.std is not None else "")
            rows.append(
                (
                    step.key + ("" if step.key not in paper.NOT_ADOPTED else "  (explored, not adopted)"),
                    f"{counted.macs / 1e9:.2f}",
                    f"{step.gflops:.2f}{' *' if step.misprinted else ''}",
                    f"{counted.macs:,}",
                    f"{counted.params:,}",
                    accuracy,
                )
            )
        columns = (f"{regime}", "GMACs counted", "printed", "MACs", "params", "paper's top-1 %")
        print_table(stdout(), table(columns, rows, spare=("params", "MACs")))
        for note in (f"* {step.key}: {step.note}" for step in told.steps if step.misprinted):
            stdout().print(note)
        stdout().print()
    stdout().print("Train a step: convnext train roadmap/resnet50-depthwise --data DIR")
    return 0

"""`convnext info ...`: what there is, and what is inside."""

from dataclasses import dataclass
from pathlib import Path

from convnext.cli.common import fetched, print_table, stdout, table
from convnext.errors import ConvNextError, nearest

HELP = """usage: convnext info [TOPIC]

  convnext info                                versions and devices of this machine
  convnext info models [PATTERN]               every model: params, MACs, activations, beside the paper's numbers
  convnext info models 'cascade*' --speed      detectors and segmenters, and how fast they are here
  convnext info peers                          the paper's rivals, counted on timm's models, beside the paper's numbers
  convnext info recipes                        every recipe: where it comes from, and its main numbers
  convnext info recipe NAME [--diff OTHER]     all fields of a recipe, or what differs from another
  convnext info roadmap                        from ResNet to ConvNeXt: steps, MACs, accuracies of Tables 10 and 11
  convnext info catalog                        released checkpoints that can be named wherever a file can
  convnext info MODEL_OR_RECIPE                one of them
  convnext info FILE_OR_RUN                    what a checkpoint or a run's folder holds
"""


def run(argv: list[str]) -> int:
    topics = {
        "models": models,
        "peers": peers,
        "recipes": recipes,
        "recipe": recipe,
        "roadmap": roadmap,
        "catalog": catalog,
    }
    if not argv:
        return overview()
    topic, rest = argv[0], argv[1:]
    if topic in ("-h", "--help") or "--help" in rest:
        print(HELP)
        return 0
    if topic in topics:
        return topics[topic](rest) or 0
    if Path(found := fetched(topic)).exists():
        return checkpoint(found)
    return _named(topic, rest, topics)


def _named(name: str, rest: list[str], topics: dict) -> int:
    """What the name of a recipe or a model alone means.

    Raises:
        ConvNextError: it is none, nor a topic, nor a file.
    """
    from convnext import recipes
    from convnext.factory import list_models

    known = {"recipe": list(recipes.recipes()), "models": list_models()}
    for topic, names in known.items():
        if name in names:
            return topics[topic]([name, *rest]) or 0
    close = nearest(name, [*topics, *known["recipe"], *known["models"]])
    raise ConvNextError(
        f"`convnext info {name}`: that is no topic, no model, no recipe and no file.{close} Topics: {', '.join(topics)}."
    )


def _no_more(argv: list[str]) -> None:
    if argv:
        raise ConvNextError(f"Not understood: {' '.join(argv)}. `convnext info --help` shows the forms.")


def overview() -> int:
    from convnext.runtime.device import choose_device, describe
    from convnext.runtime.run_folder import environment

    facts = environment()
    packages = [(name, version) for name, version in facts["packages"].items()]
    rows = [("convnext", facts["convnext"]), ("python", facts["python"]), *packages]
    rows += [("device", describe(choose_device())), ("cores", facts["cores"])]
    print_table(stdout(), table(("", ""), rows, left=2))
    return 0


@dataclass(frozen=True)
class _Row:
    """What the paper prints of a model: millions of parameters, GMACs at 224 and 384."""

    params: float | None = None
    gmacs: float | None = None
    gmacs384: float | None = None


def _paper_row(name: str) -> _Row:
    from convnext import paper

    if "isotropic" in name:
        row = paper.isotropic(name)
        return _Row(row.params_m, row.gflops)
    printed = {r.size: r for r in paper.TABLE1 if r.model == paper.NAMES.get(name)}
    small, large = printed.get(224), printed.get(384)
    return _Row(small.params_m if small else None, small.gflops if small else None, large.gflops if large else None)


def _beside(counted: float, printed: float | None, digits: int) -> str:
    """The printed value, marked with * where the counted one does not round to it."""
    if printed is None:
        return ""
    return f"{printed:g}{'' if abs(counted - printed) <= 0.5 * 10**-digits + 1e-9 else ' *'}"


def models(argv: list[str]) -> int:
    from fnmatch import fnmatch

    from convnext.benchmark.flops import count_named
    from convnext.models import names

    speed = "--speed" in argv
    argv = [word for word in argv if word != "--speed"]
    _no_more(argv[1:])
    pattern = argv[0] if argv else "convnext_*"
    chosen = [name for name in names() if fnmatch(name, pattern)]
    if not chosen:
        return dense_models(pattern, speed)
    if speed:
        raise ConvNextError("--speed is for detectors and segmenters; `convnext benchmark` measures classifiers.")
    rows = []
    for name in chosen:
        at224, at384 = count_named(name), count_named(name, 384)
        said = _paper_row(name) if name.startswith("convnext") else _Row()
        rows.append(
            (
                name,
                f"{at224.params:,}",
                _beside(at224.params / 1e6, said.params, 0),
                f"{at224.macs / 1e9:.3f}",
                _beside(at224.macs / 1e9, said.gmacs, 1),
                f"{at384.macs / 1e9:.2f}",
                _beside(at384.macs / 1e9, said.gmacs384, 1),
                f"{at224.activations / 1e6:.1f}",
                f"{at224.weight_bytes / 2**20:.0f}",
            )
        )
    columns = (
        "model", "params", "paper M", "GMACs 224", "paper", "GMACs 384", "paper", "activations M", "weights MiB",
    )  # fmt: skip
    print_table(stdout(), table(columns, rows))
    marked = any("*" in cell for row in rows for cell in row)
    stdout().print(
        "Counted on the live models for 1,000 classes; beside each, what the paper prints (Tables 1 and 2)"
        + ("; * differs by more than rounding." if marked else ", equal after rounding.")
    )
    return 0


def dense_models(pattern: str, speed: bool = False) -> int:
    """Detectors at 1280x800 (Table 3) and segmenters at 2048x512 and 2560x640 (Table 4)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from convnext.factory import builder, list_models, task_of_name

    rows = []
    for name in list_models(pattern):
        task = task_of_name(name)
        for height, width in ((800, 1280),) if task == "detection" else ((512, 2048), (640, 2560)):
            with torch.device("meta"), FlopCounterMode(display=False) as counter:
                model = builder(task)(name).eval()
                x = torch.empty(1, 3, height, width)
                model.macs_forward(x) if task == "detection" else model(x)
            params = sum(p.numel() for p in model.parameters())
            gmacs = counter.get_total_flops() / 2e9
            row = (name, f"{width}x{height}", f"{params:,}", f"{gmacs:.2f}", _paper_dense(name, height, gmacs))
            rows.append((*row, f"{_images_per_second(name, height, width):.3g}") if speed else row)
    if not rows:
        raise ConvNextError(f"No model matches {pattern!r}.{nearest(pattern, list_models())}")
    columns = ("model", "pixels", "params", "GMACs", "paper") + (("images/s",) if speed else ())
    print_table(stdout(), table(columns, rows))
    stdout().print(
        "Convolutions and linear layers, as the paper counts: a detector with 1000 boxes and 100 masks (Table 3), a segmenter "
        "without its auxiliary head, which is in the parameters (Table 4). Beside, what the paper prints; * differs by more "
        "than 0.2 %."
    )
    if speed:
        stdout().print("Images per second: one at a time, random weights, on this device; the median of five.")
    return 0


def _paper_dense(name: str, height: int, gmacs: float) -> str:
    """What Tables 3 and 4 print of a detector or segmenter at this size; nothing where they have no row."""
    from convnext import paper

    architecture, _, size = name.partition("_convnext_")
    backbone = paper.NAMES.get(f"convnext_{size}")
    if architecture == "upernet":
        rows = [row for row in paper.TABLE4 if row.backbone == backbone and row.crop == height]
    else:
        method = architecture.partition("_mask")[0].removesuffix("_rcnn")
        rows = [row for row in paper.TABLE3 if row.backbone == backbone and row.method == method]
    return f"{rows[0].gflops:g}{'' if abs(gmacs / rows[0].gflops - 1) <= 0.002 else ' *'}" if rows else ""


def _images_per_second(name: str, height: int, width: int) -> float:
    """Of a detector or segmenter with random weights on the device that would be chosen: the median of five, after one."""
    import time
    from statistics import median

    import torch

    from convnext.factory import create_model
    from convnext.runtime.device import choose_device

    device = choose_device()
    model = create_model(name).eval().to(device)
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
    from convnext.benchmark.paper_peers import TIMM, count_timm, printed

    _no_more(argv)
    rows = []
    for (model, size), name in TIMM.items():
        counted, said = count_timm(name, size), printed(model, size)
        rows.append(
            (
                model,
                f"timm:{name}",
                size,
                f"{counted.params / 1e6:.1f}",
                _beside(counted.params / 1e6, said and said.params_m, 0),
                f"{counted.macs / 1e9:.2f}",
                _beside(counted.macs / 1e9, said and said.gflops, 1),
                *(f"{top1:g}" if top1 else "" for top1 in (said.top1 if said else ("", ""))),
            )
        )
    columns = ("paper's name", "model", "px", "params M", "paper", "GMACs", "paper", "top-1 1K", "22K -> 1K")
    print_table(stdout(), table(columns, rows, left=2))
    stdout().print(
        "Counted on timm's models of these architectures; beside each, what the paper prints (Tables 1 and 2). * differs by "
        "more than rounding: the paper takes these from the models' own papers. Any of them works in `benchmark --peers`."
    )
    return 0


def recipes(argv: list[str]) -> int:
    from convnext import recipes as all_recipes

    _no_more(argv)
    rows = [
        (
            name, r.source, r.model.name, *_extent(r), f"{r.total_batch}", f"{r.optim.lr:g}",
            "auto" if r.model.drop_path_rate is None else f"{r.model.drop_path_rate:g}",
        )
        for name, r in all_recipes.recipes().items()
    ]  # fmt: skip
    columns = ("recipe", "source", "model", "px", "length", "batch", "lr", "drop-path")
    print_table(stdout(), table(columns, rows, left=3))
    return 0


def _extent(recipe) -> tuple[str, str]:
    """The size of the pictures and the length of the run."""
    match recipe.task:
        case "classification":
            return f"{recipe.image_size}", f"{recipe.epochs} epochs"
        case "detection":
            return f"{recipe.test_short}", f"{recipe.epochs} epochs"
    return f"{recipe.augment.crop}", f"{recipe.steps:,} steps"


def recipe(argv: list[str]) -> int:
    from convnext.recipes import get
    from convnext.recipes.diff import difference, flatten

    if not argv or argv[0].startswith("-"):
        raise ConvNextError("Name a recipe: `convnext info recipe table5/tiny`. `convnext info recipes` lists them.")
    name, rest = argv[0], argv[1:]
    one = get(name)
    if not rest:
        print_table(stdout(), table(("field", name), list(flatten(one).items()), left=2))
        return 0
    if rest[0] != "--diff" or len(rest) != 2:
        raise ConvNextError(
            f"Not understood: {' '.join(rest)}. The form is `convnext info recipe {name} --diff OTHER`."
        )
    rows = difference(one, get(rest[1]))
    print_table(stdout(), table(("field", name, rest[1]), rows, left=3))
    if not rows:
        print("The two recipes are the same.")
    return 0


def roadmap(argv: list[str]) -> int:
    from convnext import paper
    from convnext.benchmark.flops import count_named

    _no_more(argv)
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
        print_table(stdout(), table(columns, rows))
        for note in (f"* {step.key}: {step.note}" for step in told.steps if step.misprinted):
            stdout().print(note)
        stdout().print()
    stdout().print("Train a step: convnext train roadmap/resnet50-depthwise --data DIR")
    return 0


def catalog(argv: list[str]) -> int:
    from convnext.weights import catalog as released

    _no_more(argv)
    rows = [(entry.name, entry.task, entry.metrics_text, entry.file) for entry in map(released.get, released.names())]
    print_table(stdout(), table(("name", "task", "published", "file"), rows, left=4))
    return 0


def checkpoint(path: str) -> int:
    from convnext.benchmark.flops import count
    from convnext.factory import builder
    from convnext.trained import open_trained, task_of

    task = task_of(path)
    model, read, source = open_trained(path, "best", builder(task))
    preprocess = read.metadata.get("preprocess", {})
    labels = _labels(task, read, model)
    shown = ", ".join(labels[:8]) + (f", .. ({len(labels)})" if len(labels) > 8 else "")
    rows = [
        ("file", source),
        ("format", read.format),
        ("task", task),
        ("model", ", ".join(f"{key} {value}" for key, value in model.config.items())),
        ("params", f"{sum(p.numel() for p in model.parameters()):,}"),
    ]
    if task == "classification":
        side = preprocess.get("size", 224)
        rows.append(("GMACs", f"{count(model.to('meta'), (model.in_chans, side, side)).macs / 1e9:.4g} at {side} px"))
    rows += [
        ("classes", shown),
        ("preprocessing", ", ".join(f"{key} {value}" for key, value in preprocess.items()) or "the paper's"),
        *(
            (key, value)
            for key, value in read.metadata.items()
            if key in ("recipe", "data", "weights", "step", "metrics")
        ),
    ]
    print_table(stdout(), table(("", ""), rows, left=2))
    return 0


def _labels(task: str, read, model) -> list[str]:
    if task == "classification":
        from convnext.classification.load import class_names

        return class_names(read, model.num_classes)[1] if getattr(model, "num_classes", None) else []
    return list(read.metadata.get("classes", []))

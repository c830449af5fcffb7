"""`convnext info ...`: what there is, and what is inside."""

from dataclasses import dataclass
from pathlib import Path

from convnext.cli.common import fetched, print_table, stdout, table
from convnext.errors import ConvNextError, nearest

HELP = """usage: convnext info [TOPIC]

  convnext info                                versions and devices of this machine
  convnext info models [PATTERN]               every model: params, MACs, activations, beside the paper's numbers
  convnext info recipes                        every recipe: where it comes from, and its main numbers
  convnext info recipe NAME [--diff OTHER]     all fields of a recipe, or what differs from another
  convnext info roadmap                        from ResNet to ConvNeXt: steps, MACs, accuracies of Tables 10 and 11
  convnext info catalog                        released checkpoints that can be named wherever a file can
  convnext info FILE_OR_RUN                    what a checkpoint or a run's folder holds
"""


def run(argv: list[str]) -> int:
    topics = {"models": models, "recipes": recipes, "recipe": recipe, "roadmap": roadmap, "catalog": catalog}
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
    raise ConvNextError(
        f"`convnext info {topic}`: that is no topic and no file.{nearest(topic, topics)} Topics: {', '.join(topics)}, or a path."
    )


def _no_more(argv: list[str]) -> None:
    if argv:
        raise ConvNextError(f"Not understood: {' '.join(argv)}. `convnext info --help` shows the forms.")


def overview() -> int:
    from convnext.train.distributed import choose_device, describe
    from convnext.train.rundir import environment

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

    _no_more(argv[1:])
    pattern = argv[0] if argv else "convnext_*"
    chosen = [name for name in names() if fnmatch(name, pattern)]
    if not chosen:
        raise ConvNextError(f"No model matches {pattern!r}.{nearest(pattern, names())}")
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


def recipes(argv: list[str]) -> int:
    from convnext import recipes as all_recipes

    _no_more(argv)
    rows = [
        (
            name, r.source, r.model.name, f"{r.image_size}", f"{r.epochs}", f"{r.total_batch}", f"{r.optim.lr:g}",
            "auto" if r.model.drop_path_rate is None else f"{r.model.drop_path_rate:g}",
        )
        for name, r in all_recipes.recipes().items()
    ]  # fmt: skip
    columns = ("recipe", "source", "model", "px", "epochs", "batch", "lr", "drop-path")
    print_table(stdout(), table(columns, rows, left=3))
    return 0


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
    from convnext.classification.load import class_names, preprocess_of, run_file
    from convnext.weights.load import load_model

    found = run_file(Path(path)) if Path(path).is_dir() else None
    model, read = load_model(str(found or path))
    labels = class_names(read, model.num_classes)[1] if getattr(model, "num_classes", None) else []
    shown = ", ".join(labels[:8]) + (f", .. ({len(labels)})" if len(labels) > 8 else "")
    preprocess = preprocess_of(read)
    size = (model.in_chans, preprocess.size, preprocess.size)
    from convnext.benchmark.flops import count

    counted = count(model.to("meta"), size)
    rows = [
        ("file", found or path),
        ("format", read.format),
        ("model", ", ".join(f"{key} {value}" for key, value in model.config.items())),
        ("params", f"{counted.params:,}"),
        ("GMACs", f"{counted.macs / 1e9:.4g} at {preprocess.size} px"),
        ("classes", shown),
        ("preprocessing", preprocess),
        *(
            (key, value)
            for key, value in read.metadata.items()
            if key in ("recipe", "data", "weights", "step", "metrics")
        ),
    ]
    print_table(stdout(), table(("", ""), rows, left=2))
    return 0

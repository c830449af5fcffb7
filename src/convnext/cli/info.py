"""`convnext info ...`: what there is, and what is inside."""

from dataclasses import asdict
from pathlib import Path

from convnext import tasks
from convnext.cli import info_models
from convnext.console import print_table, stdout, table
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
        "models": info_models.models,
        "peers": info_models.peers,
        "recipes": recipes,
        "recipe": recipe,
        "roadmap": info_models.roadmap,
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
    if Path(topic).expanduser().exists() or topic in catalog_names():
        return checkpoint(topic)
    return _named(topic, rest, topics)


def _named(name: str, rest: list[str], topics: dict) -> int:
    """Show the recipe or the model of that name.

    Raises:
        ConvNextError: it is none, nor a topic, nor a file.
    """
    from convnext import recipes

    known = {"recipe": list(recipes.recipes()), "models": tasks.list_models()}
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


def recipes(argv: list[str]) -> int:
    from convnext import recipes as all_recipes

    _no_more(argv)
    rows = [
        (
            name, r.source, r.model.name, tasks.of_recipe(r).geometry(r)[0], r.duration(), f"{r.total_batch}",
            f"{r.optim.lr:g}",
            "auto" if r.model.drop_path_rate is None else f"{r.model.drop_path_rate:g}",
        )
        for name, r in all_recipes.recipes().items()
    ]  # fmt: skip
    columns = ("recipe", "source", "model", "px", "length", "batch", "lr", "drop-path")
    print_table(stdout(), table(columns, rows, left=3, spare=("model", "drop-path", "lr", "batch", "px", "length")))
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
        stdout().print("The two recipes are the same.")
    return 0


def catalog_names() -> list[str]:
    """Names of the released checkpoints."""
    from convnext.weights import catalog

    return catalog.names()


def catalog(argv: list[str]) -> int:
    from convnext.weights import catalog as released

    _no_more(argv)
    rows = [(entry.name, entry.metrics_text, entry.file) for entry in map(released.get, released.names())]
    print_table(stdout(), table(("name", "published", "file"), rows, left=3, spare=("file",)))
    return 0


def checkpoint(path: str) -> int:
    """Everything that a checkpoint, an exported file or a run's folder tells about itself."""
    from convnext.benchmark.flops import count_macs
    from convnext.trained import load

    model = load(path, device="cpu", trust=True) if not _is_exported(path) else load(path)
    loaded, spec = model.opened.loaded, model.spec
    metadata, preprocess = loaded.metadata, asdict(loaded.preprocess)
    shown = ", ".join(loaded.names[:8]) + (f", .. ({len(loaded.names)})" if len(loaded.names) > 8 else "")
    config = getattr(model.module, "config", None) or {"name": metadata.get("model", "a model without a name")}
    rows = [
        ("file", loaded.source),
        ("format", metadata.get("format", "")),
        ("task", spec.name),
        ("model", ", ".join(f"{key} {value}" for key, value in config.items())),
    ]
    if not model.is_exported:
        rows.append(("params", f"{sum(p.numel() for p in model.module.parameters()):,}"))
        side = spec.side(loaded)
        macs = count_macs(spec, model.module, side, side)
        rows.append(("GMACs", f"{macs / 1e9:.4g} at {side} px"))
    rows += [
        ("classes", shown),
        ("preprocessing", ", ".join(f"{key} {value}" for key, value in preprocess.items())),
        *((key, value) for key, value in metadata.items() if key in ("recipe", "data", "weights", "step", "metrics")),
    ]
    print_table(stdout(), table(("", ""), rows, left=2))
    return 0


def _is_exported(path: str) -> bool:
    from convnext.export.runtime import is_exported

    return is_exported(path)

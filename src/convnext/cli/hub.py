"""`convnext hub push RUN NAME` and `convnext hub pull NAME`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from convnext.cli.parsing import Model, parse, take_word
from convnext.console import stdout
from convnext.errors import ConvNextError, nearest

DESCRIPTION = """Share a trained model as a repository on the Hugging Face Hub, or fetch one. Log in first: hf auth login

    convnext hub push runs/small-finetune me/pets            weights, settings and a card with its metrics
    convnext hub push runs/small-finetune me/pets --private
    convnext hub pull me/pets --out pets                     then: convnext predict pets photo.jpg"""


Repository = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]


@dataclass(frozen=True)
class Push:
    model: Model
    """A run's folder, a checkpoint file, or a name of the catalog."""
    repository: Repository
    """The repository, as owner/name; it is created if it does not exist."""
    private: bool = False
    """Create it so that only its owner can see it."""
    weights: Literal["best", "raw", "ema"] = "best"
    """Weights of a run."""


@dataclass(frozen=True)
class Pull:
    repository: Repository
    """The repository, as owner/name."""
    out: Path | None = None
    """Folder for the files; the part after the slash of the name unless given. It must be new or empty."""


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        stdout().print(f"{DESCRIPTION}\n\n`convnext hub push --help` and `convnext hub pull --help` list the options.")
        return 0
    verb, rest = take_word(argv, None, "push or pull")
    verbs = {"push": push, "pull": pull}
    if verb not in verbs:
        raise ConvNextError(f"`convnext hub` has no {verb!r}.{nearest(verb, verbs)} There are push and pull.")
    return verbs[verb](rest)


def push(argv: list[str]) -> int:
    arguments = parse(Push, argv, "hub push", DESCRIPTION)

    from convnext.trained import load
    from convnext.weights.hub import push_to_hub

    _check(arguments.repository)
    model = load(arguments.model, device="cpu", weights=arguments.weights)
    metadata = {key: value for key, value in model.opened.loaded.metadata.items() if key != "format"}
    tag = model.spec.pipeline_tag
    url = push_to_hub(model.module, arguments.repository, metadata, private=arguments.private, pipeline_tag=tag)
    stdout().print(f"{arguments.model} -> {url}")
    return 0


def pull(argv: list[str]) -> int:
    arguments = parse(Pull, argv, "hub pull", DESCRIPTION)

    from convnext.tasks import from_pretrained
    from convnext.weights.hub import pull_from_hub

    _check(arguments.repository)
    folder = arguments.out or Path(arguments.repository.split("/")[1])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConvNextError(f"{folder} exists already and is not an empty folder. Give another one with --out.")
    pull_from_hub(arguments.repository, folder)
    _, checkpoint = from_pretrained(str(folder))  # refuses a repository that holds something else
    stdout().print(
        f"{arguments.repository} ({checkpoint.format}, {checkpoint.metadata['model']['name']}) -> {folder}\n"
        f"Next: convnext predict {folder} IMAGES"
    )
    return 0


def _check(repository: str) -> None:
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise ConvNextError(f"{repository!r} is no name of a repository: give owner/name.")

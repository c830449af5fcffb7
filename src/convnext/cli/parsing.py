"""From the words of a command to a dataclass: parsing, options that several verbs share, options of every task."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import field, fields, is_dataclass, make_dataclass
from io import StringIO
from typing import Annotated, Any, Literal, TypeVar

import tyro

from convnext import tasks
from convnext.console import clean
from convnext.errors import ConvNextError
from convnext.recipes.ranges import check_ranges
from convnext.task.spec import NoOptions

Arguments = TypeVar("Arguments")

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Images = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def parse(kind: type[Arguments], argv: Sequence[str], verb: str, description: str, **options: Any) -> Arguments:
    """`argv` as an instance of the dataclass `kind`; tyro answers --help and typos, exiting with 0 and 2.

    Raises:
        ConvNextError: a number is outside the range that its field states, or is not finite.
    """
    said = StringIO()
    strange = any(clean(word) != word for word in argv)  # the parser shows words as they are
    try:
        with redirect_stderr(said) if strange else nullcontext():
            parsed = tyro.cli(kind, args=list(argv), prog=f"convnext {verb}", description=description, **options)
    finally:
        if strange:
            sys.stderr.write(clean(said.getvalue()))
    for group in filter(is_dataclass, vars(parsed).values()):  # their options have no prefix on the command line
        check_ranges(group)
    check_ranges(parsed)
    return parsed


def take_word(argv: list[str], default: str | None, what: str) -> tuple[str, list[str]]:
    """The leading positional word of `argv`, or `default`; and the rest."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    if default is None:
        raise ConvNextError(f"Name {what} first.")
    return default, argv


def require_model(argv: Sequence[str], verb: str) -> None:
    """Raises ConvNextError for a command without any word."""
    if not argv:
        raise ConvNextError(
            f"Name a model: a run's folder, a checkpoint file, or a name of the catalog. `convnext {verb} --help`"
        )


def with_task_options(common: type, which: str) -> type:
    """The dataclass `common` with a field for each task that has options of its own, shown as a group of --help.

    Args:
        which: `evaluate_options` or `predict_options` of `TaskSpec`.
    """
    groups = [
        (spec.name, Annotated[kind, tyro.conf.OmitArgPrefixes], field(default=kind()))
        for spec in tasks.specs()
        if fields(kind := getattr(spec, which))
    ]
    return make_dataclass(common.__name__, groups, bases=(common,), frozen=True)


def task_options(arguments: Any, spec: tasks.TaskSpec, model: str) -> dict[str, Any]:
    """The options of the model's task as keywords.

    Raises:
        ConvNextError: an option of another task was given.
    """
    for other in tasks.specs():
        given, standard = (
            getattr(arguments, other.name, NoOptions()),
            type(getattr(arguments, other.name, NoOptions()))(),
        )
        shared = vars(getattr(arguments, spec.name, NoOptions()))
        for name, value in vars(given).items():
            if other.name != spec.name and value != getattr(standard, name) and name not in shared:
                option = name.replace("_", "-")
                raise ConvNextError(f"--{option} is for {other.noun}s, and {model} is a {spec.noun}. Leave it out.")
    return dict(vars(getattr(arguments, spec.name, NoOptions())))

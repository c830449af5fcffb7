"""From the words of a command to a dataclass: parsing, options that several verbs share, options of every task."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import field, fields, is_dataclass, make_dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro

from convnext import tasks
from convnext.console import clean
from convnext.data.patterns import is_pattern
from convnext.errors import ConvNextError
from convnext.recipes.ranges import check_ranges
from convnext.task.spec import NoOptions

Arguments = TypeVar("Arguments")

Model = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Images = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]


ELSEWHERE = {
    "--batch": ("--total-batch",),
    "--batch-size": ("--batch", "--total-batch"),
    "--bs": ("--batch", "--total-batch"),
    "--conf": ("--threshold",),
    "--img-size": ("--image-size",),
    "--imgsz": ("--image-size",),
    "--input-size": ("--image-size",),
    "--lr": ("--optim.lr",),
    "--learning-rate": ("--optim.lr",),
    "--num-workers": ("--workers", "--runtime.workers"),
    "--output": ("--out",),
    "--output-dir": ("--out",),
    "--resume": ("--out",),
    "--score": ("--threshold",),
    "--score-thr": ("--threshold",),
    "--wd": ("--optim.weight-decay",),
    "--weight-decay": ("--optim.weight-decay",),
}
"""Names of options in other tools, with ours; the first that a verb has is the answer."""


def parse(kind: type[Arguments], argv: Sequence[str], verb: str, description: str, **options: Any) -> Arguments:
    """`argv` as an instance of the dataclass `kind`; tyro answers --help and typos, exiting with 0 and 2.

    Raises:
        ConvNextError: an option has the name that other tools give it, and the message has ours; or a number is outside the
            range that its field states, or is not finite.
    """
    known = option_names(options.get("default") or kind)
    for word in argv:
        name = word.split("=")[0]
        ours = next((option for option in ELSEWHERE.get(name, ()) if option in known), None)
        if ours and name not in known:
            raise ConvNextError(f"There is no option {name}: here it is {ours}. `convnext {verb} --help` explains it.")
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


def option_names(arguments: Any, prefix: str = "", short: bool = False) -> set[str]:
    """Options of a dataclass, or of an instance of it: "--optim.lr"; unless `short`, also without their first word."""
    found = set()
    hints = get_type_hints(arguments if isinstance(arguments, type) else type(arguments))
    for each in fields(arguments):
        inner = hints[each.name] if isinstance(arguments, type) else getattr(arguments, each.name)
        found.add(f"--{prefix}{each.name}".replace("_", "-"))
        if is_dataclass(inner):
            found |= option_names(inner, f"{prefix}{each.name}.")
            if not prefix and not short:  # a group, whose name is left out
                found |= option_names(inner, short=True)
    return found


def check_data(data: str | None) -> None:
    """Raises ConvNextError for a folder that is not there, before anything slow is imported."""
    if data and data != "digits" and ":" not in data and not Path(data).expanduser().exists() and not is_pattern(data):
        from convnext.data.find import no_such_data

        raise ConvNextError(f"{no_such_data(data)} `convnext train --help` and the README say what data can be.")


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

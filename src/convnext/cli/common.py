"""What the verbs share: the terminal, parsing, tables."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from convnext.errors import ConvNextError


class Out(Console):
    """A console whose lines are never wrapped where they are not for a person's terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        options.setdefault("soft_wrap", not self.is_terminal)
        super().print(*objects, **options)


def stdout() -> Out:
    return Out(file=sys.stdout, highlight=False)


def stderr() -> Out:
    return Out(file=sys.stderr, highlight=False)


def parse(kind: Any, argv: Sequence[str], verb: str, description: str, **options: Any) -> Any:
    """`argv` as an instance of the dataclass `kind`; tyro answers --help and typos, exiting with 0 and 2."""
    import tyro

    return tyro.cli(kind, args=list(argv), prog=f"convnext {verb}", description=description, **options)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, left: int = 1) -> Table:
    """A plain table whose first `left` columns are text and whose others are numbers."""
    made = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=any(columns),
    )
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < left else "right", overflow="fold", no_wrap=i < left)
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made


def print_table(console: Console, made: Table) -> None:
    """Print a table at its own width where the output is not a terminal, so that nothing is cut."""
    if console.quiet:
        return
    if not console.is_terminal:
        console = Out(file=console.file, width=10_000, highlight=False)
    console.print(made)


def fetched(name: str) -> str:
    """The path of a name of the catalog, downloaded with a progress bar if need be; anything else as it is."""
    from pathlib import Path

    from convnext.weights import catalog

    if Path(name).expanduser().exists() or name not in catalog.names():
        return name
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        item = bar.add_task(name, total=None)
        return str(catalog.fetch(name, lambda done, total: bar.update(item, completed=done, total=total)))


def take_word(argv: list[str], default: str | None, what: str) -> tuple[str, list[str]]:
    """The leading positional word of `argv`, or `default`; and the rest."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    if default is None:
        raise ConvNextError(f"Name {what} first.")
    return default, argv

"""The terminal: lines, tables and progress bars. Nothing that is printed here is interpreted as markup.

Names of files and classes and messages of libraries come from elsewhere: control characters in them are shown as escapes,
so that no file can colour, clear or confuse a terminal. Styles are an argument (`style="yellow"`), never part of a text.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def clean(text: object) -> str:
    """The text with control characters and undecodable bytes as visible escapes; line feeds and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in str(text))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Out(Console):
    """A console without markup, whose lines are wrapped only on a terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        options.setdefault("soft_wrap", not self.is_terminal)
        options.setdefault("markup", False)
        super().print(*(clean(each) if isinstance(each, str) else each for each in objects), **options)


def stdout() -> Out:
    """The console of the command's results."""
    return Out(file=sys.stdout, highlight=False)


def stderr() -> Out:
    """The console of progress, warnings and errors."""
    return Out(file=sys.stderr, highlight=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None, left: int = 1) -> Table:
    """A plain table whose first `left` columns are text and whose others are numbers."""
    made = Table(
        title=None if title is None else Text(clean(title)),
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=any(columns),
    )
    for i, column in enumerate(columns):
        made.add_column(Text(clean(column)), justify="left" if i < left else "right", overflow="fold", no_wrap=i < left)
    for row in rows:
        made.add_row(*(Text("" if cell is None else clean(cell)) for cell in row))
    return made


def print_table(console: Console, made: Table) -> None:
    """Print a table at its own width where the output is not a terminal, so that nothing is cut."""
    if console.quiet:
        return
    if not console.is_terminal:
        console = Out(file=console.file, width=10_000, highlight=False)
    console.print(made)


@contextmanager
def progress_bar(label: str, shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal's stderr; yields a function that takes (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    err = stderr()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal)) as bar:
        item = bar.add_task(clean(label), total=None)
        yield lambda done, total: bar.update(item, completed=done, total=total)


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

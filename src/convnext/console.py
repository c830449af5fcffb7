"""The terminal: lines, tables and progress bars. Nothing that is printed here is interpreted as markup.

Names of files and classes and messages of libraries come from elsewhere: control characters in them are shown as escapes,
so that no file can colour, clear or confuse a terminal. Styles are an argument (`style="yellow"`), never part of a text.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from convnext.layout import Table, shortened


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


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    left: int = 1,
    spare: Sequence[str] = (),
) -> Table:
    """A plain table whose first `left` columns are text and whose others are numbers; `spare` columns go first where the
    terminal is narrow, the one of least value first."""
    cleaned = [["" if cell is None else clean(cell) for cell in row] for row in rows]
    return Table([clean(column) for column in columns], cleaned, clean(title or ""), left, spare)


def print_table(console: Console, made: Table) -> None:
    """Print a table as wide as the terminal, or at its own width where the output is none, so that nothing is cut."""
    if console.quiet:
        return
    head, body, note = made.lines(console.width if console.is_terminal else None)
    for line, style in [(made.title, "bold"), *((line, "bold") for line in head), *((line, "") for line in body)]:
        if line or style == "":
            console.print(line, style=style, soft_wrap=True)
    if note:
        console.print(note, style="dim", soft_wrap=True)


@contextmanager
def progress_bar(
    label: str, shown: bool = True, console: Console | None = None
) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal's stderr; yields a function that takes (done, total).

    Args:
        console: where lines are printed while the bar is there, which appear above it; None: nowhere.
    """
    with bar_of(label, console or stderr(), shown) as (bar, item):
        yield lambda done, total: bar.update(item, completed=done, total=total)


@contextmanager
def bar_of(
    label: str, console: Console, shown: bool, more: Sequence[Any] = (), **fields: Any
) -> Iterator[tuple[Any, Any]]:
    """A rich bar with its only task: label, bar, count and time to go, and the columns `more` after the count; the bar
    gives way where the terminal is narrow. Results in a file or a pipe stay there: rich would print them above the bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    size = bar_width(console)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(size), *(more or [MofNCompleteColumn()]))
    with Progress(
        *columns, TextColumn("ETA"), TimeRemainingColumn(), console=console, transient=True,
        disable=not (shown and console.is_terminal), redirect_stdout=sys.stdout.isatty(),
    ) as bar:  # fmt: skip
        yield bar, bar.add_task(shortened(clean(label), max(console.width - size - 30, 10)), total=None, **fields)


def bar_width(console: Console) -> int:
    """Characters of a bar: ten at 80 columns, forty from 110 on."""
    return max(min(40, console.width - 70), 10)

"""Tables as Markdown."""

from collections.abc import Iterable, Sequence


def markdown(rows: Iterable[Sequence], columns: Sequence[str]) -> str:
    """A Markdown table, padded so that it reads as text too; None is a dash, and columns of numbers align right.

    Cells are written as they are: round floats before.
    """
    rows = [list(row) for row in rows]
    right = [all(isinstance(row[i], int | float | None) for row in rows) and bool(rows) for i in range(len(columns))]
    lines = [[_cell(value) for value in row] for row in [list(columns), *rows]]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(columns))]
    padded = [
        [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)]
        for line in lines
    ]
    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def _cell(value) -> str:
    return "-" if value is None else str(value).replace("|", "\\|").replace("\n", " ")

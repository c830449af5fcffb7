"""The paper's tables as Markdown, CSV and one HTML page with the figures."""

import csv
import html
import io
from collections.abc import Sequence

from convnext.report.paper_tables import Cell, Table
from convnext.report.table import markdown

LEGEND = (
    "A number alone is printed in the paper and was neither counted nor measured here. `=` after it: the live model or recipe "
    "gives the same after rounding. `≠ N`: it gives N, for the reason below the table. `here:` is measured by us, with its "
    "source. Rows and columns marked thesis are in the thesis version alone."
)


def as_text(cell: Cell) -> str:
    """A cell in one line: `4.5 =`, `45.0 ≠ 45.12`, `774.7; here: 21.3`."""
    text = cell.printed
    if cell.equal is not None:
        text = f"{cell.printed} =" if cell.equal else f"{cell.printed} ≠ {cell.counted}"
    return "; ".join(filter(None, (text, f"here: {cell.measured}" if cell.measured else "")))


def reasons(table: Table) -> list[str]:
    """A sentence for each reason, with the cells that it is about."""
    about: dict[str, list[str]] = {}
    for row, column, cell in table.cells():
        if cell.why:
            about.setdefault(cell.why, []).append(f"{row}, {column}")
    return [f"{_some(places)}: {why}" for why, places in about.items()]


def _some(places: Sequence[str]) -> str:
    return "; ".join(places[:4]) + (f"; and {len(places) - 4} more" if len(places) > 4 else "")


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables, each with its heading and reasons."""
    parts = [LEGEND.replace("\n", " ")]
    for table in tables:
        rows = [(name, *map(as_text, cells)) for name, cells in table.rows]
        lines = [f"## Table {table.number}: {table.title}", markdown(rows, ("", *table.columns))]
        if found := reasons(table):
            lines.append("\n".join(f"- {sentence}" for sentence in found))
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """One line for each cell: table, row, column, printed, counted, equal, measured, why."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("table", "row", "column", "printed", "counted", "equal", "measured", "why"))
    for table in tables:
        for row, column, cell in table.cells():
            equal = {None: "", True: "yes", False: "no"}[cell.equal]
            writer.writerow((table.number, row, column, cell.printed, cell.counted, equal, cell.measured, cell.why))
    return out.getvalue()


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #888 } .wide { overflow-x: auto }
.same { background: #e3f3ec } .other { background: #fbe6d9 } .here { color: #0072b2; display: block }
small { color: #666 } img { max-width: 100%; margin: .5rem 0 1.5rem }
"""


def to_html(tables: Sequence[Table], figures: Sequence[tuple[str, str]] = ()) -> str:
    """A page that stands alone, but for the figures: (title, file beside it)."""
    parts = [f"<p>{html.escape(LEGEND)}</p>"]
    for title, file in figures:
        parts.append(f"<h2>{html.escape(title)}</h2><img src='{html.escape(file)}' alt='{html.escape(title)}'>")
    for table in tables:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in ("", *table.columns))
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th>{''.join(map(_cell, cells))}</tr>" for name, cells in table.rows
        )
        parts.append(f"<h2>Table {table.number}: {html.escape(table.title)}</h2>")
        parts.append(f"<div class='wide'><table><tr>{head}</tr>{rows}</table></div>")
        parts += [f"<small>{html.escape(sentence)}</small><br>" for sentence in reasons(table)]
    body = "\n".join(parts)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>A ConvNet for the 2020s: every table</title><style>{_STYLE}</style>"
        f"<h1>A ConvNet for the 2020s: every table</h1>\n{body}</html>\n"
    )


def _cell(cell: Cell) -> str:
    kind = {None: "", True: " class='same'", False: " class='other'"}[cell.equal]
    title = f" title='counted {html.escape(cell.counted)}. {html.escape(cell.why)}'" if cell.counted or cell.why else ""
    shown = html.escape(cell.printed) + (
        f" <small>≠ {html.escape(cell.counted)}</small>" if cell.equal is False else ""
    )
    here = f"<span class='here'>{html.escape(cell.measured)}</span>" if cell.measured else ""
    return f"<td{kind}{title}>{shown}{here}</td>"

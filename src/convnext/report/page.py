"""Parts of an HTML page in one file: nothing is loaded from elsewhere, no script runs, and no text of a file is trusted."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from convnext.console import clean

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1060px; margin: 2em auto; padding: 0 1em;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .7em 0; } th, td { padding: .15em .8em .15em 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #bbb; font-weight: 600; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { border-bottom: 1px solid #eee; } td:not(.n), th:not(.n) { min-width: 5.5em; } img { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: .7em; overflow-x: auto; } p.quiet, summary { color: #666; }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; }
figure { margin: 0; max-width: 100%; font-size: 12px; line-height: 1.3; }
figure div { display: flex; flex-wrap: wrap; gap: 2px; align-items: flex-start; }
figcaption { width: 0; min-width: 100%; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page; `parts` are made by the functions below."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def text(value: object) -> str:
    """Any text as HTML: nothing in it is markup, and control characters are visible."""
    return escape(clean(str(value).encode("utf-8", "backslashreplace").decode()))


def section(title: str, *parts: str) -> str:
    """A heading and what is below it; nothing where all parts are empty."""
    body = "\n".join(part for part in parts if part)
    return f"<h2>{text(title)}</h2>\n{body}" if body else ""


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; columns of numbers are aligned right. Empty without rows."""
    if not rows:
        return ""
    numbers = [all(isinstance(row[k], int | float) or _is_number(row[k]) for row in rows) for k in range(len(columns))]

    def line(cells: Sequence[object], tag: str) -> str:
        marks = [' class="n"' if right else "" for right in numbers]
        return "".join(f"<{tag}{mark}>{text(_shown(cell))}</{tag}>" for cell, mark in zip(cells, marks, strict=True))

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{line(columns, "th")}</tr>\n{body}</table></div>'


def folded(summary: str, part: str) -> str:
    """Something that is shown when it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{part}</details>" if part else ""


def code(lines: str) -> str:
    return f"<pre>{text(lines)}</pre>"


def image(content: bytes | Path, words: str, kind: str = "png", width: int | None = None) -> str:
    """An image inside the page, `width` pixels wide if given; a file that is not there gives nothing."""
    if isinstance(content, Path):
        if not content.is_file():
            return ""
        content = content.read_bytes()
    wide = f' width="{width}"' if width else ""
    return f'<img alt="{text(words)}"{wide} src="data:image/{kind};base64,{b64encode(content).decode()}">'


def pictures(items: Iterable[tuple[Sequence[bytes], str]]) -> str:
    """JPEGs side by side, some together over their words."""
    figures = []
    for some, words in items:
        shown = "".join(image(each, "", "jpeg") for each in some)
        figures.append(f"<figure><div>{shown}</div><figcaption>{text(words)}</figcaption></figure>")
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _shown(cell: object) -> object:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else cell


def _is_number(cell: object) -> bool:
    try:
        float(str(cell).replace(",", ""))
    except ValueError:
        return False
    return True

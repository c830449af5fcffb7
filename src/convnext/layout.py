"""Tables as lines of text, laid out for a width: nothing is cut without a mark, and no number is broken in two."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
"""Spaces between columns."""
READABLE = 24
"""Characters that a folded text has at least, where its column has them at all."""
SHORTEST = 12
"""Characters that a shortened cell keeps."""


@dataclass(frozen=True)
class Table:
    """Rows for the terminal, a notebook or a page; the first `left` columns are text, the others numbers.

    Attributes:
        spare: columns that a narrow terminal can do without, the one of least value first.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    left: int = 1
    spare: Sequence[str] = ()

    def __str__(self) -> str:
        head, body, _ = self.lines()
        return "\n".join([*([self.title] if self.title else []), *head, *body])

    def lines(self, width: int | None = None) -> tuple[list[str], list[str], str]:
        """Lay the table out in `width` characters; None: in as many as it needs.

        Returns:
            The lines of the header, those of the rows, and a sentence on columns that had to be left out.
        """
        header = [str(column) for column in self.columns]
        rows = [["" if cell is None else str(cell) for cell in row] for row in self.rows]
        kept = self._kept(header, rows, width)
        widths = self._widths([[row[i] for i in kept] for row in (header, *rows)], kept, width)

        def laid(row: list[str]) -> list[str]:
            folded = [self._fold(row[i], w, i) for i, w in zip(kept, widths, strict=True)]
            lines = []
            for line in range(max(map(len, folded))):
                parts = [each[line] if line < len(each) else "" for each in folded]
                padded = [_pad(part, w, self._is_left(i)) for part, w, i in zip(parts, widths, kept, strict=True)]
                lines.append((" " * GAP).join(padded).rstrip())
            return lines

        missing = ", ".join(header[i] for i in range(len(header)) if i not in kept)
        return (
            laid(header) if any(header) else [],
            [line for row in rows for line in laid(row)],
            f"Not shown at {width} columns: {missing}." if missing else "",
        )

    def _kept(self, header: list[str], rows: list[list[str]], width: int | None) -> list[int]:
        """Positions of the columns that have room: first those of `spare` go, then the last ones."""
        kept = list(range(len(header)))
        if width is None:
            return kept
        least = [self._least([row[i] for row in (header, *rows)], i) for i in kept]
        going = [header.index(name) for name in self.spare]
        while going and sum(least[i] + GAP for i in kept) - GAP > width:
            kept.remove(going.pop(0))
        while len(kept) > 2 and sum(min(least[i], SHORTEST) + GAP for i in kept) - GAP > width:
            kept.pop()
        return kept

    def _is_left(self, i: int) -> bool:
        return i < self.left or not self.columns[i]

    def _least(self, column: list[str], i: int) -> int:
        """The least width of a column: of numbers all, of texts `READABLE` or the longest word, of a header its words."""
        header, *body = column
        if self._is_left(i) or any(" " in cell and re.search(r"[^\W\d]{3}", cell) for cell in body):
            words = max((_size(word) for cell in body for word in cell.split()), default=0)
            natural = max(map(_size, body), default=0)
            wide = max(words, min(natural, READABLE))
        else:
            wide = max(map(_size, body), default=0)
        return max([wide, *map(_size, header.split())])

    def _widths(self, cells: list[list[str]], kept: list[int], width: int | None) -> list[int]:
        natural = [max(_size(row[n]) for row in cells) for n in range(len(kept))]
        if width is None or sum(natural) + GAP * (len(kept) - 1) <= width:
            return natural
        least = [self._least([row[n] for row in cells], i) for n, i in enumerate(kept)]
        free = width - GAP * (len(kept) - 1) - sum(least)
        while free < 0 and max(least) > SHORTEST:  # even words are too long: the longest of them are shortened
            least[least.index(max(least))] -= 1
            free += 1
        while free > 0 and (growing := [n for n in range(len(kept)) if least[n] < natural[n]]):
            least[min(growing, key=lambda n: least[n])] += 1
            free -= 1
        return least

    def _fold(self, cell: str, width: int, i: int) -> list[str]:
        """A cell as lines, broken at spaces. A longer word is broken after a separator in the last column, where it can
        still be copied, and shortened in its middle elsewhere."""
        breakable = i == len(self.columns) - 1 and self._is_left(i)
        lines: list[str] = []
        for paragraph in cell.split("\n"):
            if _size(paragraph) <= width:
                lines.append(paragraph)
                continue
            line = ""
            for word in paragraph.split():
                first, *more = _parts(word, width) if breakable else [shortened(word, width)]
                if line and _size(line) + 1 + _size(first) > width:
                    lines.append(line)
                    line = ""
                line = f"{line} {first}".lstrip()
                for part in more:
                    lines.append(line)
                    line = part
            lines.append(line)
        return lines


def shortened(text: str, width: int) -> str:
    """A text of at most `width` characters: an ellipsis stands for the middle of a longer one."""
    if _size(text) <= width:
        return text
    keep = max(width - 1, 0)
    ending = keep * 2 // 3  # the end of a path tells more than its beginning
    return _take(text, keep - ending) + "…" + _take(text[::-1], ending)[::-1]


def hanging(start: str, pieces: Sequence[str], width: int | None, indent: int = 7) -> str:
    """`start` and the pieces, two spaces apart, on as many lines as the width asks for; no piece is broken."""
    lines = [start]
    for piece in pieces:
        joined = f"{lines[-1]}  {piece}"
        if width is None or _size(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(" " * indent + piece)
    return "\n".join(lines)


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 class", "1,000 classes"; the plural is `one` with an s if not given."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _parts(word: str, width: int) -> list[str]:
    """A word in pieces of at most `width` characters, broken after a slash, a comma, or one of = - _ where there is one."""
    parts = []
    while _size(word) > width:
        head = _take(word, width)
        at = next(
            (at for marks in ("/", ",", "=-_") if (at := max(map(head.rfind, marks)) + 1) > width // 3), len(head)
        )
        parts.append(word[:at])
        word = word[at:]
    return [*parts, word]


def _size(text: str) -> int:
    """Cells that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cells(c) for c in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _take(text: str, width: int) -> str:
    """The beginning of a text, in at most `width` cells."""
    taken = 0
    for i, character in enumerate(text):
        taken += _cells(character)
        if taken > width:
            return text[:i]
    return text


def _pad(text: str, width: int, left: bool) -> str:
    space = " " * (width - _size(text))
    return text + space if left else space + text

"""Parts of the page about a run that show single images and how sure a model is, from what an evaluation has written."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from convnext.errors import ConvNextError
from convnext.files import table_source
from convnext.report import page
from convnext.report.calibration import BINS, Calibration, draw_reliability

MOST = 1_400_000
"""Bytes of pictures of a file: base64 makes four thirds of them, there are two files, and a page stays below 5 MB."""


def examples(path: Path) -> list[str]:
    """A section for each that a file of `task.examples` has; none where there is no file.

    Raises:
        ConvNextError: the file holds something else.
    """
    if not path.is_file():
        return []
    try:
        rows = list(_rows(path))
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise ConvNextError(f"{path} cannot be read ({error}). Evaluate again, or remove it.") from None
    sections: dict[str, list[tuple[list[bytes], str]]] = {}
    left = MOST
    for title, words, shown in rows:
        left -= sum(map(len, shown))
        if left >= 0:
            sections.setdefault(title, []).append((shown, words))
    return [page.section(title, page.pictures(items)) for title, items in sections.items()]


def _rows(path: Path) -> Iterator[tuple[str, str, list[bytes]]]:
    with table_source(path) as source:
        found = pq.read_table(source)
    columns = [found[name].to_pylist() for name in ("section", "words", "pictures")]
    for title, words, shown in zip(*columns, strict=True):
        yield str(title), str(words), [bytes(each) for each in shown]


def calibration(evaluation: dict) -> str:
    """The reliability of the weights in use, the first; nothing where it was not counted.

    Raises:
        ValueError, TypeError, KeyError: the evaluation holds something else.
    """
    by_weights = evaluation.get("calibration") or {}
    which, values = next(iter(by_weights.items()), ("", None))
    if values is None:
        return ""
    found = Calibration.from_dict(values)
    words = (
        f"Expected calibration error {100 * found.error:.2f} % over {BINS} bins of {found.count.sum():,.0f} "
        f"{values.get('of', 'answers')} ({which} weights): mean confidence {100 * found.mean(found.confidence):.1f} %, right "
        f"{100 * found.mean(found.accuracy):.1f} %. Orange points are the mean confidence of a bin."
    )
    with tempfile.TemporaryDirectory() as scratch:
        drawn = draw_reliability(found, Path(scratch) / "reliability.png")
        return page.section("Calibration", page.paragraph(words), page.image(drawn, "reliability diagram", width=430))

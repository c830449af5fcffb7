"""The printed report of `convnext data check`: classes, sides, problems, and a drawn sample; the parts that tasks share."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from convnext.console import Out, print_table, table
from convnext.errors import ConvNextError

SHOWN = 12  # images in a drawn sample
MANY = 40  # classes of which only the largest and the smallest half are listed
BAR = 30  # characters of the longest bar


class Report(Protocol):
    """The part of a report that every task's has."""

    @property
    def errors(self) -> list[str]:
        """Problems that stop a training or falsify its result, a sentence each."""
        ...

    @property
    def warnings(self) -> list[str]:
        """Problems that a person should judge, a sentence each."""
        ...


def print_classes(classes: Sequence[str], counts: Sequence[Sequence[int]], titles: Sequence[str], unit: str, out: Out):
    """Classes by their number in train; the largest and the smallest twenty of many. counts: for each class, by part."""
    order = sorted(range(len(classes)), key=lambda k: -counts[k][0])
    shown = order if len(order) <= MANY else [*order[: MANY // 2], *order[-MANY // 2 :]]
    most = max((count[0] for count in counts), default=0) or 1
    rows = [
        (classes[k], *(f"{n:,}" for n in counts[k]), "█" * max(bool(counts[k][0]), round(BAR * counts[k][0] / most)))
        for k in shown
    ]
    if len(shown) < len(order):
        rows.insert(MANY // 2, ("..", *("" for _ in titles), f"{len(order) - len(shown)} more"))
    print_table(out, table((f"class ({unit})" if unit else "class", *titles, ""), rows))
    out.print()


def print_sides(report: Any, out: Out) -> None:
    """Smallest, median and largest sides of the images."""
    low, high = report.short_side, report.long_side
    if low and high:
        out.print(
            f"sides in px: shorter {low.min} to {low.max} (median {low.median:g}), longer {high.min} to {high.max} "
            f"(median {high.median:g})"
        )


def readable(images: Any) -> Iterator[tuple[int, Any]]:
    """The first images that can be read, with their positions."""
    from convnext.data.images import ImageError

    count = 0
    for i in range(len(images)):
        try:
            yield i, images.image(i)
        except ImageError:
            continue
        count += 1
        if count == SHOWN:
            return


def conclude(report: Report, label: str, draw: Callable[[], Path] | None, out: Out) -> int:
    """Draw the sample and print problems; the exit code: 1 if there are errors."""
    if draw:
        try:
            out.print(f"{label}: {draw()}")
        except ConvNextError as error:  # such as labels that cannot be used; the report names the cause
            out.print(f"No sample could be drawn: {error}", style="yellow")
    for text in report.errors:
        out.print(f"error: {text}", style="red")
    for text in report.warnings:
        out.print(f"warning: {text}", style="yellow")
    if not report.errors and not report.warnings:
        out.print("No problems found.")
    return 1 if report.errors else 0

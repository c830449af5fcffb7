"""Comparison of an exported file with the model it was made of, on the same images: how far apart, and where.

Legend: B images of a call, K classes, H W of a map of logits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from convnext.errors import ConvNextError

CALLS = (1, 3, 8)  # images of a call, in turn


@dataclass(frozen=True)
class Tolerance:
    """difference: the largest allowed between two logits, None for any; agreement: least share of equal top-1, percent."""

    difference: float | None
    agreement: float


class Compared(Protocol):
    """The part of a comparison that every task's has."""

    @property
    def agreement(self) -> float:
        """Percent of equal answers."""
        ...

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) at which was compared."""
        ...

    def failure(self, tolerance: Tolerance) -> str | None:
        """A sentence about the first thing beyond the tolerance; None if everything is within."""
        ...

    def rows(self, tolerance: Tolerance) -> list[tuple[str, str]]:
        """(label, text) rows for the terminal."""
        ...


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`.

    Attributes:
    images: number compared, `sizes` the sides (height, width) at which.
    difference: the largest between two logits; `relative` to the largest logit.
    agreement: percent of images (of pixels, for a segmenter; of images and classes, for several labels) with the same answer.
    worst: where the difference is largest, in words.
    disagree: names of the first images whose answer differs.
    answers: what is compared, in words.
    """

    images: int
    sizes: tuple[tuple[int, int], ...]
    difference: float
    relative: float
    agreement: float
    worst: str
    disagree: tuple[str, ...]
    answers: str = "top-1"

    def rows(self, tolerance: Tolerance) -> list[tuple[str, str]]:
        """(label, text) rows for the terminal."""
        allowed = "any" if tolerance.difference is None else f"{tolerance.difference:g}"
        apart = f"{self.difference:.2e} of the logits, {self.relative:.1e} of the largest"
        return [
            ("largest difference", f"{apart} ({allowed} allowed)"),
            (f"{self.answers} agreement", f"{self.agreement:.2f} % ({tolerance.agreement:g} % asked for)"),
        ]

    def failure(self, tolerance: Tolerance) -> str | None:
        """A sentence about the first thing beyond the tolerance; None if everything is within."""
        if tolerance.difference is not None and not self.difference <= tolerance.difference:
            return f"the largest difference is {self.difference:.2e}, more than {tolerance.difference:g}: {self.worst}"
        if not self.agreement >= tolerance.agreement:
            which = ", ".join(self.disagree)
            return (
                f"{self.answers} agree in {self.agreement:.2f} % and not in {tolerance.agreement:g} %; it differs in {which}"
                f". The largest difference is {self.difference:.2e}: {self.worst}"
            )
        return None


@torch.inference_mode()
def compare(
    model: nn.Module,
    exported: Callable[[Tensor], Tensor],
    names: Sequence[str],
    views: Sequence[Callable[[int], Tensor]],
    classes: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    answer: Callable[[Tensor], Tensor] = lambda logits: logits.argmax(1),
    answers: str = "top-1",
) -> Comparison:
    """Run both on every image of every view, in calls of 1, 3 and 8 images in turn.

    Args:
        model: images (B, 3, H, W) -> logits (B, K) or (B, K, H, W), in evaluation mode.
        exported: the same, as it will be used.
        names: of the images.
        views: for each size a function that makes image i a tensor (3, H, W) of that size.
        classes: names of the K.
        progress: receives (done, total) images after each call.
        answer: what people see of logits, (B, ..), which has to agree; `answers` names it.

    Raises:
        ConvNextError: the exported model's output has another shape.
    """
    worst, largest, where = 0.0, 0.0, "nowhere"
    same = positions = done = 0
    disagree: dict[str, None] = {}
    sizes: dict[tuple[int, int], None] = {}
    for view in views:
        for part in calls(len(names)):
            x = torch.stack([view(i) for i in part])
            sizes[x.shape[2], x.shape[3]] = None
            expected, got = model(x).float(), exported(x).float()
            if expected.shape != got.shape:
                raise ConvNextError(
                    f"The exported model answers {tuple(x.shape)} with {tuple(got.shape)}, and PyTorch with "
                    f"{tuple(expected.shape)}. This format cannot carry the model; use another."
                )
            apart = (expected - got).abs().nan_to_num(torch.inf)
            largest = max(largest, float(expected.abs().max()))
            if (most := float(apart.max())) > worst or where == "nowhere":
                worst = most
                where = _place(apart, expected, got, [names[i] for i in part], classes)
            hits = answer(expected) == answer(got)  # (B,), (B, K) or (B, H, W)
            same, positions = same + int(hits.sum()), positions + hits.numel()
            for i, hit in zip(part, hits.flatten(1).all(1) if hits.ndim > 1 else hits, strict=True):
                if not hit:
                    disagree[names[i]] = None
            done += len(part)
            progress(done, len(views) * len(names))
    agreement = 100 * same / positions
    first = tuple(disagree)[:5]
    return Comparison(len(names), tuple(sizes), worst, worst / max(largest, 1e-12), agreement, where, first, answers)


def calls(count: int) -> Iterator[list[int]]:
    """The indices 0..count-1, dealt out to calls of 1, 3 and 8 in turn."""
    start = turn = 0
    while start < count:
        stop = min(start + CALLS[turn % len(CALLS)], count)
        yield list(range(start, stop))
        start, turn = stop, turn + 1


def _place(apart: Tensor, expected: Tensor, got: Tensor, names: Sequence[str], classes: Sequence[str]) -> str:
    """The position of the largest difference, in words."""
    index = [int(i) for i in torch.unravel_index(apart.argmax(), apart.shape)]
    at = f" at row {index[2]}, column {index[3]}" if len(index) == 4 else ""
    here = tuple(index)
    return (
        f"{names[index[0]]}, class {classes[index[1]]}{at}: {float(expected[here]):.6g} in PyTorch, "
        f"{float(got[here]):.6g} in the file"
    )

"""The search for the parts of a network that int8 has to spare: shared by `deploy` and by exports."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from convnext.errors import ConvNextError

KEPT_AT_MOST = 0.5  # of the parts
T = TypeVar("T")
Outputs = Sequence[Tensor | dict[str, Tensor]]
"""What a network gives for one batch of images after the other."""


def spare(
    parts: int,
    build: Callable[[list[int]], tuple[T, float]],
    disturbances: Callable[[], Sequence[int]],
    goal: float,
    advice: str,
    say: Callable[[list[int], float], None] = lambda kept, reached: None,
) -> tuple[T, list[int]]:
    """The network whose agreement is at least `goal`, and the parts that it keeps in fp32, of `parts` in all.

    First with none; then with the one that disturbs the outputs most, the worst two, four, .. until the agreement is there.

    Args:
        build: the network that keeps these parts, and its agreement with the model in percent.
        disturbances: the parts, the one first that disturbs most; asked only if it is needed.
        advice: ends the message of the error.
        say: told of every attempt.

    Raises:
        ConvNextError: the goal is not reached with half of the parts in fp32.
    """
    kept: list[int] = []
    order: list[int] = []
    while True:
        network, reached = build(kept)
        say(kept, reached)
        if reached >= goal:
            return network, kept
        more = max(2 * len(kept), 1)
        if more > KEPT_AT_MOST * parts:
            raise ConvNextError(
                f"int8 agrees with fp32 in {reached:.2f} % of the comparison, with {len(kept)} of {parts} parts in fp32, and "
                f"not in {goal:g} %. {advice}"
            )
        order = order or list(disturbances())
        kept = order[:more]


def agreement(expected: Outputs, found: Outputs) -> float:
    """Percent of equal top-1 of logits (B,K); of feature maps the percent of their mean square that is the same."""
    if isinstance(expected[0], dict):
        return 100 * (1 - error(expected, found))
    hits = [(one.argmax(1) == other.argmax(1)).flatten() for one, other in _pairs(expected, found)]
    return 100 * float(torch.cat(hits).double().mean())


def error(expected: Outputs, found: Outputs) -> float:
    """The mean square error as a share of the outputs' own mean square; of several maps the mean of their shares."""
    shares = []
    for one, other in _pairs(expected, found):
        power = torch.linalg.vector_norm(one.double()).square().clamp(min=1e-30)
        shares.append(float(torch.linalg.vector_norm((other - one).double()).square() / power))
    return sum(shares) / len(shares)


def _pairs(expected: Outputs, found: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    for one, other in zip(expected, found, strict=True):
        if isinstance(one, dict) and isinstance(other, dict):
            yield from ((one[name], other[name]) for name in one)
        elif isinstance(one, Tensor) and isinstance(other, Tensor):
            yield one, other

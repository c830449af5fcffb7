"""Mean corruption error and its relatives (Hendrycks and Dietterich, 2019, section 4.1): arithmetic on tables of errors.

A table is {corruption: {severity: error in percent}}. A mean is over all that its definition names or it is refused.
"""

from collections.abc import Iterable, Mapping
from statistics import fmean

from convnext.data.corruptions import SEVERITIES
from convnext.errors import ConvNextError
from convnext.paper.table8 import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS

Errors = Mapping[str, Mapping[int, float]]


def missing(errors: Errors, corruptions: Iterable[str], severities: Iterable[int] = SEVERITIES) -> list[str]:
    """List the corruptions and severities that the table lacks: `frost`, or `snow 3` where only a severity is."""
    severities = list(severities)
    gaps = []
    for name in corruptions:
        there = errors.get(name, {})
        lacking = [severity for severity in severities if severity not in there]
        gaps += [name] if len(lacking) == len(severities) else [f"{name} {severity}" for severity in lacking]
    return gaps


def corruption_errors(
    errors: Errors, corruptions: Iterable[str], severities: Iterable[int] = SEVERITIES
) -> dict[str, float]:
    """The mean error over the severities, percent, of each corruption.

    Raises:
        ConvNextError: a corruption or severity is missing; the message names all that are.
    """
    corruptions, severities = list(corruptions), list(severities)
    if gaps := missing(errors, corruptions, severities):
        raise ConvNextError(
            f"The mean is over {len(corruptions)} corruptions at severities {', '.join(map(str, severities))}, and there "
            f"is no error for: {', '.join(gaps)}. Evaluate these too; a mean over fewer would be another number."
        )
    return {name: fmean(errors[name][severity] for severity in severities) for name in corruptions}


def mean_error(errors: Errors, corruptions: Iterable[str], severities: Iterable[int] = SEVERITIES) -> float:
    """The plain mean over corruptions and severities, percent: what Table 8 calls C-bar; raises as `corruption_errors`."""
    return fmean(corruption_errors(errors, corruptions, severities).values())


def mce(errors: Errors) -> float:
    """Mean corruption error on ImageNet-C, percent of AlexNet's: the mean over the 15 corruptions of error / AlexNet's
    error, each averaged over the severities first. Raises as `corruption_errors`."""
    means = corruption_errors(errors, ALEXNET_ERRORS)
    return fmean(100 * means[name] / alexnet for name, alexnet in ALEXNET_ERRORS.items())


def relative_mce(errors: Errors, clean_error: float) -> float:
    """As `mce`, of the increase over each model's own clean error (percent); raises as `corruption_errors`."""
    means = corruption_errors(errors, ALEXNET_ERRORS)
    return fmean(
        100 * (means[name] - clean_error) / (alexnet - ALEXNET_CLEAN_ERROR) for name, alexnet in ALEXNET_ERRORS.items()
    )

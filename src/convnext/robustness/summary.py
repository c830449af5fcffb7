"""From evaluated units to the numbers of a row of Table 8, and to those of generated corruptions, which have their own."""

from collections.abc import Iterable

from convnext.data.corruptions import IMAGENET_C_BAR
from convnext.errors import ConvNextError
from convnext.robustness.metrics import Errors, mce, mean_error, relative_mce
from convnext.robustness.units import Record

RELEASED_IMAGES = {
    "clean": 50_000,
    "imagenet-a": 7_500,
    "imagenet-r": 30_000,
    "imagenet-sketch": 50_889,
    "imagenet-c": 50_000,
    "imagenet-c-bar": 50_000,
}
"""Images in each released set, of the corrupted ones at each corruption and severity (the sets' own descriptions)."""


def summarise(records: Iterable[Record]) -> dict:
    """Means over the units of one model.

    Returns:
        A dict for JSON, with None for what was not evaluated or was refused:
        `clean`, `a`, `r`, `sketch` (top-1), `c` (mCE), `relative_c`, `c_bar` (mean error): released images, percent.
        `generated`: `clean_error`, `mean_error`, `increase` (of the mean over clean, in points), or None.
        `errors`: {set: {corruption: {severity: error}}}.
        `refused`: a sentence for each mean that cannot be given.
        `notes`: a sentence for each set that has not as many images as the released one.
    """
    records = list(records)
    whole = {record.set: record for record in records if record.corruption is None}
    errors: dict[str, dict[str, dict[int, float]]] = {}
    for record in records:
        if record.corruption is not None and record.severity is not None:
            errors.setdefault(record.set, {}).setdefault(record.corruption, {})[record.severity] = record.error
    refused: list[str] = []

    def mean_or_refuse(what: str, part: str, compute) -> float | None:
        if part not in errors:
            return None
        try:
            return compute(errors[part])
        except ConvNextError as error:
            refused.append(f"{what} {error}")
            return None

    def top1(part: str) -> float | None:
        return whole[part].top1 if part in whole else None

    c = mean_or_refuse("No mCE.", "imagenet-c", mce)
    generated = None
    if "generated" in whole:
        mean = mean_or_refuse("No mean of the generated corruptions.", "generated", _mean_of_all)
        clean = whole["generated"].error
        increase = None if mean is None else mean - clean
        generated = {"clean_error": clean, "mean_error": mean, "increase": increase}
    return {
        "clean": top1("clean"),
        "a": top1("imagenet-a"),
        "r": top1("imagenet-r"),
        "sketch": top1("imagenet-sketch"),
        "c": c,
        "relative_c": relative_mce(errors["imagenet-c"], whole["clean"].error)
        if c is not None and "clean" in whole
        else None,
        "c_bar": mean_or_refuse("No C-bar mean.", "imagenet-c-bar", lambda table: mean_error(table, IMAGENET_C_BAR)),
        "generated": generated,
        "errors": errors,
        "refused": refused,
        "notes": _notes(records),
    }


def _mean_of_all(errors: Errors) -> float:
    """Over all corruptions that were chosen, if each was evaluated at the same severities."""
    return mean_error(errors, errors, sorted({severity for table in errors.values() for severity in table}))


def _notes(records: list[Record]) -> list[str]:
    counts: dict[str, set[int]] = {}
    for record in records:
        if record.set in RELEASED_IMAGES and record.images != RELEASED_IMAGES[record.set]:
            counts.setdefault(record.set, set()).add(record.images)
    return [
        f"{part} has {' or '.join(f'{n:,}' for n in sorted(found))} images here and {RELEASED_IMAGES[part]:,} in the "
        "released set, so it does not compare with published numbers."
        for part, found in counts.items()
    ]

"""Counts of the live models and recipes for each row of the paper's tables: counts, settings, stages, blocks.

Everything is JSON: `{table: {row: {column: value}}}`, `settings`, `stages` and `blocks`. Nothing is computed, models are
built on the meta device; a few tens of seconds in all.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from convnext import paper, tasks
from convnext.benchmark.flops import Count, count_named, count_task
from convnext.benchmark.paper_blocks import blocks, stages
from convnext.benchmark.paper_peers import BACKBONES, MISSING, TIMM, count_timm
from convnext.benchmark.paper_settings import settings
from convnext.errors import ConvNextError

OURS = {printed: name for name, printed in paper.NAMES.items()}


SHARED = {12: "1", 9: "8", 11: "10"}
"""Tables whose rows are counted with another's."""


def gather(progress: Callable[[str], None] = lambda what: None, only: int | None = None) -> dict[str, Any]:
    """Count and describe what the tables need.

    Args:
        progress: told what comes next.
        only: the number of one table; all if None.
    """
    found: dict[str, Any] = {}
    for table, count in _COUNTED.items():
        if only is None or table == SHARED.get(only, str(only)):
            progress(f"Table {table}")
            found[table] = count()
    progress("Tables 5, 6 and 9, Figures 3 and 4")
    return found | {"settings": settings(), "stages": stages(), "blocks": blocks()}


@cache
def classifier(model: str, size: int) -> Count | None:
    """The classifier of this printed name, ours or timm's; None where no library has it."""
    if model in OURS:
        given = {"layer_scale_init_value": 0.0} if model in ("ConvNeXt-S (iso.)", "ConvNeXt-B (iso.)") else {}
        return count_named(OURS[model], size, **given)
    if model == "ResNet-50":
        return count_timm("resnet50", size)
    name = TIMM.get((model, size))
    return None if name is None else count_timm(name, size)


def _facts(count: Count | None) -> dict[str, int]:
    return {} if count is None else {"params": count.params, "macs": count.macs}


def _table1() -> dict:
    return {f"{row.model} {row.size}": _facts(classifier(row.model, row.size)) for row in paper.TABLE1}


def _table2() -> dict:
    return {row.model: _facts(classifier(row.model, 224)) for row in paper.TABLE2}


def _table8() -> dict:
    return {f"{r.model} {r.size}": _facts(classifier(r.model, r.size)) for r in paper.TABLE8 if r.model not in MISSING}


def _table3() -> dict:
    heads = {"mask": "mask_rcnn", "cascade": "cascade_mask_rcnn"}
    return {
        f"{row.method} {row.backbone}": _facts(dense(heads[row.method], row.backbone, 800, 1280))
        for row in paper.TABLE3
    }


def _table4() -> dict:
    return {
        f"{row.backbone} {row.crop}": _facts(dense("upernet", row.backbone, row.crop, 4 * row.crop))
        for row in paper.TABLE4
    }


@cache
def dense(heads: str, backbone: str, height: int, width: int) -> Count:
    """A detector or segmenter around one of our backbones, or around timm's."""
    name = f"{heads}_{OURS[backbone]}" if backbone in OURS else f"{heads}+timm:{BACKBONES[backbone]}"
    for spec in tasks.specs():
        try:
            return count_task(spec, name, height, width)
        except ConvNextError:
            continue  # of another task
    raise ConvNextError(f"No task builds {name}.")


def _roadmap() -> dict:
    found = {}
    for regime, told in paper.ROADMAPS.items():
        found |= {f"{regime} {step.key}": _facts(count_named(f"roadmap_{regime}_{step.key}")) for step in told.steps}
        found[f"{regime} swin"] = _facts(classifier(told.swin.name, 224))
    return found


_COUNTED: dict[str, Callable[[], dict]] = {
    "1": _table1, "2": _table2, "3": _table3, "4": _table4, "8": _table8, "10": _roadmap
}  # fmt: skip

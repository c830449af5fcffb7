"""The paper's tables as cells: what is printed, what the live models come to, what was measured, and whether it agrees."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convnext import paper
from convnext.errors import ConvNextError

Facts = Mapping[str, Any]
"""As `benchmark.paper_facts.gather` gives it."""
Measured = Mapping[tuple[str, str], str]
"""(row, column) -> text with its source, as `report.measured` reads it."""

UNEXPLAINED = "0.6 to 0.7 % above Swin's own count, for a reason that was not found"
OTHER_COUNT = "the paper takes it from the model's own paper or tool"
NOT_BUILT = "in no library that can be had"


@dataclass(frozen=True)
class Cell:
    """One value.

    Attributes:
        printed: as the paper prints it; empty where it prints nothing.
        counted: on the live model or recipe; empty where nothing counts it.
        equal: printed and counted agree after rounding; None where one of them is missing.
        measured: by us, with its source.
        why: the reason of a difference, or a remark.
    """

    printed: str = ""
    counted: str = ""
    equal: bool | None = None
    measured: str = ""
    why: str = ""


@dataclass
class Table:
    """A table of the paper: rows of a name and a cell for each column."""

    number: int
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)

    def cells(self) -> Iterable[tuple[str, str, Cell]]:
        """(row, column, cell) of every cell that has a value."""
        for name, cells in self.rows:
            for column, cell in zip(self.columns, cells, strict=True):
                if cell != Cell():
                    yield name, column, cell


def tables(facts: Facts, measured: Mapping[int, Measured] | None = None) -> list[Table]:
    """Tables 1 to 12 with the thesis' rows.

    Args:
        measured: by table.
    """
    measured = measured or {}
    return [build(facts, measured.get(number, {})) for number, build in _TABLES.items()]


def check_number(number: int) -> None:
    """Raises ConvNextError: the paper has no such table."""
    if number not in _TABLES:
        raise ConvNextError(f"The paper has no Table {number}; it has Tables 1 to {max(_TABLES)}.")


def table(number: int, facts: Facts, measured: Mapping[int, Measured] | None = None) -> Table:
    """One of `tables`; raises as `check_number`."""
    check_number(number)
    return _TABLES[number](facts, (measured or {}).get(number, {}))


# -- cells


def _plain(value: float | str | None, text: str = "{:g}") -> Cell:
    return Cell() if value is None else Cell(value if isinstance(value, str) else text.format(value))


def _counted(
    printed: float, live: float | None, digits: int, slack: float = 0.0, why: str = "", near: str = ""
) -> Cell:
    """A printed number beside the live one; equal after rounding, or within the share `slack` for the reason `near`."""
    shown = f"{printed:.{digits}f}"
    if live is None:
        return Cell(shown, why=why)
    if abs(live - printed) <= 0.5 * 10**-digits + 1e-9:
        return Cell(shown, f"{live:.{digits + 2}f}", True)
    if abs(live - printed) <= slack * printed:
        return Cell(shown, f"{live:.{digits + 1}f}", True, why=near)
    return Cell(shown, f"{live:.{digits + 2}f}", False, why=why)


def _params(facts: Mapping[str, int], printed: float, digits: int, why: str) -> Cell:
    return _counted(printed, facts["params"] / 1e6 if facts else None, digits, why=why if facts else NOT_BUILT)


def _gmacs(facts: Mapping[str, int], printed: float, digits: int, why: str, slack: float = 0.0, near: str = "") -> Cell:
    return _counted(
        printed, facts["macs"] / 1e9 if facts else None, digits, slack, why if facts else NOT_BUILT, near=near
    )


def _with(cell: Cell, measured: Measured, row: str, column: str) -> Cell:
    found = measured.get((row, column), "")
    return Cell(cell.printed, cell.counted, cell.equal, found, cell.why) if found else cell


def _filled(
    number: int, title: str, columns: Sequence[str], rows: Iterable[tuple[str, list[Cell]]], measured: Measured
):
    filled = [
        (name, [_with(cell, measured, name, column) for column, cell in zip(columns, cells, strict=True)])
        for name, cells in rows
    ]
    return Table(number, title, tuple(columns), filled)


# -- tables


def _why(row: Any) -> str:
    return row.note or ("" if row.model.startswith("ConvNeXt") else OTHER_COUNT)


def _thesis(row: Any) -> str:
    only = row.family in ("EfficientNetV2", "ViT (AugReg)")
    return f"{row.model} {row.size}" + (" (thesis)" if only else "")


def _table1(facts: Facts, measured: Measured) -> Table:
    rows = []
    for row in paper.TABLE1:
        found = facts["1"].get(f"{row.model} {row.size}", {})
        gmacs = _gmacs(found, row.gflops, 1, _why(row))
        thesis = row.model in ("ConvNeXt-T", "ConvNeXt-S") and row.top1_22k is not None
        pretrained = _plain(row.top1_22k, "{:.1f}")
        rows.append(
            (
                _thesis(row),
                [
                    _params(found, row.params_m, 0, _why(row)),
                    Cell(gmacs.printed, gmacs.counted, gmacs.equal, why=gmacs.why or row.note),
                    _plain(row.v100, "{:.1f}"),
                    _plain(row.top1_1k, "{:.1f}"),
                    Cell(pretrained.printed, why="thesis") if thesis else pretrained,
                ],
            )
        )
    columns = ("params M", "GFLOPs", "images/s, V100", "top-1, 1K", "top-1, 22K")
    return _filled(1, "Classification on ImageNet-1K", columns, rows, measured)


def _table2(facts: Facts, measured: Measured) -> Table:
    rows = [
        (
            row.model,
            [
                _params(facts["2"][row.model], row.params_m, 0, _why(row)),
                _gmacs(facts["2"][row.model], row.gflops, 1, _why(row)),
                _plain(row.v100, "{:.1f}"),
                _plain(row.training_gb, "{:.1f}"),
                Cell(f"{row.top1:.1f}", why=row.note),
            ],
        )
        for row in paper.TABLE2
    ]
    columns = ("params M", "GFLOPs", "images/s, V100", "training GB, 32 images", "top-1, 1K")
    return _filled(2, "Isotropic ConvNeXt and ViT", columns, rows, measured)


AP = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")
NEAR3 = "within 0.4 %: mmdet's tool counts norms and biases of the heads too"


def _table3(facts: Facts, measured: Measured) -> Table:
    rows = [
        (
            f"{row.method} {row.backbone} {row.pretrain}",
            [
                _gmacs(facts["3"].get(f"{row.method} {row.backbone}", {}), row.gflops, 0, UNEXPLAINED, 0.004, NEAR3),
                Cell(f"{row.fps:.1f}", why=row.note),
                *(Cell(f"{getattr(row, name):.1f}") for name in AP),
            ],
        )
        for row in paper.TABLE3
    ]
    columns = ("GFLOPs", "FPS, A100", *(name.replace("_", " ").replace("ap", "AP") for name in AP))
    return _filled(3, "COCO: Mask R-CNN and Cascade Mask R-CNN, 3x", columns, rows, measured)


NEAR4 = "within 0.2 %: mmseg's tool counts norms too"


def _table4(facts: Facts, measured: Measured) -> Table:
    rows = []
    for row in paper.TABLE4:
        found = facts["4"].get(f"{row.backbone} {row.crop}", {})
        gmacs = _gmacs(found, row.gflops, 0, UNEXPLAINED, 0.002, NEAR4)
        cells = [_plain(row.miou_multi_scale, "{:.1f}"), _params(found, row.params_m, 0, OTHER_COUNT), gmacs]
        rows.append((f"{row.backbone} {row.pretrain} {row.crop}", cells))
    return _filled(4, "ADE20K: UperNet, multi-scale", ("mIoU", "params M", "GFLOPs"), rows, measured)


def _settings(number: int, facts: Facts, measured: Measured) -> Table:
    told = {5: paper.TABLE5, 6: paper.TABLE6}[number]
    rows = []
    for row, live in zip(told.rows, facts["settings"][str(number)], strict=True):
        cells = [
            Cell(printed, ours, printed == ours, why=row.note if printed != ours else "")
            for printed, ours in zip(row.values, live, strict=True)
        ]
        rows.append((row.name + (" (thesis)" if row.thesis else ""), cells))
    return _filled(number, told.title, told.columns, rows, measured)


def _table7(facts: Facts, measured: Measured) -> Table:
    rows = [
        (f"{row.backbone} {row.pretrain} {row.crop}", [_plain(row.miou_single_scale, "{:.1f}")])
        for row in paper.TABLE4
        if row.miou_single_scale
    ]
    return _filled(7, "ADE20K: UperNet, single-scale", ("mIoU",), rows, measured)


def _table8(facts: Facts, measured: Measured) -> Table:
    rows = []
    for row in paper.TABLE8:
        found = facts["8"].get(f"{row.model} {row.size}", {})
        accuracies = (row.clean, row.c, row.c_bar, row.a, row.r, row.sketch)
        cells = [_gmacs(found, row.gflops, 1, OTHER_COUNT), _params(found, row.params_m, 1, OTHER_COUNT)]
        rows.append((f"{row.model} {row.pretrain} {row.size}", [*cells, *(_plain(a, "{:.1f}") for a in accuracies)]))
    columns = ("GFLOPs", "params M", "clean", "C (mCE)", "C-bar (error)", "A", "R", "Sketch")
    return _filled(8, "Robustness", columns, rows, measured)


def _table9(facts: Facts, measured: Measured) -> Table:
    rows = []
    for stage, live in zip(paper.STAGES, facts["stages"], strict=True):
        printed = {"resnet": stage.resnet, "convnext": stage.convnext, "swin": stage.swin}
        cells = [Cell(text, live[key], text == live[key]) for key, text in printed.items()]
        rows.append((f"{stage.name}, {stage.output}×{stage.output}", cells))
    columns = ("ResNet-50", "ConvNeXt-T", "Swin-T")
    totals = [(next(r for r in paper.TABLE9 if r.model == name), facts["8"][f"{name} 224"]) for name in columns]
    rows.append(("GFLOPs", [_gmacs(found, row.gflops, 1, OTHER_COUNT) for row, found in totals]))
    rows.append(("params M", [_params(found, row.params_m, 1, OTHER_COUNT) for row, found in totals]))
    return _filled(9, "Architectures: layers of each stage, from the live models", columns, rows, measured)


def _roadmap(number: int, facts: Facts, measured: Measured) -> Table:
    regime = {10: "resnet50", 11: "resnet200"}[number]
    told = paper.ROADMAPS[regime]
    found = facts["10"]
    rows = [
        (
            f"{told.plain.name}, plain recipe",
            [_plain(told.plain.top1, "{:.2f}"), *_total(told.plain, found, regime, "resnet")],
        )
    ]
    for step in told.steps:
        accuracy = f"{step.top1:.2f}" + (f" ± {step.std:.2f}" if step.std is not None else "")
        name = paper.STEPS[step.key] + (" (not adopted)" if step.key in paper.NOT_ADOPTED else "")
        rows.append((name, [Cell(accuracy), _gmacs(found[f"{regime} {step.key}"], step.gflops, 2, step.note)]))
    rows.append((told.swin.name, [_plain(told.swin.top1, "{:.2f}"), *_total(told.swin, found, regime, "swin")]))
    title = f"From ResNet to ConvNeXt: {told.name} regime"
    return _filled(number, title, ("top-1, 1K", "GFLOPs"), rows, measured)


def _total(row: Any, facts: Facts, regime: str, key: str) -> list[Cell]:
    return [_gmacs(facts[f"{regime} {key}"], row.gflops, 2, OTHER_COUNT)]


def _gain(row: Any) -> str:
    """How much faster than the Swin of this size and these images, as the paper adds it: ` (+47%)`."""
    swin = paper.lookup(paper.TABLE1, model=row.model.replace("ConvNeXt", "Swin"), size=row.size)
    return f" (+{100 * (row.a100 / swin.a100 - 1):.0f}%)" if swin and swin.a100 and "ConvNeXt" in row.model else ""


def _table12(facts: Facts, measured: Measured) -> Table:
    rows = []
    for row in paper.TABLE1:
        if row.a100 is None:
            continue
        found = facts["1"].get(f"{row.model} {row.size}", {})
        printed = 45.0 if (row.model, row.size) == ("ConvNeXt-B", 384) else row.gflops
        why = "counting gives the 45.1 of the 22K half of Table 1" if printed != row.gflops else _why(row)
        rows.append(
            (
                f"{row.model} {row.size}",
                [
                    _gmacs(found, printed, 1, why),
                    Cell(f"{row.a100:.1f}{_gain(row)}"),
                    _plain(row.top1_1k, "{:.1f}"),
                    _plain(row.top1_22k, "{:.1f}") if row.model[-1] in "BL" else Cell(),
                ],
            )
        )
    columns = ("GFLOPs", "images/s, A100", "top-1, 1K", "top-1, 22K")
    return _filled(12, "Throughput on an A100, TF32, channels-last", columns, rows, measured)


_TABLES = {
    1: _table1,
    2: _table2,
    3: _table3,
    4: _table4,
    5: lambda facts, measured: _settings(5, facts, measured),
    6: lambda facts, measured: _settings(6, facts, measured),
    7: _table7,
    8: _table8,
    9: _table9,
    10: lambda facts, measured: _roadmap(10, facts, measured),
    11: lambda facts, measured: _roadmap(11, facts, measured),
    12: _table12,
}

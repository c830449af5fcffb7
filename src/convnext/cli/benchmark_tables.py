"""The tables that `convnext benchmark` prints: a group of rows each, fastest first, and the paper's beside."""

from typing import Any

from convnext.console import Out, print_table, table

COLUMNS = (
    "model",
    "how",
    "img/s",
    "p20 .. p80",
    "ms",
    "ratio",
    "peak MB",
    "TFLOP/s",
    "of matmul",
    "of copy",
    "warm-up s",
)


def print_rows(rows: list[dict], arguments: Any, out: Out) -> None:
    """A table for each group, fastest first; the paper's table if asked for; what failed."""
    from convnext.benchmark.configs import Config
    from convnext.benchmark.tables import beside, detectors_of_paper

    groups: dict[str, list[dict]] = {}
    for row in rows:
        if "images_per_second" in row:
            groups.setdefault(Config(**row["config"]).group_label, []).append(row)
    for label, members in groups.items():
        members.sort(key=lambda row: -row["images_per_second"]["p50"])
        print_table(out, table(COLUMNS, [_cells(row) for row in members], label[:1].upper() + label[1:], left=2))
        out.print()
    if arguments.table is not None:
        title, columns, cells = beside(arguments.table, rows, arguments.model)
        print_table(out, table(columns, cells, title, left=2))
        out.print()
    if told := detectors_of_paper(rows):
        print_table(out, table(("model", "", "the paper"), told, left=2))
        out.print()
    for row in rows:
        config = Config(**row["config"])
        if row["error"]:
            out.print(f"{config.model}, {config.label} ({config.group_label}): {row['error']}", style="red")
        elif row["rounds"] < arguments.rounds:
            out.print(f"{config.model}, {config.label}: {row['rounds']} of {arguments.rounds} rounds.", style="yellow")
    if any(row.get("ratio_same_run") is False for row in rows):
        out.print("Some ratios compare rows of two runs; --fresh measures all of them in turn.", style="yellow")


def _cells(row: dict) -> tuple:
    from convnext.benchmark.configs import Config

    speed, config = row["images_per_second"], Config(**row["config"])
    first = row.get("compile_seconds", row.get("first_step_seconds", 0))
    return (
        config.model,
        config.label + (" (alone)" if row.get("alone") else ""),
        _number(speed["p50"]),
        f"{_number(speed['p20'])} .. {_number(speed['p80'])}",
        f"{row['milliseconds']['p50']:.2f}",
        f"{row['ratio']:.2f}" if "ratio" in row else "",
        f"{row['peak_memory_mb']:,.0f}" if "peak_memory_mb" in row else "",
        f"{row['tflops']:.3g}" if "tflops" in row else "",
        f"{100 * row['share_of_matmul']:.0f} %" if "share_of_matmul" in row else "",
        f"{100 * row['share_of_copy']:.0f} %" if "share_of_copy" in row else "",
        f"{row['build_seconds'] + first + row['warmup_seconds']:.1f}",
    )


def _number(images_per_second: float) -> str:
    return f"{images_per_second:,.0f}" if images_per_second >= 1000 else f"{images_per_second:.1f}"

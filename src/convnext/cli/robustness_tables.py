"""The tables of `convnext robustness`: as Table 8 of the paper, and by corruption."""

from convnext.console import print_table, table

COLUMNS = {
    "clean": "clean",
    "c": "C (mCE, less is better)",
    "relative_c": "relative mCE",
    "c_bar": "C-bar (error)",
    "a": "A",
    "r": "R",
    "sketch": "Sketch",
}


def print_report(tested: list[tuple], sources: dict[str, str], results, out, precision: str) -> int:
    """Print the tables, draw the figure; 1 if a mean was refused. `sources`: by model, which images were corrupted."""
    from convnext.report.robustness import TITLES, draw_robustness

    summaries = {name: results.summary(name) for name, _, _ in tested}
    rows = []
    for name, size, paper in tested:
        summary = summaries[name]
        if any(summary[field] is not None for field in COLUMNS) or summary["errors"].keys() - {"generated"}:
            rows.append((name, size, *(_number(summary[field]) for field in COLUMNS)))
            if paper:
                published = (_number(getattr(paper, field, None)) for field in COLUMNS)
                rows.append((f"  paper: {paper.model}, {paper.pretrain}", paper.size, *published))
    if rows:
        print_table(
            out,
            table(
                ("model", "px", *COLUMNS.values()), rows, f"As Table 8, in {precision}: top-1 in %, but for C and C-bar"
            ),
        )
        out.print()
    for part, title in TITLES.items():
        if any(part in summary["errors"] for summary in summaries.values()):
            print_table(out, _by_corruption(part, f"{title}, {precision}: mean error over severities, %", summaries))
            for name, words in sources.items() if part == "generated" else ():
                out.print(f"{name}: {words}")
            out.print()
    sentences = [sentence for summary in summaries.values() for sentence in (*summary["refused"], *summary["notes"])]
    for sentence in dict.fromkeys(sentences):
        out.print(f"{sentence}", style="yellow")
    written = [results.path]
    if any(summary["errors"] for summary in summaries.values()):
        written.append(draw_robustness(results.path, results.path.with_suffix(".png"), list(summaries)))
    out.print(f"Written: {', '.join(map(str, written))}")
    return 1 if any(summary["refused"] for summary in summaries.values()) else 0


def _by_corruption(part: str, title: str, summaries: dict[str, dict]):
    """A row per corruption and a column per model; of the released sets, nothing where a severity is missing."""
    from statistics import fmean

    from convnext.data.corruptions import SEVERITIES

    tables = {name: summary["errors"].get(part, {}) for name, summary in summaries.items()}
    corruptions = dict.fromkeys(corruption for errors in tables.values() for corruption in errors)

    def mean(errors: dict[int, float]) -> float | None:
        whole = errors and (part == "generated" or len(errors) == len(SEVERITIES))
        return fmean(errors.values()) if whole else None

    rows = [(name, *(_number(mean(errors.get(name, {}))) for errors in tables.values())) for name in corruptions]
    if part == "generated":
        labels = {"clean_error": "clean images", "mean_error": "mean of all", "increase": "above clean, points"}
        generated = [summary["generated"] or {} for summary in summaries.values()]
        rows += [(label, *(_number(values.get(field)) for values in generated)) for field, label in labels.items()]
    return table(("corruption", *tables), rows, title)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

"""The tables of docs/small-data.md, for `benchmarks/tables.py`."""

from pathlib import Path
from statistics import mean

from convnext.report.table import markdown


def about(result: dict, part: str) -> str:
    """The words above a table."""
    cells = [cell for rows in result["parts"][part].values() for cell in rows.values()]
    seen = {round(cell["images_seen"], -3) for cell in cells}
    return (
        f"{result['what']}; about {min(seen):,} images seen by each; {result['device']}, torch {result['versions']['torch']} "
        f"(`benchmarks/small_data.py`, `results/{Path(result['file']).name}`)."
    )


def accuracy(rows: dict, metric: str) -> tuple[str, float]:
    """One figure for each seed, and their mean."""
    figures = [rows[seed][metric] for seed in sorted(rows)]
    return " ".join(f"{figure:.1f}" for figure in figures), round(mean(figures), 1)


def speeds(result: dict) -> dict[str, float]:
    """Images per second by name, where they were measured."""
    cells = {name: next(iter(rows.values())) for name, rows in result["parts"].get("speed", {}).items()}
    return {name: cell["images_seen"] / cell["seconds"] for name, cell in cells.items()}


def small_data_slice(result: dict) -> str:
    """100 images of each class: every setting and every rival."""
    fast = speeds(result)
    table = [
        (name, *accuracy(rows, "top1"), round(fast[name]) if name in fast else None)
        for name, rows in result["parts"]["slice"].items()
    ]
    heads = ("100 images a class", "top-1 %", "mean", "images/s")
    return f"{about(result, 'slice')}\n\n{markdown(table, heads)}"


def small_data_long_tail(result: dict) -> str:
    """Classes from 5,000 down to 50 images."""
    table = [
        (f"`{name}`" if name.startswith("-") else name, *accuracy(rows, "balanced"), *accuracy(rows, "top1"))
        for name, rows in result["parts"]["long-tail"].items()
    ]
    heads = ("5,000 down to 50 images a class", "macro %", "mean", "top-1 %", "mean")
    return f"{about(result, 'long-tail')}\n\n{markdown(table, heads)}"


def small_data_whole(result: dict) -> str:
    """All images for some minutes."""
    table = [
        (f"`{name}`", rows[seed]["epochs"], round(rows[seed]["seconds"] / 60, 1), round(rows[seed]["top1"], 1))
        for name, rows in result["parts"]["whole"].items()
        for seed in sorted(rows)
    ]
    return f"{about(result, 'whole')}\n\n{markdown(table, ('50,000 images', 'epochs', 'minutes', 'top-1 %'))}"


TABLES = {
    "small_data_slice": small_data_slice,
    "small_data_long_tail": small_data_long_tail,
    "small_data_whole": small_data_whole,
}

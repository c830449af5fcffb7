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


def small_data_minutes(result: dict) -> str:
    """The same minutes, at the speed that each had alone on the machine."""
    fast = speeds(result)
    table = [
        (name, round(fast[name]), f"{rows['0']['images_seen']:,}", *accuracy(rows, "top1"))
        for name, rows in result["parts"]["minutes"].items()
    ]
    minutes = mean(cell["images_seen"] / fast[name] for name, cell in first_cells(result, "minutes")) / 60
    heads = ("100 images a class", "images/s", "images seen", "top-1 %", "mean")
    words = about(result, "minutes").replace(
        "; about ", f"; about {minutes:.0f} minutes of training for each, at least "
    )
    return f"{words.replace(' images seen by each', ' images')}\n\n{markdown(table, heads)}"


def first_cells(result: dict, part: str) -> list[tuple[str, dict]]:
    return [(name, rows["0"]) for name, rows in result["parts"][part].items()]


def small_finetune(result: dict) -> str:
    """Fine-tuning from the other half of the classes."""
    cells = [cell for rows in result["rows"].values() for cell in rows.values()]
    table = [
        (name, *accuracy(rows, "top1"), round(min(rows[seed]["seconds"] for seed in rows)))
        for name, rows in result["rows"].items()
    ]
    seen, first = min(round(cell["images_seen"], -3) for cell in cells), result["first"]
    return (
        f"{result['what']}; about {seen:,} images seen by each; the first training had {first['epochs']} epochs and reached "
        f"{first['top1']:.1f} % on its own five classes; {result['device']}, torch {result['versions']['torch']} "
        f"(`benchmarks/small_finetune.py`, `results/{Path(result['file']).name}`).\n\n"
        f"{markdown(table, ('100 images of each of five classes', 'top-1 %', 'mean', 'seconds'))}"
    )


TABLES = {
    "small_data_slice": small_data_slice,
    "small_data_minutes": small_data_minutes,
    "small_finetune": small_finetune,
    "small_data_long_tail": small_data_long_tail,
    "small_data_whole": small_data_whole,
}

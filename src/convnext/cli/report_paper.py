"""`convnext report paper` and `report table`: every table and figure of the paper beside what is counted and measured here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from convnext.console import stderr, stdout


@dataclass(frozen=True)
class Paper:
    out: Path = Path("paper")
    """Folder for paper.md, paper.csv, index.html and the figures."""
    results: Path | None = None
    """Folder with JSON files of measurements, such as `results/` of a clone; none if not given."""
    runs: tuple[Path, ...] = ()
    """Folders of runs of the paper's recipes: their accuracies stand in the tables."""

    def draw(self) -> Path:
        from convnext.report.block_figures import draw_blocks
        from convnext.report.figure1 import draw_figure1
        from convnext.report.figure1_paper import draw_figure1_paper
        from convnext.report.paper_pages import to_csv, to_html, to_markdown
        from convnext.report.paper_tables import tables
        from convnext.report.roadmap import draw_roadmap

        measured = _measured(self)
        facts = _facts()
        roadmaps = [run for run in self.runs if _is_roadmap(run)]
        titles = {
            "figure1.png": "Figure 1, as in the paper: accuracy and GFLOPs of the families",
            "figure1_macs.png": "Figure 1, ours: accuracy against GFLOPs",
            "figure2.png": "Figure 2: from ResNet to ConvNeXt",
            "figure3.png": "Figure 3: block modifications, from the live modules",
            "figure4.png": "Figure 4: block designs, from the live modules",
        }
        draw_figure1_paper(self.out / "figure1.png")
        draw_figure1(self.out / "figure1_macs.png")
        draw_roadmap(self.out / "figure2.png", roadmaps)
        for number in ("3", "4"):
            file = f"figure{number}.png"
            draw_blocks(facts["blocks"][number], self.out / file, titles[file])
        found = tables(facts, measured)
        pages = {
            "paper.md": "# Every table of the paper\n\n" + to_markdown(found),
            "paper.csv": to_csv(found),
            "index.html": to_html(found, [(title, file) for file, title in titles.items()]),
        }
        from convnext.files import replace_text

        for name, text in pages.items():
            replace_text(self.out / name, text)
        return self.out / "index.html"


@dataclass(frozen=True)
class OneTable:
    number: tyro.conf.Positional[int]
    """1 to 12."""
    results: Path | None = None
    """Folder with JSON files of measurements, such as `results/` of a clone; none if not given."""
    runs: tuple[Path, ...] = ()
    """Folders of runs of the paper's recipes: their accuracies stand in the table."""

    def draw(self) -> None:
        from convnext.console import print_table, table
        from convnext.report.paper_pages import LEGEND, as_text, reasons
        from convnext.report.paper_tables import check_number
        from convnext.report.paper_tables import table as of_paper

        check_number(self.number)
        found = of_paper(self.number, _facts(self.number), _measured(self))
        rows = [(name, *map(as_text, cells)) for name, cells in found.rows]
        out = stdout()
        print_table(out, table(("", *found.columns), rows, f"Table {found.number}: {found.title}", left=1))
        for sentence in (*reasons(found), LEGEND):
            out.print(sentence)


def _measured(asked: Any) -> dict:
    from convnext.report.measured import measured

    return measured(asked.results, asked.runs)


def _is_roadmap(run: Path) -> bool:
    from convnext.report.metrics import read_config

    return str(read_config(run).get("name")).startswith("roadmap/")


def _facts(number: int | None = None) -> dict:
    """Counts of the live models, with a bar: those of one table, or all."""
    from convnext.benchmark.paper_facts import gather
    from convnext.console import bar_of

    err = stderr()
    with bar_of("counting the live models", err, err.is_terminal) as (bar, whole):
        return gather(lambda what: bar.update(whole, description=f"counting: {what}"), number)

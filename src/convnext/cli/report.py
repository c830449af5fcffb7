"""`convnext report ...`: figures from files alone; no torch, no GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from convnext.cli.parsing import parse
from convnext.cli.report_paper import OneTable, Paper
from convnext.console import stdout
from convnext.errors import ConvNextError, nearest

HELP = """usage: convnext report FIGURE ... [--out FILE]

  convnext report curves RUN                   redraw a run's curves.png
  convnext report run RUN                      one page about a run, RUN/report.html: what it was trained on, result, curves,
                                               calibration, single images, classes, timing, settings; evaluate it first
  convnext report figure1 [--x macs|params|throughput]
                                               the paper's Figure 1: accuracy of all families
  convnext report roadmap [RUNS...]            the paper's Figure 2, your runs of roadmap/... recipes beside it
  convnext report paper [--out DIR]            every table and figure of the paper: printed, counted here, measured
  convnext report table NUMBER                 one table, 1 to 12
"""


@dataclass(frozen=True)
class Curves:
    run: tyro.conf.Positional[Path]
    """A run's folder; curves.png is written into it."""

    def draw(self) -> Path:
        from convnext.report.curves import draw_curves

        return draw_curves(self.run)


@dataclass(frozen=True)
class OneRun:
    run: tyro.conf.Positional[Path]
    """A run's folder."""
    out: Path | None = None
    """The page; RUN/report.html if not given."""

    def draw(self) -> Path:
        from convnext import recipes
        from convnext.recipes.diff import difference, from_paper
        from convnext.report.run import write_report
        from convnext.runtime.run_folder import is_run, read_config

        if not is_run(self.run):
            raise ConvNextError(f"{self.run} holds no run. Give the folder of one, such as `convnext train` writes.")
        name, recipe = read_config(self.run)
        known = recipes.recipes()
        differences = difference(known[name], recipe) if name in known else None
        return write_report(self.run, differences, self.out, from_paper(name, recipe, known))


@dataclass(frozen=True)
class Figure1:
    x: Literal["macs", "params", "throughput"] = "macs"
    """The cost that accuracy is drawn against."""
    out: Path = Path("figure1.png")

    def draw(self) -> Path:
        from convnext.report.figure1 import draw_figure1

        return draw_figure1(self.out, x=self.x)


@dataclass(frozen=True)
class Roadmap:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs of roadmap/... recipes; several seeds of a step give a mean and a deviation."""
    out: Path = Path("roadmap.png")

    def draw(self) -> Path:
        from convnext.report.roadmap import draw_roadmap

        return draw_roadmap(self.out, self.runs)


FIGURES = {"curves": Curves, "run": OneRun, "figure1": Figure1, "roadmap": Roadmap, "paper": Paper, "table": OneTable}


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    name, rest = argv[0], argv[1:]
    if name not in FIGURES:
        raise ConvNextError(f"There is no report {name!r}.{nearest(name, FIGURES)} Reports: {', '.join(FIGURES)}.")
    figure = parse(FIGURES[name], rest, f"report {name}", HELP)
    if (written := figure.draw()) is not None:
        stdout().print(f"Written: {written}")
    return 0

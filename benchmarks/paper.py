"""Write docs/paper.md and the counts that it stands on: `python benchmarks/paper.py`; a test checks that both are current.

The counts go into results/paper_facts.json: with them the page is made without torch. Measured cells come from results/.
"""

import json
from pathlib import Path

from convnext.benchmark.paper_facts import gather
from convnext.report.measured import measured
from convnext.report.paper_pages import to_markdown
from convnext.report.paper_tables import tables

ROOT = Path(__file__).parents[1]
FACTS, PAGE = ROOT / "results" / "paper_facts.json", ROOT / "docs" / "paper.md"
HEAD = """# Every table of the paper

Made by `python benchmarks/paper.py`; `convnext report paper --out DIR --results results` writes the same with the figures, as a
page, as Markdown and as CSV, and `--runs` adds your own runs of the recipes. What differs from the reference's code is in
[fidelity.md](fidelity.md).

"""


def page(facts: dict) -> str:
    """docs/paper.md from these counts and the files in results/."""
    return HEAD + to_markdown(tables(facts, measured(ROOT / "results")))


def main() -> None:
    facts = gather(print)
    FACTS.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(facts))


if __name__ == "__main__":
    main()

"""The paper's tables: every cell is there, docs/paper.md is current, differences have reasons, and runs stand beside."""

import csv
import io
import json
import runpy
from pathlib import Path

import pytest

from convnext import paper
from convnext.errors import ConvNextError
from convnext.report.block_figures import draw_blocks
from convnext.report.figure1_paper import draw_figure1_paper, families
from convnext.report.measured import measured
from convnext.report.paper_pages import as_text, to_csv, to_html, to_markdown
from convnext.report.paper_tables import Cell, table, tables

ROOT = Path(__file__).parents[2]
FACTS = json.loads((ROOT / "results" / "paper_facts.json").read_text())


def test_the_page_of_the_docs_is_what_the_command_writes():
    page = runpy.run_path(str(ROOT / "benchmarks" / "paper.py"))["page"]
    assert (ROOT / "docs" / "paper.md").read_text() == page(FACTS), "run python benchmarks/paper.py"


@pytest.mark.slow
def test_the_counts_are_those_of_the_live_models():
    from convnext.benchmark.paper_facts import gather

    assert gather() == FACTS


def test_every_table_has_every_row_and_value():
    found = {each.number: each for each in tables(FACTS)}
    assert list(found) == list(range(1, 13))
    rows = {number: len(each.rows) for number, each in found.items()}
    assert rows == {1: 34, 2: 6, 3: 16, 4: 11, 5: 22, 6: 21, 7: 6, 8: 10, 9: 7, 10: 18, 11: 18, 12: 14}
    assert len(list(found[3].cells())) == 16 * 8
    row = dict(found[3].rows)["cascade ConvNeXt-XL 22k"]
    assert [cell.printed for cell in row] == ["1898", "8.6", "55.2", "74.2", "59.9", "47.7", "71.6", "52.2"]
    for number in (5, 6):
        assert [name for name, cells in found[number].rows if any(c.equal is False for c in cells)] == (
            ["weight init (thesis)"] if number == 5 else []
        )
    gains = [cells[1].printed.partition(" ")[2] for name, cells in found[12].rows if "ConvNeXt" in name]
    assert gains == ["(+47%)", "(+49%)", "(+46%)", "(+39%)", "(+40%)", "(+34%)", "", ""]
    assert all(cell.equal for _, cells in found[9].rows for cell in cells)


def test_a_difference_has_a_reason_and_ours_are_few():
    differing = [(t.number, row, cell) for t in tables(FACTS) for row, _, cell in t.cells() if cell.equal is False]
    assert all(cell.why for *_, cell in differing)
    ours = {(number, row) for number, row, _ in differing if number not in (5, 6) and "ConvNeXt" in row}
    assert ours == {(12, "ConvNeXt-B 384")}
    assert {row for number, row, _ in differing if number == 10} == {"BN → LN", "separate downsampling", "Swin-T"}


def test_a_wrong_table_is_named():
    with pytest.raises(ConvNextError, match="no Table 13"):
        table(13, FACTS)


def test_the_writers_agree(tmp_path):
    found = [table(10, FACTS, {10: {("depthwise conv", "top-1, 1K"): "70.00 (run a)"}})]
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    line = next(each for each in lines if each["row"] == "BN → LN" and each["column"] == "GFLOPs")
    assert (line["printed"], line["counted"], line["equal"]) == ("4.46", "4.1456", "no")
    assert "shifted one row" in line["why"]
    markdown = to_markdown(found)
    assert "4.46 ≠ 4.1456" in markdown
    assert "78.28 ± 0.08; here: 70.00 (run a)" in markdown
    page = to_html(found, [("Figure <1>", "a.png")])
    assert "Figure &lt;1&gt;" in page
    assert "class='other'" in page
    assert as_text(Cell("1", "1.00", True)) == "1 ="


def test_runs_of_the_recipes_stand_in_their_cells(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"name": "roadmap/resnet50-kernel-9"}))
    (run / "metrics.jsonl").write_text(json.dumps({"kind": "eval", "step": 4, "raw/top1": 61.25}) + "\n")
    place = ("kernel size → 9 (not adopted)", "top-1, 1K")
    assert measured(None, [run]) == {10: {place: "61.25 (run run)"}}
    assert dict(table(10, FACTS, measured(None, [run])).rows)[place[0]][0].measured
    (run / "config.json").write_text(json.dumps({"name": "quickstart"}))
    with pytest.raises(ConvNextError, match="no setting of the paper"):
        measured(None, [run])


def test_speeds_come_from_result_files_and_damaged_files_are_passed_over(tmp_path):
    config = {"model": "convnext_tiny", "mode": "inference", "precision": "fp32", "batch": 8, "image_size": 224}
    rows = [{"config": config, "images_per_second": {"p50": speed}, "device": "a CPU"} for speed in (3.0, 5.0)]
    (tmp_path / "a.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "b.json").write_text("{")
    found = measured(tmp_path)
    assert found[1]["ConvNeXt-T 224", "images/s, V100"] == "5.0 (a CPU, fp32, batch 8)"
    assert found[12]["ConvNeXt-T 224", "images/s, A100"] == "5.0 (a CPU, fp32, batch 8)"


def test_figures_are_drawn_from_the_facts(tmp_path):
    assert FACTS["blocks"]["4"]["ConvNeXt block"] == ["d7×7, 96", "LN", "1×1, 384", "GELU", "1×1, 96", "+"]
    assert draw_blocks(FACTS["blocks"]["4"], tmp_path / "4.png", "block designs").stat().st_size > 10_000
    half = families("22k", 384, ("ViT", "Swin", "ConvNeXt"))
    assert [bubble.name for bubble in half["ConvNeXt"]] == ["T", "S", "B", "L", "XL"]
    assert {bubble.name: bubble.top1 for bubble in half["Swin"]} == {"B": 86.4, "L": 87.3}
    assert draw_figure1_paper(tmp_path / "1.png").stat().st_size > 10_000


def test_the_settings_of_the_paper_name_recipes():
    from convnext import recipes

    known = recipes.recipes()
    for settings in (paper.TABLE5, paper.TABLE6):
        for names in (*settings.recipes, *settings.thesis_recipes):
            assert set(names) <= set(known)


def test_the_speed_in_int8_is_not_taken_for_one_in_fp32(tmp_path):
    def row(speed: float, runtime: str) -> dict:
        config = {"model": "convnext_tiny", "mode": "inference", "batch": 8, "image_size": 224, "precision": "fp32"}
        return {"config": config | {"runtime": runtime}, "device": "a CPU", "images_per_second": {"p50": speed}}

    (tmp_path / "a.json").write_text(json.dumps({"rows": [row(50.0, "convnext-int8"), row(20.0, "torch")]}))
    assert {text.split()[0] for cells in measured(tmp_path).values() for text in cells.values()} == {"20.0"}

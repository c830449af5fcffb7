"""Markdown tables."""

import pytest

from convnext.report.table import markdown


def test_numbers_align_right_and_missing_ones_are_dashes():
    assert markdown([("ConvNeXt-T", 82.1), ("R-101x3", None)], ["model", "top-1"]).splitlines() == [
        "| model      | top-1 |",
        "| ---------- | ----: |",
        "| ConvNeXt-T |  82.1 |",
        "| R-101x3    |     - |",
    ]


def test_a_cell_cannot_break_the_table():
    assert markdown([("a|b\nc",)], ["x"]).splitlines()[2] == "| a\\|b c |"


def test_without_rows_the_header_remains():
    assert markdown([], ["a", "b"]).splitlines() == ["| a   | b   |", "| --- | --- |"]


def test_a_row_of_another_length_is_a_mistake():
    with pytest.raises((ValueError, IndexError)):
        markdown([(1,)], ["a", "b"])

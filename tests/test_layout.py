"""Tables in a width: folded at spaces, shortened with a mark, columns left out and named; never cut without a word."""

import pytest

from convnext.layout import Table, counted, hanging, shortened

NUMBERS = ("12,345,678", "0.00012", "100 %", "3.14")


def drawn(table: Table, width: int | None = None) -> list[str]:
    head, body, note = table.lines(width)
    return [*head, *body, *([note] if note else [])]


def test_at_its_own_width_it_is_plain():
    table = Table(("name", "n"), [("a", 1), ("long name", 22)], "title")
    assert str(table) == "title\nname        n\na           1\nlong name  22"


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_longer_and_no_number_is_broken(width):
    rows = [("a sentence of several words that goes on and on, as sources of recipes do", *NUMBERS)] * 2
    table = Table(("source", "params", "lr", "share", "AP"), rows, spare=("share",))
    lines = drawn(table, width)
    assert max(map(len, lines)) <= width
    *shown, note = lines if "Not shown" in lines[-1] else (*lines, "")
    words = {word for line in shown for word in line.split()}
    for column, number in zip(table.columns[1:], NUMBERS, strict=True):
        assert (number.split()[0] in words) != (column in note), "a number is whole, or its column is named as left out"
    assert {"sentence", "recipes"} <= words


def test_the_column_of_least_value_goes_first_and_is_named():
    table = Table(("name", "model", "length"), [("n" * 30, "m" * 30, "20 epochs")], left=2, spare=("model",))
    assert drawn(table, 60) == [f"{'name':30}     length", f"{'n' * 30}  20 epochs", "Not shown at 60 columns: model."]
    assert "m" * 30 in drawn(table, 80)[1]


def test_a_path_is_shortened_in_its_middle_and_its_end_is_whole():
    table = Table(("image", "answer", ""), [("/home/someone/" + "pictures/" * 12 + "17.jpg", "cat", "99.9 %")], left=2)
    (line,) = table.lines(80)[1]
    assert len(line) <= 80
    assert line.startswith("/home")
    assert "…" in line
    assert "17.jpg" in line
    assert line.endswith("99.9 %")


def test_a_long_value_of_the_last_column_can_still_be_copied():
    path = "/data/" + "folder_of_runs/" * 10 + "run"
    body = Table(("", ""), [("folder", path)], left=2).lines(60)[1]
    assert all(len(line) <= 60 for line in body)
    assert "".join(line[8:] for line in body) == path
    assert all(line.endswith("/") for line in body[:-1])


def test_wide_characters_count_twice():
    lines = drawn(Table(("class", "n"), [("日本語の長い名前です", 7), ("cat", 12)]), 16)
    assert [sum(2 if ord(c) > 0x2E80 else 1 for c in line) for line in lines[1:]] == [16, 16]


def test_shortened_and_hanging():
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert len(shortened("abcdefghijk", 10)) == 10
    assert hanging("eval", ["a 1", "b 2", "c 3"], 12, indent=2) == "eval  a 1\n  b 2  c 3"
    assert hanging("eval", ["a 1", "b 2"], None) == "eval  a 1  b 2"


def test_one_of_a_kind_is_singular():
    assert counted(1, "class", "classes") == "1 class"
    assert counted(0, "image") == "0 images"
    assert counted(21841, "class", "classes") == "21,841 classes"

"""Images are found by ending; the names of results are unique, also where case does not count."""

import pytest
from PIL import Image

from convnext.data.find import find_images, output_stems


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "x/a.jpg", "a.png"], ["a", "a-2", "a-3"]),
        (["a.jpg", "a.png", "a-2.jpg"], ["a", "a-3", "a-2"]),
        (["a-2.jpg", "a.jpg", "a.png"], ["a-2", "a", "a-3"]),
        (["a.jpg", "A.jpg", "A-2.jpg", "a-3.png"], ["a", "A-4", "A-2", "a-3"]),
        (["a-2.jpg", "a-2.png", "a.jpg", "a.png"], ["a-2", "a-2-2", "a", "a-3"]),
    ],
)
def test_names_of_results(files, stems):
    assert output_stems(files) == stems


@pytest.mark.parametrize(
    ("files", "stems"),
    [
        (["a.jpg", "a.colours.jpg"], ["a", "a.colours-2"]),
        (["a.colours.jpg", "a.jpg"], ["a.colours", "a-2"]),
        (["A.jpg", "a.Colours.png", "b.jpg"], ["A", "a.Colours-2", "b"]),
        (["a.jpg", "a.overlay.jpg"], ["a", "a.overlay"]),  # a.overlay.jpg beside a.overlay.png
        (["a.jpg", "a.colours.jpg", "a.colours-2.jpg"], ["a", "a.colours-3", "a.colours-2"]),
    ],
)
def test_no_result_has_the_name_of_another_kind_of_result(files, stems):
    assert output_stems(files, (".png", ".colours.png", ".overlay.jpg")) == stems


def test_names_of_many_equal_names_are_found_at_once():
    files = [f"{number}/a.jpg" for number in range(20_000)]
    assert len(set(output_stems(files, (".png", ".colours.png")))) == len(files)


def test_names_of_results_are_unique():
    files = [f"{folder}/{stem}.jpg" for folder in "pq" for stem in ("a", "A", "a-2", "a-2-2", "A-3", "a-3-2", "b")]
    assert len({stem.casefold() for stem in output_stems(files)}) == len(files)


def test_all_endings_of_the_formats_are_found(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpf", "JPEG2000")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.avifs", "AVIF")
    assert len(find_images([str(tmp_path)])) == 2

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


def test_names_of_results_are_unique():
    files = [f"{folder}/{stem}.jpg" for folder in "pq" for stem in ("a", "A", "a-2", "a-2-2", "A-3", "a-3-2", "b")]
    assert len({stem.casefold() for stem in output_stems(files)}) == len(files)


def test_all_endings_of_the_formats_are_found(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpf", "JPEG2000")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.avifs", "AVIF")
    assert len(find_images([str(tmp_path)])) == 2

"""The paper's tables as configurations, and what was measured beside them."""

from itertools import pairwise

import pytest

from convnext.benchmark import tables
from convnext.benchmark.configs import Choices, Config
from convnext.errors import ConvNextError

SWIN = "timm:swin_tiny_patch4_window7_224"


def never(name):
    return False


def test_table_12_has_its_models_at_its_sizes():
    found = {(c.model, c.image_size) for c in tables.configs(12, Choices(), "cpu", never)}
    assert len(found) == 6 + 8  # Swin T S B L and B L at 384; ConvNeXt T S B L XL and B L XL at 384
    assert {("convnext_xlarge", 384), (SWIN, 224), ("timm:swin_base_patch4_window12_384", 384)} <= found
    assert ("convnext_tiny", 384) not in found  # Table 1 has it, Table 12 does not
    assert ("convnext_tiny", 384) in {(c.model, c.image_size) for c in tables.configs(1, Choices(), "cpu", never)}


def test_arithmetic_of_table_12_is_the_papers_on_a_gpu():
    assert {c.precision for c in tables.configs(12, Choices(), "cuda", never)} == {"tf32"}
    assert {c.precision for c in tables.configs(1, Choices(), "cuda", never)} == {"bf16"}
    assert {c.precision for c in tables.configs(12, Choices(precisions=("fp16",)), "cuda", never)} == {"fp16"}


def test_table_2_measures_speed_and_training_memory():
    configs = tables.configs(2, Choices(layouts=("nchw",)), "cpu", never)
    assert {(c.mode, c.batch) for c in configs} == {("inference", 1), ("train", 32)}
    assert {c.model for c in configs} == {
        *(f"convnext_isotropic_{size}" for size in ("small", "base", "large")),
        *(f"timm:vit_{size}_patch16_224" for size in ("small", "base", "large")),
    }


def test_only_some_models_with_their_rivals():
    assert [line.name for line in tables.lines(12, ["convnext_tiny"])] == [SWIN, "convnext_tiny"]
    assert [line.name for line in tables.lines(2, ["convnext_isotropic_large"])] == [
        "timm:vit_large_patch16_224",
        "convnext_isotropic_large",
    ]
    with pytest.raises(ConvNextError, match="Table 12 has no 'convnext_tinny'. Did you mean 'convnext_tiny'"):
        tables.lines(12, ["convnext_tinny"])


def test_what_is_compared_is_measured_in_turn():
    """A group of the run has both sides of every pair."""
    for number in tables.CONDITIONS:
        configs = tables.configs(number, Choices(), "cpu", never)
        groups = [c.group for c in configs]
        assert sum(a != b for a, b in pairwise(groups)) == len(set(groups)) - 1


def row(model, speed=None, mode="inference", size=224, memory=None):
    found = {"config": Config(model, mode, image_size=size).to_dict(), "error": None}
    found |= {"images_per_second": {"p50": speed}} if speed else {}
    return found | ({"peak_memory_mb": memory} if memory else {})


def test_the_papers_numbers_stand_beside_those_of_here():
    rows = [row("convnext_tiny", 50.0), row("convnext_tiny", 60.0), row(SWIN, 40.0), row(SWIN, 90.0, "train")]
    title, columns, cells = tables.beside(12, rows)
    assert "A100" in title
    assert len(columns) == len(cells[0])
    assert cells[0] == ("T 224", "img/s", "1,943.5", "60.0", "1,325.6", "40.0", "1.47", "1.50")
    assert [cell[0] for cell in cells] == ["T 224", "S 224", "B 224", "L 224", "XL 224", "B 384", "L 384", "XL 384"]
    assert cells[4][2:] == ("424.4", None, None, None, None, None)  # no Swin of that size
    assert cells[1][2:] == ("1,275.3", None, "857.3", None, "1.49", None)


def test_table_2_beside():
    ours, vit = "convnext_isotropic_small", "timm:vit_small_patch16_224"
    rows = [row(ours, 10.0), row(ours, None, "train", memory=3000.0), row(vit, None, "train", memory=5000.0)]
    _, _, cells = tables.beside(2, rows, [ours])
    assert cells == [
        ("S 224", "img/s", "1,038.7", "10.0", "978.5", None, "1.06", None),
        ("", "training GB", "4.2", "3.0", "4.9", "5.0", "0.86", "0.60"),
    ]

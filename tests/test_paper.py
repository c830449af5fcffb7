"""The paper's tables agree with each other and with what counting gives."""

import subprocess
import sys
from statistics import mean

import pytest

from convnext import paper
from convnext.errors import ConvNextError

# printed cells that counting contradicts; every one says so in its note
MISPRINTED_STEPS = {("resnet50", "layer-norm"), ("resnet50", "separate-downsampling")}


def test_imports_nothing_heavy():
    code = (
        "import sys, convnext.paper; "
        "print(sorted({'torch', 'numpy', 'matplotlib', 'timm', 'torchvision'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in paper.COUNTED if "isotropic" not in name])
def test_table1_is_what_counting_gives_rounded(name):
    counted = paper.COUNTED[name]
    row = paper.classification(name)
    assert row.params_m == round(counted.params / 1e6)
    assert row.gflops == round(counted.macs_224 / 1e9, 1)
    assert paper.classification(name, 384).gflops == round(counted.macs_384 / 1e9, 1)
    assert "45.0" in paper.classification("ConvNeXt-B", 384).note


@pytest.mark.parametrize("name", [name for name in paper.COUNTED if "isotropic" in name])
def test_table2_is_what_counting_gives_rounded(name):
    counted, row = paper.COUNTED[name], paper.isotropic(name)
    assert row.params_m == round(counted.params / 1e6)
    assert row.gflops == round(counted.macs_224 / 1e9, 1)


def test_layer_scale_accounts_for_the_difference_of_isotropic_large():
    """36 blocks of 1024 channels (Section 3.3)."""
    with_it = paper.COUNTED["convnext_isotropic_large"].params
    assert with_it - paper.ISOTROPIC_LARGE_PARAMS_WITHOUT_LAYER_SCALE == 36 * 1024


@pytest.mark.parametrize(
    ("name", "channels"), [("tiny", 768), ("small", 768), ("base", 1024), ("large", 1536), ("xlarge", 2048)]
)
def test_a_larger_head_accounts_for_the_params_of_22k(name, channels):
    counted = paper.COUNTED[f"convnext_{name}"]
    assert counted.params_22k - counted.params == (21_841 - 1000) * (channels + 1)


def test_every_table_has_all_its_rows():
    """Counted in the printed tables; Table 1's 34 printed rows and the thesis' 9 are fewer models than accuracies."""
    assert sum((row.top1_1k is not None) + (row.top1_22k is not None) for row in paper.TABLE1) == 43
    assert sum(row.a100 is not None for row in paper.TABLE1) == 14  # Table 12
    sizes = [len(table) for table in (paper.TABLE2, paper.TABLE3, paper.TABLE4, paper.TABLE8, paper.TABLE9)]
    assert sizes == [6, 16, 11, 10, 3]
    assert sum(row.miou_single_scale is not None for row in paper.TABLE4) == 6  # Table 7
    for table, key in (
        (paper.TABLE1, lambda r: (r.model, r.size)),
        (paper.TABLE2, lambda r: r.model),
        (paper.TABLE3, lambda r: (r.backbone, r.method, r.pretrain)),
        (paper.TABLE4, lambda r: (r.backbone, r.pretrain)),
        (paper.TABLE8, lambda r: (r.model, r.pretrain)),
    ):
        assert len({key(row) for row in table}) == len(table)


def test_table12_speedups():
    """Section E: up to 49 % faster than the Swin of the same size."""
    for letter, size, percent in (("T", 224, 47), ("S", 224, 49), ("B", 224, 46), ("B", 384, 39), ("L", 224, 40)):
        ours, swin = paper.classification(f"ConvNeXt-{letter}", size), paper.classification(f"Swin-{letter}", size)
        assert round(100 * (ours.a100 / swin.a100 - 1)) == percent


def test_table4_and_table7_name_the_convnexts_and_multi_scale_is_better():
    for row in paper.TABLE4:
        assert (row.miou_single_scale is not None) == row.backbone.startswith("ConvNeXt")
        assert row.crop == {"1k": 512, "22k": 640}[row.pretrain]
        if row.miou_single_scale is not None:
            assert 0.3 < row.miou_multi_scale - row.miou_single_scale < 1.0


def test_table3_ap_is_ordered():
    for row in paper.TABLE3:
        assert row.box_ap50 > row.box_ap75 > row.box_ap > row.mask_ap
        assert row.mask_ap50 > row.mask_ap75 > row.mask_ap


def test_table8_repeats_table1_for_convnext():
    for row in paper.TABLE8:
        if row.model.startswith("ConvNeXt"):
            known = paper.classification(row.model, row.size)
            assert (row.clean, row.gflops) == (known.top1(row.pretrain), known.gflops)
    params = {name: paper.COUNTED[name].params for name in ("convnext_tiny", "convnext_base")}
    assert {name: round(n / 1e6, 1) for name, n in params.items()} == {
        name: paper.robustness(name).params_m for name in params
    }


def test_c_bar_of_resnet50_is_the_mean_of_its_ten_errors():
    assert len(paper.RESNET50_C_BAR_ERRORS) == 10
    assert round(mean(paper.RESNET50_C_BAR_ERRORS), 1) == paper.robustness("ResNet-50").c_bar
    assert len(paper.ALEXNET_ERRORS) == 15


@pytest.mark.parametrize("regime", paper.ROADMAPS)
def test_the_roadmap_has_every_step_in_order(regime):
    steps = paper.ROADMAPS[regime].steps
    assert [step.key for step in steps] == list(paper.STEPS)
    assert all((step.std is not None) == (regime == "resnet50") for step in steps)
    grouped = [key for keys in paper.GROUPS.values() for key in keys]
    assert ["resnet", *grouped] == list(paper.STEPS)
    assert set(paper.STEPS) >= paper.NOT_ADOPTED


def test_only_the_marked_cells_of_the_roadmap_are_misprinted():
    found = {(regime, s.key) for regime, roadmap in paper.ROADMAPS.items() for s in roadmap.steps if s.misprinted}
    assert found == MISPRINTED_STEPS == {(r, s.key) for r, road in paper.ROADMAPS.items() for s in road.steps if s.note}


def test_the_roadmap_ends_at_convnext():
    """Table 10's means are of three seeds, without EMA; Table 1 has the best with it, so they agree within 0.2."""
    for regime, name in (("resnet50", "convnext_tiny"), ("resnet200", "convnext_base")):
        last = paper.ROADMAPS[regime].steps[-1]
        assert last.top1 == pytest.approx(paper.classification(name).top1_1k, abs=0.25)
        assert paper.ROADMAPS[regime].swin.top1 == paper.classification(paper.ROADMAPS[regime].swin.name).top1_1k


def test_lookups_answer_a_wrong_name_with_what_there_is():
    with pytest.raises(ConvNextError, match="Did you mean 'Swin-T'"):
        paper.classification("Swim-T")
    with pytest.raises(ConvNextError, match=r"size 512.* It has: .*size 224; .*size 384\."):
        paper.classification("convnext_tiny", 512)
    with pytest.raises(ConvNextError, match="'kernel-9'"):
        paper.roadmap_step("resnet50", "kernel9")
    with pytest.raises(ConvNextError, match="'resnet50' or 'resnet200'"):
        paper.roadmap_step("resnet101", "kernel-9")
    assert paper.detection("convnext_xlarge", pretrain="22k").box_ap == 55.2
    assert paper.segmentation("ConvNeXt-B", "22k").gflops == 1828
    assert paper.roadmap_step("resnet50", "layer-norm").gflops == 4.46


def test_a_lookup_of_what_is_not_there_gives_none():
    assert paper.lookup(paper.TABLE1, model="convnext_tiny", size=384) is paper.classification("ConvNeXt-T", 384)
    assert paper.lookup(paper.TABLE1, model="convnext_atto") is None
    assert paper.lookup(paper.TABLE3, backbone="convnext_small", method="mask") is None
    assert paper.lookup(paper.TABLE8, model="", size=224) is None

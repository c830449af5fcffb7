"""Things that are ready for a GPU without one: compiled kernels, their tiles, and the suite, in a dry run on a CPU."""

import json
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from convnext.benchmark import ceilings, memory
from convnext.benchmark.run import NO_TIME
from convnext.errors import ConvNextError
from convnext.models.block import Block
from convnext.robustness.peers import CONV_MLP
from scripts import SCRIPTS, load, run


def test_compile_kernels(tmp_path):
    pytest.importorskip("triton")  # comes with PyTorch on Linux only
    result = run("compile_kernels", tmp_path / "kernels.json", "--match", "^norm_backward_96$", "--arch", "90")
    assert len(result["kernels"]) > 0
    assert all(0 < row["sm_90"][0] <= 255 for row in result["kernels"].values())


def test_the_gpu_suite_leaves_out_steps_that_do_not_fit_its_time(tmp_path):
    with pytest.raises(SystemExit) as stop:
        load("gpu_suite")["main"](["--out", str(tmp_path), "--minutes", "0", "--steps", "patchify", "depthwise"])
    assert stop.value.code == 0
    steps = json.loads((tmp_path / "suite.json").read_text())["steps"]
    assert [(step["step"], step["result"]) for step in steps] == [("patchify", "left out"), ("depthwise", "left out")]


def test_the_gpu_suite_measures_models_wherever_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.setattr(ceilings, "measure", lambda *_: {"copy_gb_per_second": 1.0, "matmul_tflops": {}})
    monkeypatch.setattr(memory, "add_cpu_memory", lambda runner: None)
    measure = load("gpu_suite")["measure_models"]
    names = measure.__globals__
    names |= {"DEVICE": "cpu", "BATCH": 1, "SIZES": {"tiny": "convnext_atto"}, "ROUNDS": 1, "SECONDS": 0.001}
    measure("recompute", "tiny", tmp_path, deadline=float("inf"))
    (row,) = json.loads((tmp_path / "recompute_tiny.json").read_text())["rows"]
    assert (row["error"], row["rounds"], row["config"]["mode"]) == (None, 1, "train")
    assert not Block.recompute_hidden, "the step's setting outlives it"


def test_a_ratio_is_to_the_best_when_every_way_of_the_peer_was_tried(tmp_path):
    suite = load("gpu_suite")
    assert suite["NO_TIME"] == NO_TIME
    assert suite["CONV_MLP"] == CONV_MLP
    assert suite["best"](tmp_path) == []
    row = {"library": "ours", "error": None, "config": {"model": "convnext_tiny", "form": "deploy", "compile": "none"}}
    ours = row | {"config": row["config"] | {"layout": "nhwc"}, "images_per_second": {"p50": 300.0}}

    def peer(how, layout, conv, speed, error=None):
        config = {"model": f"timm:convnext_tiny{CONV_MLP if conv else ''}", "form": "plain"}
        config |= {"compile": how, "layout": layout}
        return {"library": "timm", "error": error, "config": config, "images_per_second": {"p50": speed}}

    def write(kind, *rows):
        (tmp_path / f"{kind}_tiny.json").write_text(json.dumps({"rows": rows}))

    ways = sorted(suite["EVERY"])
    assert len(ways) == 16
    slow = [way for way in ways if way[0] == "max-autotune"]
    write("inference", ours, *(peer(*way, 100.0 + i) for i, way in enumerate(ways) if way not in slow))
    (found,) = suite["best"](tmp_path)
    assert found["not_tried"] == slow
    assert found["ratio_so_far"] == round(300 / (100 + len(ways) - 1), 4)
    write(
        "autotune",
        ours,
        peer(*slow[0], 150.0),
        *(peer(*way, 0, "failed") for way in slow[1:3]),
        peer(*slow[3], 0, NO_TIME),
    )
    (found,) = suite["best"](tmp_path)
    assert (found["ratio_so_far"], found["not_tried"], len(found["failed"])) == (2.0, [slow[3]], 2)
    write("autotune", ours, *(peer(*way, 200.0 - i) for i, way in enumerate(slow)))
    (found,) = suite["best"](tmp_path)
    assert (found["ratio_to_the_best"], found["not_tried"]) == (1.5, [])
    assert found["theirs"] == f"timm:convnext_tiny plain {' '.join(slow[0][:2])}"


@pytest.mark.slow  # six processes import everything
def test_a_dry_run_of_the_gpu_suite_passes_every_kind_of_step(tmp_path):
    """On a CPU, in PyTorch's own operations, on tiny shapes."""
    steps = ["smoke", "depthwise", "mlp", "sweep", "blocks", "profile", "patchify", "inference:tiny"]
    out, archive = tmp_path / "out", tmp_path / "results.tar.gz"
    argv = ["--out", str(out), "--archive", str(archive), "--device", "cpu", "--minutes", "30", "--steps", *steps]
    with pytest.raises(SystemExit) as stop:
        load("gpu_suite")["main"](argv)
    summary = json.loads((out / "suite.json").read_text())["steps"]
    assert stop.value.code == 0, summary
    assert [(step["step"], step["result"]) for step in summary] == [(step, "done") for step in steps]
    smoke = json.loads((out / "smoke.json").read_text())["rows"]
    assert {row["what"].split()[0] for row in smoke} == {"blocks", "depthwise_norm", "mlp"}
    assert all(row["ok"] and row["gpu"] is None for row in smoke)
    for step in ("depthwise", "mlp", "blocks", "patchify", "profile"):
        rows = json.loads((out / f"{step}.json").read_text())["rows"]
        assert rows
        assert not any("error" in row for row in rows), rows
    (best,) = json.loads((out / "best.json").read_text())
    assert best["ratio_so_far"] > 0
    assert len(best["not_tried"]) == 14  # without compilation, in one layout
    with tarfile.open(archive) as packed:
        assert {"out/suite.json", "out/smoke.json", "out/smoke.log"} <= set(packed.getnames())


def test_a_step_that_does_not_end_is_ended_with_its_children(tmp_path):
    """The child ignores SIGTERM, and so does its own child, whose number it writes."""
    script = tmp_path / "hangs.py"
    script.write_text(
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(600)\n"
    )
    suite = load("gpu_suite")
    suite["run_logged"].__globals__["PATIENCE"] = 0.2
    assert suite["run_logged"]([sys.executable, str(script)], tmp_path / "log", 0.7) == "the time was used up"
    child = int((tmp_path / "log").read_text())
    status = Path(f"/proc/{child}/stat")
    for _ in range(100):  # a busy machine ends it a little later
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child's child is alive")


def test_the_longest_loop_of_compiled_code():
    code = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   FFMA R2, R2, R3, R4 ;
        /*0020*/                   FFMA R2, R2, R3, R4 ;
        /*0030*/               @P0 BRA 0x10 ;
        /*0040*/                   MOV R1, R2 ;
        /*0050*/               @P1 BRA 0x0 ;
        /*0060*/                   BRA 0x60 ;
    """
    assert load("compile_kernels")["longest_loop"](code) == 3


def test_a_kernel_of_which_fewer_programs_fit_is_an_error(tmp_path):
    pytest.importorskip("triton")
    before = tmp_path / "before.json"
    before.write_text(json.dumps({"kernels": {"norm_backward_96": {"sm_90": [40, 0, 0, 99, 10]}}}))
    with pytest.raises(SystemExit, match="norm_backward_96 sm_90: .* and 99 did"):
        run(
            "compile_kernels",
            tmp_path / "now.json",
            "--match",
            "^norm_backward_96$",
            "--arch",
            "90",
            "--against",
            str(before),
        )


def test_tiles_take_the_shared_memory_that_is_said():
    """The bytes that `fused_tiles` expects are what the compiler came to for sm_90, a little more at most; each fits somewhere."""
    pytest.importorskip("triton")
    from convnext.ops._triton import device, mlp

    counted = json.loads((SCRIPTS.parent / "results/compile_kernels.json").read_text())["kernels"]
    for channels in mlp.WIDTHS:
        for form, title in (("inference", ""), ("training", "_keep"), ("training", "_keep_residual32")):
            tile = mlp.Tile(*(mlp.fused_tiles(channels, torch.bfloat16, form)[field] for field in mlp.Tile._fields))
            expected = tile.shared(sum(mlp.split(channels)), form)
            found = counted[f"mlp_forward{title}_{channels}"]["sm_90"][1]
            assert found <= expected <= found + 9000, (channels, form)
    little = mlp.fused_tiles(192, torch.bfloat16, "training", device.LITTLE)
    assert (little["BM"], little["BH"], little["num_stages"]) == (64, 32, 2)
    a100 = mlp.fused_tiles(128, torch.bfloat16, "inference", device.Device(163 << 10, ""))
    assert (a100["BM"], a100["BH"], a100["num_stages"]) == (64, 64, 2)  # of 128 rows it would spill there
    with pytest.raises(ConvNextError, match="no tile .* 192 channels .* 16 KiB"):
        mlp.fused_tiles(192, torch.bfloat16, "training", device.Device(16 << 10, ""))


def test_the_table_has_every_form_on_every_generation_that_takes_it_without_spills():
    pytest.importorskip("triton")
    script = load("compile_kernels")
    forms = {variant.name: variant for variant in script["variants"]()}
    table = json.loads((SCRIPTS.parent / "results/compile_kernels.json").read_text())["kernels"]
    assert set(table) == set(forms)
    for name, row in table.items():
        assert set(row) == {f"sm_{a}" for a in script["ARCHITECTURES"] if script["taken"](forms[name], a, set(forms))}
        for _, _, stack, programs, *_ in row.values():
            assert stack <= script["STACK_LIMIT"]
            assert programs or forms[name].measured


def test_a_tile_that_was_measured_goes_first(monkeypatch):
    pytest.importorskip("triton")
    from convnext.ops._triton import device, mlp

    monkeypatch.setattr(mlp, "measured", lambda: {"Some GPU": {"training": {"96": [256, 64, 8, 2]}}})
    tiles = [mlp.fused_tiles(c, torch.bfloat16, "training", device.Device(227 << 10, "Some GPU")) for c in (96, 128)]
    assert [(tile["BM"], tile["BH"], tile["num_warps"], tile["num_stages"]) for tile in tiles] == [
        (256, 64, 8, 2),
        (64, 32, 4, 3),
    ]


def test_a_way_that_was_measured_is_taken_where_it_can_be(monkeypatch):
    pytest.importorskip("triton")
    from convnext.ops._triton import device, mlp, products

    best = ["persistent", 128, 256, 64, 8, 3, False, 1]
    facts = {"Some GPU": {"expand": {"384": best, "300": best}, "fused": {"inference": 96}}}
    for module in (mlp, products):
        monkeypatch.setattr(module, "measured", lambda: facts)
    here = device.Device(227 << 10, "Some GPU")

    def chosen(form="expand", channels=384, dtype=torch.bfloat16, where=here):
        return products.way(form, channels, dtype, where)

    assert chosen() == products.Way("persistent", BN=256)
    others = chosen("project"), chosen(channels=768), chosen(dtype=torch.float32), chosen(where=device.H100)
    assert {*others, chosen(channels=300)} == {products.TILES}  # rows of 600 bytes are none for TMA
    assert [mlp.widest(form, here) for form in ("inference", "training")] == [96, mlp.FUSED]
    assert mlp.widest("inference", device.H100) == mlp.FUSED


def test_the_sweep_keeps_the_fastest_and_says_up_to_which_width_fused_is(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    forms = ("inference", "expand", "project"), ("training", "expand_keep", "project_wide")
    seconds = {96: ((2, 2, 1), (4, 1, 2)), 192: ((5, 2, 2), (5, 3, 1))}
    best = {
        (c, form): (time, f"{form} {c}")
        for c, both in seconds.items()
        for names, times in zip(forms, both, strict=True)
        for form, time in zip(names, times, strict=True)
    }
    found = load("gpu_sweep")["fastest"](best)
    assert found.pop("fused") == {"inference": 96, "training": 0}
    assert found == {form: {str(c): f"{form} {c}" for c in seconds} for names in forms for form in names}
    del best[192, "project"]
    assert "inference" not in load("gpu_sweep")["fastest"](best)["fused"]


@pytest.mark.parametrize(("batch", "height"), [(1, 1), (3, 2), (4, 7), (5, 14), (2, 56)])
def test_every_row_of_every_image_is_made_once_in_the_order_of_the_model(batch, height):
    """What the kernel computes of a program's number, in Python, and what waves.py says of it."""
    pytest.importorskip("triton")
    from convnext.ops._triton import depthwise

    pairs = (height + 1) // 2
    for group in (1, batch):
        found = [depthwise.place.fn(unit, group, pairs) for unit in range(batch * pairs)]
        assert sorted(found) == [(image, pair) for image in range(batch) for pair in range(pairs)]
        assert [pair for _, pair in found] == list(load("waves")["order"](batch, pairs, group))
        assert found[-1][1] in (0, pairs - 1)  # an edge, which has the least to read, comes last


def test_waves_are_fuller_with_the_middle_of_all_images_first(tmp_path):
    rows = run("waves", tmp_path / "x.json", "--batches", "256")["rows"]
    last = rows[-1]
    assert last["stage"] == "stage 3"
    assert 1 <= last["all images"] < last["from the top"]
    even = load("waves")["time_of"]([10.0] * 132 * 12, 6, 1.0)
    assert even == pytest.approx(12 * 10 / 4)

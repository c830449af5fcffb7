"""`convnext benchmark`: tiny models, and times that do not matter."""

import json
import re

import pytest
from PIL import Image

from convnext.benchmark import ceilings, networks, run, throughput
from convnext.cli import main
from convnext.errors import ConvNextError
from convnext.report.benchmark import draw_benchmark, read_rows

BOTH = ["convnext_atto"] * 2 + ["timm:convnext_atto"] * 2
SMALL = ("--image-size", "64", "--rounds", "2", "--seconds", "0.001", "--device", "cpu")


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command; returns (exit code, what it printed, the models that it prepared)."""
    monkeypatch.setitem(main.VERBS, "benchmark", "")
    monkeypatch.setattr(ceilings, "COPY_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(ceilings, "SIDES", {"cpu": (64, 64)})
    monkeypatch.setattr(throughput, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(throughput, "WARM_UP_STEPS", 2)
    prepared = []
    prepare = run.prepare
    monkeypatch.setattr(run, "prepare", lambda config, device: prepared.append(config.model) or prepare(config, device))

    def command(*argv):
        prepared.clear()
        code = main.run(["benchmark", *map(str, argv)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err, list(prepared)

    return command


def test_ours_beside_a_peer(command, tmp_path):
    out, figure = tmp_path / "rows.json", tmp_path / "rows.png"
    argv = ("convnext_atto", "--peers", "timm:convnext_atto", "--batch", "2", "--no-memory", *SMALL, "--out", out)
    code, printed, prepared = command(*argv, "--figure", figure)
    assert code == 0
    assert prepared == BOTH  # ours as it is and deployed, the peer in both layouts
    rows = {tuple(row["config"][key] for key in ("model", "layout", "form")): row for row in read_rows(out)}
    assert len(rows) == 4
    peers = [row["images_per_second"]["p50"] for (model, *_), row in rows.items() if model != "convnext_atto"]
    ours = rows["convnext_atto", "nhwc", "deploy"]
    assert ours["ratio"] == pytest.approx(ours["images_per_second"]["p50"] / max(peers), abs=1e-3)
    assert ours["command"] == " ".join(["convnext", "benchmark", *map(str, argv), "--figure", str(figure)])
    assert ours["rounds"] == 2
    lines = [line for line in printed.splitlines() if re.match("(timm:)?convnext_atto ", line)]
    speeds = [float(re.search(r"N(?:CHW|HWC) +([\d.,]+)", line)[1].replace(",", "")) for line in lines]
    assert len(speeds) == 4
    assert speeds == sorted(speeds, reverse=True)
    assert any(f" {ours['ratio']:.2f} " in line for line in lines)
    with Image.open(figure) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(10**6)) > 50

    before = out.read_text()
    code, again, prepared = command(*argv)
    assert (code, prepared) == (0, [])
    assert "4 of them kept" in again
    assert [line for line in again.splitlines() if line in lines] == lines
    assert out.read_text() == before
    assert command(*argv, "--fresh")[2] == BOTH


def test_training_and_memory(command, tmp_path, monkeypatch):
    from convnext.benchmark import memory

    monkeypatch.setattr(memory, "cpu_memory", lambda config: (123_456_789, "as the test says"))
    out = tmp_path / "rows.json"
    code, printed, _ = command("convnext_atto", "--mode", "both", "--batch", "1", *SMALL, "--out", out)
    assert code == 0
    assert "Inference, batch 1, 64 px, fp32 weights" in printed
    assert "Training step, batch 1, 64 px, fp32 weights" in printed
    assert len(re.findall(r" 124 ", printed)) == 3
    inference, deployed, training = read_rows(out)
    assert deployed["config"]["form"] == "deploy"
    assert (inference["peak_memory_mb"], inference["memory_measure"]) == (123.5, "as the test says")
    assert (inference["config"]["mode"], training["config"]["mode"]) == ("inference", "train")


def test_one_that_fails_does_not_end_the_others(command, monkeypatch):
    build = networks.build

    def broken(name, size=224):
        if name.startswith("timm:"):
            raise RuntimeError("no kernel")
        return build(name, size)

    monkeypatch.setattr(networks, "build", broken)
    code, printed, _ = command("convnext_atto", "--peers", "timm:convnext_atto", "--no-memory", *SMALL)
    assert code == 0
    assert re.search(r"^convnext_atto +eager, NHWC", printed, re.MULTILINE)
    assert printed.count("RuntimeError: no kernel") == 2
    code, printed, _ = command("convnext_atto", "--no-memory", *SMALL)
    assert code == 0


def test_a_compilation_that_fails_is_a_row(command, monkeypatch):
    import torch

    def fails(*args, **options):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fails)
    code, printed, _ = command("convnext_atto", "--compile", "default", "--no-memory", *SMALL)
    assert code == 1  # nothing was measured
    assert "convnext_atto, compile, NHWC" in printed
    assert "RuntimeError: no compiler" in printed


def test_ctrl_c_prints_and_keeps_what_there_is(command, tmp_path, monkeypatch):
    run_rounds = run.run_rounds

    def interrupted(runners, device, rounds, *rest):
        run_rounds(runners, device, 1, *rest)
        raise KeyboardInterrupt

    out = tmp_path / "rows.json"
    argv = ("convnext_atto", "--no-memory", *SMALL, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(run, "run_rounds", interrupted)
        code, printed, _ = command(*argv)
    assert code == 130
    assert "convnext_atto, eager, NHWC: 1 of 2 rounds." in printed
    assert "convnext_atto, deploy, NHWC: 1 of 2 rounds." in printed
    assert [row["rounds"] for row in read_rows(out)] == [1, 1]
    code, printed, prepared = command(*argv)
    assert (code, prepared) == (0, ["convnext_atto"] * 2)
    assert [row["rounds"] for row in read_rows(out)] == [2, 2]


def test_a_table_of_the_paper(command, monkeypatch):
    models = []
    monkeypatch.setattr(run, "prepare", lambda config, device: models.append(config.model) or models.copy)  # a step
    monkeypatch.setattr(networks, "counted", lambda name, size: None)
    code, printed, _ = command(
        *("convnext_tiny", "--table", "12", "--layout", "nhwc", "--no-memory"),
        *("--rounds", "1", "--seconds", "0.0001", "--device", "cpu"),
    )
    assert code == 0
    assert sorted(models) == ["convnext_tiny", "convnext_tiny", "timm:swin_tiny_patch4_window7_224"]
    assert "the paper's numbers are of an A100" in printed
    assert re.search(r"^T 224 +img/s +1,943\.5 +[\d.,]+ +1,325\.6 +[\d.,]+ +1\.47 +\d\.\d\d$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "Name one or more models first"),
        (("convnext_tinny",), "no classifier 'convnext_tinny', and no run or checkpoint. Did you mean 'convnext_tiny'"),
        (("convnext_tiny", "--peers", "timm:resnet5"), "timm has no classifier 'resnet5'. Did you mean 'resnet50'"),
        (("convnext_tiny", "--table", "12", "--peers", "timm:resnet50"), "--table has its own peers"),
        (("convnext_tiny", "--precision", "tf32"), "tf32 is an arithmetic of GPUs"),
        (("convnext_tiny", "--rounds", "0"), "--rounds is 0"),
        (("resnet50", "--table", "2"), "Table 2 has no 'resnet50'"),
    ],
)
def test_mistakes_are_answered_and_exit_with_2(command, argv, said):
    code, printed, prepared = command(*argv, "--device", "cpu")
    assert (code, prepared) == (2, [])
    assert said in printed


def test_the_figure_says_what_it_lacks(tmp_path):
    with pytest.raises(ConvNextError, match="nothing to draw"):
        draw_benchmark([], tmp_path / "x.png")
    with pytest.raises(ConvNextError, match="does not exist"):
        read_rows(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps({"models": {}}))
    with pytest.raises(ConvNextError, match="no file of `convnext benchmark`"):
        read_rows(tmp_path / "x.json")

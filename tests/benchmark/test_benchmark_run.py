"""The benchmark as a whole on a machine whose times are known: rows, ratios, resuming, failures, interruptions."""

import json
import mmap
import subprocess

import pytest
import torch

from convnext.benchmark import memory, networks, run
from convnext.benchmark.configs import Choices, Config, expand
from convnext.benchmark.flops import Count
from convnext.benchmark.gpu_state import gpu_state
from convnext.benchmark.rows import Results, achieved, add_ratios, environment
from convnext.benchmark.throughput import Runner
from convnext.errors import ConvNextError

OURS, PEER = "convnext_atto", "timm:convnext_atto"
FACTS = {"device": "a machine", "versions": {"torch": "9"}, "commit": "abc", "source": "123"}


@pytest.fixture
def measure(fake_machine, cpu, tmp_path, monkeypatch):
    """Run the configurations of some models; returns (results, the content of the file, what was prepared)."""
    clock, seconds, prepared = fake_machine
    seconds |= {OURS: 0.125, PEER: 0.25, "timm:swin_tiny_patch4_window7_224": 0.05, "convnext_femto": 0.4}
    monkeypatch.setattr(networks, "counted", lambda name, size: Count(1000, 10**9, 500))

    def measure(models, rounds=3, facts=FACTS, choices=None, **options):
        prepared.clear()
        configs = expand(models, choices or Choices(layouts=("nchw",)), "cpu")
        results = Results.open(tmp_path / "rows.json", facts, "a command")
        run.benchmark(configs, cpu, results, rounds, 0.5, with_memory=False, clock=clock, **options)
        content = json.loads((tmp_path / "rows.json").read_text())
        return {Config(**row["config"]).model: row for row in content["rows"]}, content, list(prepared)

    measure.seconds = seconds
    return measure


def test_a_row_has_what_is_needed_to_judge_and_repeat_it(measure):
    rows, content, prepared = measure([OURS, PEER])
    row = rows[OURS]
    assert row.items() >= FACTS.items()
    assert row["config"] == prepared[0].to_dict()
    assert (row["library"], rows[PEER]["library"], row["weights"]) == ("ours", "timm", "random")
    assert row["images_per_second"] == pytest.approx({"p20": 8, "p50": 8, "p80": 8})
    assert row["milliseconds"]["p50"] == pytest.approx(125)
    assert (row["rounds"], row["steps_per_round"], row["error"]) == (3, 4, None)
    assert (row["build_seconds"], row["first_step_seconds"], row["warmup_seconds"]) == (3.0, 0.125, 5 * 0.125)
    assert row["ratio"] == pytest.approx(2.0)
    assert (row["ratio_to"], row["ratio_same_run"]) == (f"{PEER} (eager, NCHW)", True)
    assert rows[PEER]["ratio"] == 1.0
    assert row["tflops"] == pytest.approx(2 * 1e9 * 8 / 1e12)
    assert row["share_of_matmul"] == pytest.approx(0.016 / 0.5)
    assert content["ceilings"] == {
        "a machine, torch 9": {"copy_gb_per_second": 10.0, "matmul_tflops": {"fp32": 0.5, "bf16": 1.0}}
    }


def test_what_is_finished_is_kept_and_the_rest_is_added(measure):
    first, _, prepared = measure([OURS])
    assert len(prepared) == 1
    assert "ratio" not in first[OURS]
    measure.seconds[OURS] = 0.0625
    rows, content, prepared = measure([OURS, PEER])
    assert [c.model for c in prepared] == [PEER]
    assert rows[OURS]["images_per_second"] == first[OURS]["images_per_second"]
    assert rows[OURS]["ratio"] == pytest.approx(2.0)
    assert measure([OURS, PEER])[2] == []
    assert [c.model for c in measure([OURS, PEER], rounds=4)[2]] == [OURS, PEER]  # more rounds are another measurement
    rows, content, prepared = measure([OURS], fresh=True)
    assert [c.model for c in prepared] == [OURS]
    assert rows[OURS]["images_per_second"]["p50"] == pytest.approx(16)
    assert len(content["rows"]) == 2


@pytest.mark.parametrize("fact", ["device", "versions", "commit", "source"])
def test_rows_of_another_environment_stay_and_are_not_taken_for_this_ones(measure, fact):
    measure([OURS])
    facts = FACTS | {fact: {"torch": "10"} if fact == "versions" else "other"}
    _, content, prepared = measure([OURS], facts=facts)
    assert len(prepared) == 1
    assert [row[fact] for row in content["rows"]] == [FACTS[fact], facts[fact]]


def test_one_that_fails_is_a_row_and_is_tried_again(measure):
    measure.seconds[PEER] = RuntimeError("[enforce fail at alloc_cpu.cpp]\n no memory")
    rows, _, _ = measure([OURS, PEER])
    assert rows[PEER]["error"] == "RuntimeError: [enforce fail at alloc_cpu.cpp] no memory"
    assert "images_per_second" not in rows[PEER]
    assert rows[OURS]["error"] is None
    assert "ratio" not in rows[OURS]
    measure.seconds[PEER] = 0.2
    rows, content, prepared = measure([OURS, PEER])
    assert [c.model for c in prepared] == [PEER]
    assert rows[PEER]["error"] is None
    assert len(content["rows"]) == 2


def test_what_found_no_memory_beside_the_others_is_measured_alone(measure, monkeypatch):
    prepare, tried = run.prepare, []

    def crowded(config, device):
        tried.append(config.model)
        if config.model == PEER and tried.count(PEER) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return prepare(config, device)

    monkeypatch.setattr(run, "prepare", crowded)
    rows, _, _ = measure([OURS, PEER])
    assert tried == [OURS, PEER, PEER]
    assert rows[PEER]["alone"] is True
    assert (rows[PEER]["error"], rows[PEER]["rounds"]) == (None, 3)
    assert "alone" not in rows[OURS]


def test_ctrl_c_keeps_the_rounds_that_there_are(measure, monkeypatch):
    timed, visits = run.run_rounds.__globals__["timed"], []

    def interrupted(runner, *rest):
        visits.append(runner)
        if len(visits) == 4:
            raise KeyboardInterrupt
        return timed(runner, *rest)

    with monkeypatch.context() as patch:
        patch.setitem(run.run_rounds.__globals__, "timed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure([OURS, PEER])
    rows, _, prepared = measure([OURS, PEER, "convnext_femto"], rounds=1)
    assert [c.model for c in prepared] == ["convnext_femto"]
    assert (rows[PEER]["rounds"], rows[OURS]["rounds"]) == (2, 1)  # the second round had begun with the peer
    assert len(measure([OURS, PEER])[2]) == 2  # 3 rounds were asked for


def test_a_kill_loses_one_round_at_most(measure, monkeypatch, tmp_path):
    """The file is read between the rounds, as a command would find it after kill -9."""
    timed, saved = run.run_rounds.__globals__["timed"], []

    def looked_at(runner, *rest):
        rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
        saved.append({row["config"]["model"]: row["rounds"] for row in rows})
        return timed(runner, *rest)

    monkeypatch.setitem(run.run_rounds.__globals__, "timed", looked_at)
    measure.seconds["convnext_femto"] = RuntimeError("it cannot be built")
    measure([OURS, PEER, "convnext_femto"], rounds=2)
    failed = {"convnext_femto": 0}
    assert saved == [failed, failed] + 2 * [failed | {OURS: 1, PEER: 1}]
    del saved[:]
    measure([OURS, PEER, "convnext_femto"], rounds=4)  # those of 2 rounds stay until there are as many
    assert [rows[OURS] for rows in saved] == [2, 2, 2, 2, 2, 2, 3, 3]


def test_nothing_is_begun_when_the_time_is_used_up(measure):
    left = iter([10.0, -1.0])
    rows, _, prepared = measure([OURS, PEER], time_left=lambda: next(left))
    assert [c.model for c in prepared] == [OURS]
    assert rows[OURS]["error"] is None
    assert rows[PEER]["error"] == "not measured: the time was used up"


def test_progress_grows_to_its_total(measure):
    shown = []
    choices = Choices(layouts=("nchw",), batches=(1, 2))
    measure([OURS, PEER], choices=choices, show=lambda what, done, total: shown.append((what, done / total)))
    words = " ".join(what for what, _ in shown)
    assert "preparing" in words
    assert "round 3" in words
    shares = [share for _, share in shown[1:]]
    half = len(shares) // 2
    for group in (shares[:half], shares[half:]):
        assert group == sorted(group)
        assert group[0] >= 0
        assert group[-1] <= 1


def test_a_damaged_file_is_not_overwritten(measure, tmp_path):
    for text in (
        "{",
        "[]",
        '{"format": 7, "rows": []}',
        '{"format": 1, "ceilings": {}, "rows": [{"config": {"speed": 1}}]}',
    ):
        (tmp_path / "rows.json").write_text(text)
        with pytest.raises(ConvNextError, match="no file of `convnext benchmark`"):
            measure([OURS])
        assert (tmp_path / "rows.json").read_text() == text


def row(model, speed, run="1", device="d", **config):
    made = Config(model, **config)
    library = "ours" if made.ours else "timm"
    facts = {"device": device, "versions": {}, "library": library, "run": run, "config": made.to_dict()}
    return facts | ({"images_per_second": {"p50": speed}} if speed else {})


def test_the_ratio_is_to_the_best_peer_that_does_the_same_work():
    swin = "timm:swin_tiny_patch4_window7_224"
    rows = [
        row("convnext_tiny", 30.0),
        row("convnext_tiny", 90.0, precision="bf16"),
        row("convnext_small", 20.0),
        row("timm:convnext_tiny.in22k", 20.0, layout="nhwc"),
        row("timm:convnext_tiny.in22k", 25.0),
        row("timm:convnext_tiny.in22k", 100.0, batch=8),
        row("timm:convnext_tiny.in22k", 100.0, device="another"),
        row("timm:convnext_tiny", None),
        row(swin, 40.0),
    ]
    add_ratios(rows)
    assert [r.get("ratio") for r in rows] == [1.2, None, 0.5, 0.8, 1.0, 1.0, 1.0, None, 1.0]
    assert rows[2]["ratio_to"] == f"{swin} (eager, NCHW)"  # no peer of this architecture: the best of all
    rows += [row("convnext_tiny", 30.0, run="2", backend="reference"), row("timm:convnext_tiny", 15.0, run="2")]
    add_ratios(rows)
    assert (rows[-2]["ratio"], rows[-2]["ratio_same_run"]) == (2.0, True)
    assert (rows[0]["ratio"], rows[0]["ratio_same_run"]) == (1.2, True)


def test_flops_and_bytes_by_hand():
    counted = Count(params=1000, macs=2_000_000, activations=300)
    roof = {"copy_gb_per_second": 2.0, "matmul_tflops": {"bf16": 4e-3}}
    found = achieved(Config("m", batch=10, image_size=4, precision="bf16"), counted, 500.0, roof)
    assert found["tflops"] == pytest.approx(2 * 2e6 * 500 / 1e12)
    assert found["share_of_matmul"] == pytest.approx(0.5)
    trained = achieved(Config("m", "train", 10, 224, "fp32"), counted, 1e4, roof)
    assert trained["tflops"] == pytest.approx(3 * 2 * 2e6 * 1e4 / 1e12)
    assert trained["model_gb_per_second"] == pytest.approx(3 * 4 * (600 + 3 * 224**2 + 100) * 1e4 / 1e9, abs=0.01)
    assert trained["share_of_copy"] == pytest.approx(trained["model_gb_per_second"] / 2, rel=1e-3)
    assert "share_of_matmul" not in trained


def test_the_environment_says_what_decides_the_speed(cpu):
    facts = environment(cpu)
    assert set(facts) == {"device", "versions", "commit", "source"}
    assert f"{torch.get_num_threads()} of" in facts["device"]
    assert facts["versions"]["torch"] == torch.__version__
    assert facts == environment(cpu)


def test_memory_of_a_process_is_what_it_grew_by(cpu, monkeypatch):
    seen = iter([(100, 900), (0, 750)])  # now and peak, before the model and after its steps
    monkeypatch.setattr(memory, "resident", lambda: next(seen))
    monkeypatch.setattr(memory, "_forget_peak", lambda: None)
    assert memory.grown(Config(OURS, batch=1, image_size=32)) == 650


def test_resident_memory_is_known_here():
    now, peak = memory.resident()
    assert now > 50e6
    assert peak > now - 5e6  # the system counts both in batches of pages
    held = mmap.mmap(-1, 50_000_000)  # pages of its own, whatever the allocator still has
    held.write(bytes([1]) * len(held))
    assert memory.resident()[1] >= now + 30e6
    held.close()


@pytest.mark.slow
def test_memory_is_measured_in_a_fresh_process():
    taken, how = memory.cpu_memory(Config(OURS, "train", batch=4, image_size=64))
    params = 4 * 3_695_880
    assert taken > 3 * params  # weights, gradients while they last, and the two moments
    assert taken < 60 * params
    assert "fresh process" in how


def test_a_process_that_fails_says_why(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback ..\nConvNextError: timm has no model 'nonsense'.\n")
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: failed)
    with pytest.raises(ConvNextError, match="no model 'nonsense'"):
        memory.cpu_memory(Config("timm:nonsense"))


def test_memory_that_could_not_be_measured_is_no_error_of_the_row(monkeypatch):
    def fails(config):
        raise ConvNextError("this system does not tell")

    monkeypatch.setattr(memory, "cpu_memory", fails)
    runner = Runner(Config(OURS), lambda: None)
    memory.add_cpu_memory(runner)
    assert runner.error is None
    assert runner.memory_measure == "not measured: ConvNextError: this system does not tell"


def test_what_a_gpu_does_is_read_from_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_state() is None, "there is none"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '570.1, 1755 MHz, 2619 MHz, 512.4 W, 700 W, 61, 0x0000000000000004'\n")
    program.chmod(0o755)
    assert gpu_state() == {
        "driver": "570.1",
        "sm_clock": "1755 MHz",
        "memory_clock": "2619 MHz",
        "power": "512.4 W",
        "power_limit": "700 W",
        "temperature": "61",
        "throttle_reasons": "0x0000000000000004",
    }
    program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert gpu_state() is None

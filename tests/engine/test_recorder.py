"""The records of a run on a disk that fills up: said in a sentence, without the traceback of a thread."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import resource, signal, sys
    from pathlib import Path
    from rich.console import Console
    from convnext.errors import ConvNextError
    from convnext.engine.recorder import Recorder

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    recorder = Recorder(Path(sys.argv[1]), Console(width=10000), 10_000)
    recorder.record("train", 1, 0.1, {{"loss": 1.0}})
    recorder._events.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    try:
        for step in range(2, {steps}):
            recorder.record("train", step, 0.1, {{f"m{{i}}": 1.0 for i in range(20)}})
            if recorder._events:
                try:
                    recorder._events.flush()
                except OSError:
                    pass
    except ConvNextError as error:
        print(f"refused: {{error}}")
    recorder.close()
"""


def fill(folder, limit, steps):
    script = textwrap.dedent(SCRIPT.format(limit=limit, steps=steps))
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_run_goes_on_without_events_that_cannot_be_written(tmp_path):
    """Twenty events of a record are longer than its line, so that they reach the limit first."""
    output = fill(tmp_path, limit=8192, steps=15)
    assert output.count("goes on without TensorBoard's events") == 1
    assert "refused" not in output
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 14


@pytest.mark.parametrize("limit", [4096])
def test_records_that_cannot_be_written_end_the_run(tmp_path, limit):
    output = fill(tmp_path, limit, steps=100)
    assert "refused: The records could not be written" in output
    assert "Free some space" in output

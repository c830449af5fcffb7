"""What is written is JSON for every reader, or a table, under any name, and comes back as it was."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from convnext.files import clear_leftovers, is_leftover, read_record, replace, replace_table, table_source, to_json


def test_json_has_no_nan():
    text = to_json({"a": math.nan, "b": [1.5, math.inf], "c": {"d": -math.inf}, "e": "NaN", "f": (1, None)})

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None], "c": {"d": None}, "e": "NaN", "f": [1, None]}


def test_a_record_comes_back():
    record = read_record(to_json({"step": 3, "loss": 0.1, "ap_small": math.nan}))
    assert record == {"step": 3, "loss": 0.1, "ap_small": pytest.approx(math.nan, nan_ok=True)}
    with pytest.raises(ValueError, match="Expecting"):
        read_record('{"step": 3, ')
    for line in ("[]", "3", "null"):
        with pytest.raises(ValueError, match="not a record"):
            read_record(line)


def test_leftovers_of_dead_processes_go_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):  # a process in a container may have the number of the one that was killed
        (tmp_path / f".config.json.{pid}").write_text("half")
        (tmp_path / f".writing-{pid}").mkdir()
        (tmp_path / f".writing-{pid}" / "state.safetensors").write_text("half")
    kept = {"config.json", ".lock", f".best.safetensors.{os.getppid()}", "events.1234", "step-00000012"}
    for name in kept:
        (tmp_path / name).write_text("whole")
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    clear_leftovers(tmp_path / "missing")


def test_what_replace_writes_under_another_name_is_a_leftover_if_it_is_killed(tmp_path):
    seen = []
    replace(tmp_path / "best.safetensors", lambda aside: seen.append(aside) or aside.write_text("x"))
    assert is_leftover(seen[0])


@pytest.mark.parametrize("folder", ["plain", "\udcff", "s3:", "file:"])
def test_a_table_goes_to_any_name_and_comes_back(folder, tmp_path, monkeypatch):
    """pyarrow by itself takes no path that is not UTF-8, and a relative one with a colon as an address."""
    monkeypatch.chdir(tmp_path)
    table = pa.table({"image": ["a", "b"]})
    path = Path(folder) / "t.parquet"
    replace_table(path, table)
    with table_source(path) as source:
        assert parquet.read_table(source).equals(table)
    assert [each.name for each in path.parent.iterdir()] == ["t.parquet"]

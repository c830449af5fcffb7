"""A scenario: cases that are tried one after the other, counted, and written to results/faults.json.

A case survives if its block ends without an exception. A scenario in which one does not fails at its end, so that the
figures of all cases are written first. A scenario that is in the file already, with all cases survived, is kept with its date
and commit, so that the suite can be run in pieces; CONVNEXT_FAULTS_FRESH runs it anew.
"""

import json
import os
import platform
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
from filelock import FileLock

from convnext.files import replace_text


class Scenario:
    def __init__(self, name: str, what: str):
        self.name, self.what = name, what
        self.tried, self.survived, self.note = 0, 0, ""
        self.lost: list[str] = []  # tracebacks
        self.reasons: list[str] = []  # of the same cases, a line each

    @contextmanager
    def case(self, label: str) -> Iterator[None]:
        """One try; whatever it raises is written down."""
        self.tried += 1
        try:
            yield
            self.survived += 1
        except Exception as error:
            self.reasons.append(f"{label}: {error!r}")
            self.lost.append(f"{label}: {traceback.format_exc(limit=-4)[-1500:]}")


@contextmanager
def scenario(name: str, what: str, full: bool) -> Iterator[Scenario]:
    """Run a scenario; `full`: write its figures to the file that CONVNEXT_FAULTS names, if any."""
    now, began = Scenario(name, what), time.monotonic()
    place = os.environ.get("CONVNEXT_FAULTS") if full else None
    if place and not os.environ.get("CONVNEXT_FAULTS_FRESH"):
        earlier = _read(Path(place))["scenarios"].get(name)
        if earlier and earlier["what"] == what and earlier["tried"] == earlier["survived"]:
            pytest.skip(
                f"kept from {earlier['date']}, commit {earlier.get('commit', 'not recorded')}; --fresh runs it anew"
            )
    yield now
    if place:
        _write(Path(place), now, time.monotonic() - began)
    assert now.tried, "nothing was tried"
    assert now.survived == now.tried, f"{now.survived} of {now.tried} survived:\n" + "\n".join(now.lost[:10])


def _read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {"scenarios": {}}


def _commit() -> str:
    """The commit of the code, with a plus if it has been changed since."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "tests/faults")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _write(path: Path, now: Scenario, seconds: float) -> None:
    import torch

    row = {"what": now.what, "tried": now.tried, "survived": now.survived, "seconds": round(seconds, 1)}
    row |= {"date": date.today().isoformat(), "commit": _commit()} | ({"note": now.note} if now.note else {})
    row |= {"lost": [reason[:200] for reason in now.reasons[:10]]} if now.lost else {}
    with FileLock(Path(tempfile.gettempdir()) / f"{path.stem}.lock"):  # the suite runs in two processes
        result = _read(path)
        result["machine"] = f"{os.cpu_count()} cores, {platform.machine()}"
        result["versions"] = {"python": platform.python_version(), "torch": torch.__version__.partition("+")[0]}
        result["scenarios"][now.name] = row
        replace_text(path, json.dumps(result, indent=1) + "\n")


def sizes(short: int, full: int) -> pytest.MarkDecorator:
    """Parametrize `tried`: a short form for the default tests, the full one under the marker `faults`."""
    return pytest.mark.parametrize(
        "tried",
        [
            *([pytest.param(short, id="short")] if short else []),
            pytest.param(full, id="full", marks=pytest.mark.faults),
        ],
    )


def is_full(request) -> bool:
    return request.node.get_closest_marker("faults") is not None

"""The first signal asks, an echo of it is nothing, another one ends the process at once; in processes of their own."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from convnext.runtime.interruption import Interrupted, StopRequest

SCRIPT = """
    import multiprocessing, signal, time
    from convnext.runtime.interruption import Interrupted, StopRequest

    def hang():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

    with StopRequest() as stop:
        child = multiprocessing.get_context("fork").Process(target=hang, daemon=True)
        child.start()
        print(child.pid, flush=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # busy, and never interruptible
            if stop.signum is not None:
                print("noted", flush=True)
                break
            time.sleep(0.05)
        time.sleep(60)
"""


@pytest.fixture
def process():
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield started
    started.kill()
    started.communicate()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_process_and_its_children_at_once(process, signum, code):
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signum)  # an echo, as through torchrun
    time.sleep(1.3)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signum)
    assert process.wait(timeout=10) == code
    assert time.monotonic() - began < 2
    errors = process.stderr.read()
    assert "ended at once; the last checkpoint stands" in errors
    assert "Traceback" not in errors
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_only_what_is_interruptible_is_interrupted():
    with StopRequest(grace=0.05) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        time.sleep(0.2)  # a step is never cut
        began = time.monotonic()
        with pytest.raises(Interrupted), stop.interruptible():
            time.sleep(30)
        assert time.monotonic() - began < 2
        time.sleep(0.5)  # no reminder outside


def test_handlers_and_timer_are_given_back():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) not in before
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_outside_the_main_thread_signals_are_left_alone():
    before, failures = signal.getsignal(signal.SIGTERM), []

    def use():
        try:
            with StopRequest() as stop, stop.interruptible():
                assert signal.getsignal(signal.SIGTERM) == before
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert not failures

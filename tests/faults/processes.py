"""Commands in processes of their own, forked from this one, so that none of them pays for the imports again."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

NOBODY = 65534
PR_SET_PDEATHSIG = 1


class Child:
    """A forked process whose output goes to a file."""

    def __init__(self, work: Callable[[], int], output: Path):
        self.output, self.code = output, None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.setsid()
                if sys.platform == "linux":  # whoever ends the tests ends their processes too, stopped ones as well
                    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  pytest's own are in place here
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
                torch.set_num_threads(1)
                code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)

    def poll(self) -> bool:
        """True once it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float = 300) -> int:
        """The exit code, negative for a signal; kills what takes longer."""
        deadline = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"ran longer than {seconds:g} s: {self.text[-1000:]}")
            time.sleep(0.01)
        return self.code

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until `true()` or the process has ended."""
        deadline = time.monotonic() + seconds
        while not self.poll() and not true() and time.monotonic() < deadline:
            time.sleep(0.005)

    def signal(self, number: int) -> None:
        """To the process and its children, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            if self.code is None:
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def command(argv: Sequence[str], output: Path, before: Callable[[], object] = lambda: None) -> Child:
    """`convnext ARGV`; `before` runs in the process first."""

    def work() -> int:
        from convnext.cli import main

        before()
        return main.run([str(word) for word in argv])

    return Child(work, output)


def limit_files(size: int) -> None:
    """Writes beyond `size` bytes of a file fail from now on, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def become_nobody() -> None:
    """Give up root's right to write everywhere."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def survived(child: Child, *codes: int) -> str:
    """The output of a process that ended with one of these codes and without a traceback."""
    code = child.wait()
    assert code in codes, f"exit code {code}: {child.text[-1500:]}"
    assert "Traceback" not in child.text, child.text[-1500:]
    return child.text

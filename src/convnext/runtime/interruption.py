"""Ctrl-C and SIGTERM: the first asks the run to save and stop, within a second where it waits; another ends it at once."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REPEAT = 1.0  # seconds within which a second signal is an echo: one Ctrl-C reaches a process of torchrun twice


class Stopped(Exception):
    """The run was asked to stop and has saved its state; `code` is the exit code: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int, where: str):
        super().__init__(where)
        self.code = 128 + signum


class Interrupted(Exception):
    """An evaluation, or a wait for data, was asked to stop."""


class Hung(Interrupted):
    """An evaluation, or a wait for data, has not moved on for too long."""


class StopRequest:
    """A context in which SIGINT and SIGTERM set `signum`, and another one more than a second later ends the process.

    Inside `interruptible()`, `Interrupted` is raised once the request is `grace` seconds old, and `Hung` when `moved_on()` was
    not called for `patience` seconds. Signals are left as they are outside the main thread, where Python cannot handle them.
    """

    def __init__(self, grace: float = 0.5, patience: float = 0):
        self.signum: int | None = None
        self._grace, self._patience, self._asked, self._interruptible = grace, patience, 0.0, False
        self._before: dict = {}
        self._elders = multiprocessing.active_children()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGINT: self._note, signal.SIGTERM: self._note}
            if hasattr(signal, "setitimer"):  # not on Windows, where a wait lasts until its end
                handlers[signal.SIGALRM] = self._remind
            self._before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        return self

    def __exit__(self, *_) -> None:
        if hasattr(signal, "setitimer") and self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part of the run that can be abandoned anywhere: waiting for data, evaluating."""
        self.moved_on()
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def moved_on(self) -> None:
        """Begin to count the seconds of `patience` anew."""
        if self._patience and self._before and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self._patience)
            if self.signum is not None:  # the timer is that of the request
                self._remind_soon()

    def kill_children(self) -> None:
        """End the processes started since this request was made, such as loaders that hang in a file system."""
        children = [child for child in multiprocessing.active_children() if child not in self._elders]
        if not children:
            return
        # PyTorch's handler would raise an error for each of its workers that dies
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if hasattr(signal, "SIGCHLD") else None
        for child in children:
            child.kill()
        for child in children:
            child.join(timeout=1.0)
        if before is not None:
            signal.signal(signal.SIGCHLD, before)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum, self._asked = signum, time.monotonic()
            self._remind_soon()
        elif time.monotonic() - self._asked > REPEAT:
            self.kill_children()
            cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
            os.write(2, f"{cursor}convnext: ended at once; the last checkpoint stands.\n".encode())
            os._exit(128 + signum)

    def _remind_soon(self) -> None:
        if hasattr(signal, "setitimer"):
            left = self._asked + self._grace - time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.2), 0.2)

    def _remind(self, signum: int, frame: FrameType | None) -> None:
        if self._interruptible:
            self._interruptible = False
            raise Hung if self.signum is None else Interrupted

"""Ctrl-C and SIGTERM: the first asks the run to save and stop, a second Ctrl-C stops it at once."""

import signal
from types import FrameType


class Stopped(Exception):
    """The run was asked to stop and has saved its state; `code` is the exit code: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int, where: str):
        super().__init__(where)
        self.code = 128 + signum


class Interrupted(Exception):
    """An evaluation was asked to stop."""


class StopRequest:
    """A context in which SIGINT and SIGTERM set `signum` and do nothing else."""

    signum: int | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

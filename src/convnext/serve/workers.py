"""Several serving processes at one address: one that dies is replaced, signals reach all, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from convnext.errors import ConvNextError
from convnext.serve.metrics import SHARED
from convnext.serve.options import Options

FAILED = 3  # exit code of a worker whose models cannot be loaded
PAUSE = 2.0  # seconds before the next start where a worker ended before it was ready


class Workers:
    """The parent of the workers; it holds no model."""

    def __init__(self, options: Options, bound: socket.socket):
        self.options, self.bound = options, bound
        self.context = multiprocessing.get_context("spawn")
        self.processes: list[tuple[BaseProcess, Any]] = []
        self.ending, self.asked = False, 0.0  # asked to end, and when
        self.all_end = self.context.RawValue("b", 0)  # the same for the workers

    def run(self, started: Callable[[], None]) -> int:
        """Serve until SIGTERM or Ctrl-C; `started` is called once every worker accepts requests.

        Raises:
            ConvNextError: the models cannot be loaded; the worker has said why.
        """
        handlers: dict[int, Any] = {signal.SIGTERM: self._end, signal.SIGINT: self._end}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = lambda *_: self._tell(signal.SIGHUP)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        with tempfile.TemporaryDirectory(prefix="convnext-metrics-") as folder:
            os.environ[SHARED] = folder
            try:
                self.processes = [self._start() for _ in range(self.options.workers)]
                for process, ready in self.processes:
                    self._await(process, ready)
                if not self.ending:
                    started()
                self._keep()
                return self._drained()
            finally:
                for process, _ in self.processes:
                    process.kill()
                    process.join()
                del os.environ[SHARED]

    def _start(self) -> tuple[BaseProcess, Any]:
        ready, tell = self.context.Pipe(duplex=False)
        process = self.context.Process(target=work, args=(self.options, self.bound, tell, self.all_end))
        process.start()
        tell.close()
        return process, ready

    def _await(self, process: BaseProcess, ready: Any) -> None:
        """Wait until a worker of the first start accepts requests."""
        while not self.ending and not wait([ready, process.sentinel], 0.5):
            pass
        if not self.ending and not was_ready(ready):
            process.join()
            raise ConvNextError("A worker could not load the models; what it said stands above.")

    def _keep(self) -> None:
        """Replace workers that die."""
        from prometheus_client.multiprocess import mark_process_dead

        while not self.ending:
            wait([process.sentinel for process, _ in self.processes], 0.5)
            for k, (process, ready) in enumerate(self.processes):
                if process.exitcode is None or self.ending:
                    continue
                print(f"convnext: a worker ended ({process.exitcode}) and is replaced.", file=sys.stderr, flush=True)
                mark_process_dead(process.pid)
                if not was_ready(ready):
                    time.sleep(PAUSE)
                self.processes[k] = self._start()

    def _end(self, *_: object) -> None:
        again = self.ending and time.monotonic() - self.asked > 1
        if not self.ending:
            self.ending, self.asked, self.all_end.value = True, time.monotonic(), 1
        self._tell(signal.SIGKILL if again and hasattr(signal, "SIGKILL") else signal.SIGTERM)

    def _tell(self, signum: int) -> None:
        for process, _ in self.processes:
            if process.exitcode is None and process.pid:
                os.kill(process.pid, signum)

    def _drained(self) -> int:
        """Wait for the workers to finish what they have accepted; 1 if one had to be ended."""
        self.bound.close()  # once the workers have closed theirs nobody can connect, and wait for an answer
        until = self.asked + self.options.limits.drain + 5
        for process, _ in self.processes:
            process.join(max(until - time.monotonic(), 0.1))
        # a worker that SIGTERM ended had not begun to listen
        return 0 if all(process.exitcode in (0, -signal.SIGTERM) for process, _ in self.processes) else 1


def was_ready(ready: Any) -> bool:
    """True if a worker has ever said that it accepts requests."""
    try:
        return ready.poll() and ready.recv()
    except EOFError:
        return False


def work(options: Options, bound: socket.socket, ready: Any, all_end: Any) -> None:
    """One worker, in a process of its own."""
    import torch

    from convnext.console import clean
    from convnext.serve.lifecycle import run_service
    from convnext.serve.service import Service

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # until it accepts requests
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent tells
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(max((os.cpu_count() or 1) // options.workers, 1))
    try:
        service = Service(options)
    except ConvNextError as error:
        print(f"convnext: {clean(error)}", file=sys.stderr, flush=True)
        sys.exit(FAILED)
    if hasattr(signal, "SIGHUP"):
        service.reload_elsewhere = lambda: os.kill(os.getppid(), signal.SIGHUP)
    code = run_service(service, bound, lambda: ready.send(True), lambda: not all_end.value)
    sys.stderr.flush()
    os._exit(code)  # all is answered; the end of an interpreter with PyTorch's threads in it can hang


def end_with_parent() -> None:
    """End this process when its parent is gone, by a kill too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

"""A command on a real terminal (a pseudo-terminal) of a given width, as a person would see it."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import traceback
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import pytest

ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>78])")


@dataclass
class Screen:
    """What a command wrote: its exit code, everything with escapes, and the lines without them.

    A bar that is drawn over and over leaves a line for each time.
    """

    code: int
    raw: str
    width: int

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPE.sub("", self.raw)) if line.strip()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def shown(self) -> list[str]:
        """The lines that stay on the terminal, as a person scrolls back through them: a bar that was wiped is not among them."""
        lines, row, column = [""], 0, 0
        for piece in re.findall(rf"{ESCAPE.pattern}|[\r\n]|[^\x1b\r\n]+", self.raw):
            if piece == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif piece == "\r":
                column = 0
            elif up := re.fullmatch(r"\x1b\[(\d*)A", piece):
                row = max(row - int(up[1] or 1), 0)
            elif piece == "\x1b[2K":
                lines[row] = ""
            elif not piece.startswith("\x1b"):
                lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
                column += len(piece)
        return [line.rstrip() for line in lines]

    def too_long(self) -> list[str]:
        """Lines that are longer than the terminal is wide: it would break them anywhere."""
        return [line for line in self.lines if sum(cells(c) for c in line) > self.width]


def cells(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def on_terminal(argv: list[str], width: int = 80, **environment: str) -> Screen:
    """Run `convnext ARGV` in a fork of this process, whose input and output are a terminal of `width` columns."""
    module = import_module("convnext.cli.main")
    import_module(f"convnext.cli.{argv[0]}")  # once, and not in every fork
    return forked_on_terminal(lambda: module.run(argv), width, environment)


def program_on_terminal(command: list[str], width: int = 80, **environment: str) -> Screen:
    """Run any program whose input and output are a terminal of `width` columns."""
    return forked_on_terminal(lambda: os.execvp(command[0], command), width, environment)


def forked_on_terminal(work: Callable[[], int], width: int, environment: dict[str, str]) -> Screen:
    """Run a function in a fork of this process, whose input and output are a terminal; what it returns is the exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a fork of a process with threads: the child uses none of them
        child, master = pty.fork()
    if child == 0:
        code = 70
        try:
            sys.stdin, sys.stdout, sys.stderr = (open(i, "rw"[i > 0], encoding="utf-8") for i in range(3))  # noqa: SIM115
            for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
                os.environ.pop(name, None)
            os.environ.update({"TERM": "xterm-256color", **environment})
            os.read(0, 1)  # until the terminal has its size
            code = work()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 2
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    settings = termios.tcgetattr(master)
    settings[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(master, termios.TCSANOW, settings)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    os.write(master, b"\n")
    written = b""
    while True:
        try:
            some = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not some:
            break
        written += some
    os.close(master)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Screen(code, written.decode("utf-8", "replace"), width)


widths = pytest.mark.parametrize("width", [80, 100, 140])

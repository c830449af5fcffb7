"""Files that arrive in a folder, each once it is whole."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from convnext.data.images import IMAGE_EXTENSIONS

State = tuple[int, int]
"""Bytes and time of the last change (ns) of a file."""


def arrivals(folder: Path, pause: Callable[[], None]) -> Iterator[list[str]]:
    """For ever, the image files that have come since the last look, in the order of their last change.

    Those that are there when this is called are not among them. A file counts as whole when it is not empty and neither its size
    nor its time has changed between two looks; one that changes afterwards is a new one.

    Args:
        pause: waits between two looks.
    """
    return _looks(folder, pause, _states(folder))


def _looks(folder: Path, pause: Callable[[], None], known: dict[str, State]) -> Iterator[list[str]]:
    seen = known
    while True:
        pause()
        now = _states(folder)
        whole = {path: state for path, state in now.items() if seen.get(path) == state and state[0] > 0}
        new = [path for path, state in whole.items() if known.get(path) != state]
        known = {path: state for path, state in known.items() if path in now} | {path: whole[path] for path in new}
        seen = now
        yield sorted(new, key=lambda path: (now[path][1], path))


def _states(folder: Path) -> dict[str, State]:
    states = {}
    for at, _, names in os.walk(folder):
        for name in names:
            if Path(name).suffix.lower() in IMAGE_EXTENSIONS and not name.startswith("."):
                path = os.path.join(at, name)
                try:
                    found = os.stat(path)
                except OSError:  # gone, or no longer readable
                    continue
                states[path] = found.st_size, found.st_mtime_ns
    return states

"""Files from elsewhere, by the URLs that fsspec knows (https://, s3://, gs://, hf://, file://), whole and once.

Run as a program of its own, `python -m convnext.data.fetch`, because fsspec's threads and a fork do not go together: it reads a
JSON list of [url, path, needed] from the first line of its standard input, fetches them in this order, a few at a time. With
`--ahead` it goes on after a file that cannot be fetched, and ends when its input does, so that it does not outlive those who wait.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock

from convnext.errors import ConvNextError
from convnext.files import replace

AT_ONCE = 4
"""Files that are fetched at the same time."""
Wanted = tuple[str, Path, bool]
"""URL, the file that it becomes, and whether it has to be there."""


def fetch(wanted: Sequence[Wanted]) -> None:
    """Fetch files that are not there yet, and wait for them.

    Raises:
        ConvNextError: one that is needed cannot be fetched.
    """
    if all(path.exists() for _, path, _ in wanted):
        return
    done = subprocess.run(_command(), input=_listed(wanted), text=True, stderr=subprocess.PIPE)
    if done.returncode:
        raise ConvNextError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "The fetching was killed.")


def fetch_ahead(wanted: Sequence[Wanted]) -> subprocess.Popen | None:
    """Fetch files in this order while others work; errors are left to `fetch`, which whoever needs a file calls."""
    missing = [each for each in wanted if not each[1].exists()]
    if not missing:
        return None
    process = subprocess.Popen([*_command(), "--ahead"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdin
    process.stdin.write(_listed(missing))
    process.stdin.flush()
    return process


def _command() -> list[str]:
    return [sys.executable, "-m", "convnext.data.fetch"]


def _listed(wanted: Sequence[Wanted]) -> str:
    return json.dumps([[url, str(path), needed] for url, path, needed in wanted]) + "\n"


def main() -> int:
    """Fetch what the first line of standard input lists."""
    ahead, wanted = "--ahead" in sys.argv, json.loads(sys.stdin.readline())
    if ahead:
        threading.Thread(target=_end_with_input, daemon=True).start()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for problem in pool.map(_one, wanted):
            if problem and not ahead:
                print(problem, file=sys.stderr, flush=True)
                os._exit(1)
    return 0


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


def _one(wanted: tuple[str, str, bool]) -> str | None:
    """Fetch one file; returns what went wrong."""
    import fsspec

    url, path, needed = wanted[0], Path(wanted[1]), wanted[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # released when its process dies
            if path.exists():
                return None

            def write(aside: Path) -> None:
                with fsspec.open(url, "rb") as source, open(aside, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 22)  # type: ignore[arg-type]

            replace(path, write)
    except FileNotFoundError:
        return f"There is no {url}. Check the address." if needed else None
    except ImportError as error:
        return f"{url} needs a package that is not there ({error}). Install it with pip."
    except Exception as error:  # whatever a file system of somebody else raises
        if not needed:
            return None
        return (
            f"{url} cannot be fetched to {path}: {str(error) or type(error).__name__}. Try again, or copy it by hand."
        )
    return None


if __name__ == "__main__":
    sys.exit(main())

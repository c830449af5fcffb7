"""Files written whole or not at all: neither a reader nor a kill nor a full disk ever leaves half of one."""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with another name beside `path`, sync what it wrote, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.touch()
        mode = aside.stat().st_mode  # of an ordinary new file: some writers make theirs readable by the owner only
        write(aside)
        aside.chmod(mode)
        sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """`replace` for a small text file."""
    replace(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def replace_table(path: Path, table: Any) -> None:
    """`replace` for a pyarrow table, as Parquet."""
    from pyarrow import parquet

    def write(aside: Path) -> None:
        with aside.open("wb") as file:  # pyarrow takes some names for addresses, and none that is not UTF-8
            parquet.write_table(table, file)

    replace(path, write)


def is_utf8(path: Path) -> bool:
    """True if the name can be told to libraries that take UTF-8 only."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


@contextmanager
def table_source(path: Path) -> Iterator[Any]:
    """What pyarrow reads a file from: the whole path, which it takes for no address, or the open file if that is not UTF-8."""
    if is_utf8(path):
        yield path.absolute()
    else:
        with path.open("rb") as file:
            yield file


_LEFTOVER = re.compile(r"\..+[.-](\d+)")  # `.config.json.4711`, `.writing-4711`


def is_leftover(path: Path) -> bool:
    """True for the temporary file or folder of a process that has ended."""
    named = _LEFTOVER.fullmatch(path.name)
    return bool(named) and not _is_another_process(int(named[1]))


def clear_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`; nobody else may be writing there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_leftover(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_another_process(pid: int) -> bool:
    """True if `pid` is alive and not this process, which in a container may have the number of a dead one."""
    if pid == os.getpid() or os.name == "nt":  # on Windows the question would end the process
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def to_json(value: Any, indent: int | None = None) -> str:
    """Standard JSON: numbers that are not finite are null, where Python would write NaN."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(line: str) -> dict:
    """Read one line of metrics.jsonl; its nulls are NaN. Raises ValueError if the line is not a JSON object."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError(f"not a record: {line[:80]!r}")
    return {key: math.nan if value is None else value for key, value in record.items()}


def cache_folder() -> Path:
    """The folder of what can be fetched or made again: `CONVNEXT_CACHE`, or ~/.cache/convnext."""
    return Path(os.environ.get("CONVNEXT_CACHE", "~/.cache/convnext")).expanduser()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk before anything that is written later."""
    if os.name == "nt":  # Windows has no handle for a folder, and syncs only what is open for writing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

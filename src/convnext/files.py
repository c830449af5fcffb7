"""Writing files so that a reader, or a kill, or a full disk, never meets half of one."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under another name beside it, sync it, and rename it into place."""
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


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: what is not a finite number is null, where Python would write NaN."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(line: str) -> dict:
    """The inverse for one line of metrics.jsonl, whose nulls were numbers; ValueError if it is none."""
    return {key: math.nan if value is None else value for key, value in json.loads(line).items()}


def sync(path: Path) -> None:
    """Have a file or a folder on the disk before anything that is written later."""
    if os.name == "nt":  # Windows has no handle for a folder, and syncs only what is open for writing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

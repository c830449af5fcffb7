"""Names of many files in one word: braces, as shards are published (`train-{0000..0146}.tar`), and globs."""

import glob
import os
import re
from pathlib import Path

from convnext.errors import ConvNextError

MOST = 1_000_000
"""Files that one pattern may name."""
_SIGNS = re.compile(r"[{*?\[]")


def is_url(text: str) -> bool:
    """True for an address: https://, s3://, ..."""
    return bool(re.match(r"[a-z][a-z0-9+.-]*://", text))


def is_pattern(text: str) -> bool:
    """True for a word with braces or a glob's signs, unless it is an address, or a file or folder has just this name."""
    return not is_url(text) and bool(_SIGNS.search(text)) and not os.path.exists(os.path.expanduser(text))


def absolute(text: str) -> str:
    """A path or pattern that means the same from every folder."""
    return str(Path(text).expanduser().absolute())


def braces(pattern: str) -> list[str]:
    """Expand `{0000..0146}` (with the zeros of its first number) and `{a,b}`, the last fastest, as a shell does.

    Raises:
        ConvNextError: they name more than `MOST` files.
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    tails = braces(pattern[found.end() :])
    numbers = re.fullmatch(r"(\d{1,15})\.\.(\d{1,15})", found[1])
    if numbers is None:
        choices = found[1].split(",")
    elif (count := abs(int(numbers[2]) - int(numbers[1])) + 1) * len(tails) > MOST:
        raise ConvNextError(f"{pattern!r} names {count * len(tails):,} files, more than {MOST:,}. Give fewer.")
    else:
        first, last = int(numbers[1]), int(numbers[2])
        step = 1 if last >= first else -1
        choices = [f"{number:0{len(numbers[1])}d}" for number in range(first, last + step, step)]
    return [pattern[: found.start()] + choice + tail for choice in choices for tail in tails]


def matching_files(pattern: str) -> list[Path]:
    """The files of a pattern: those of its braces, each of which must be there, in their order; those of a glob, sorted.

    Raises:
        ConvNextError: nothing matches, or a file of the braces is not there.
    """
    files: list[Path] = []
    for name in braces(absolute(pattern)):
        found = [Path(each) for each in sorted(glob.glob(name))] if re.search(r"[*?\[]", name) else [Path(name)]
        if not found or not found[0].is_file():
            raise ConvNextError(
                f"{pattern!r}: there is no file {name}. Give a pattern of files that are all there, such as "
                "'shards/train-{0000..0146}.tar' or 'shards/train-*.tar'."
            )
        files += found
    return files

"""Run the commands of docs/tutorial.md in an empty folder and put what they print, and what they draw, into the page.

    python benchmarks/tutorial.py

A block of the page (or of --page) marked `bash` is run line by line on a terminal of 80 columns, one marked `console` too, and
each of its commands is a mistake; the block marked `text` after it is replaced by what stays on the terminal, its middle left
out where it is long. A block marked `python` is a file, whose name its first line has. Any command that fails ends it.
Needs pytest, whose helper the terminal is, and the extra `export`.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from terminal import Screen, program_on_terminal  # noqa: E402

LONGEST = 26
"""Lines of an output that are shown; of a longer one the first and the last."""
WIDEST = 900
PICTURES = {
    "batch.png": "data-check/batch.png",
    "curves.png": "runs/photos/curves.png",
    "confusion.png": "runs/photos/evaluation/confusion.png",
    "drawn.png": "drawn/0.jpg",
}
"""Pictures beside the page, and the files of the commands that they are."""
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each fenced block."""
    return (match.groups() for match in BLOCK.finditer(page))  # type: ignore[misc]


def run_line(line: str, mistaken: bool = False) -> Screen:
    """One command of the page on a terminal, in the current folder.

    Raises:
        RuntimeError: its exit code is not 0, or of a mistake neither 1 nor 2.
    """
    words = re.sub(r"\b(?<![-/.])python ", f"{sys.executable} ", line)
    words = re.sub(r"(^|&& )convnext ", rf"\1{sys.executable} -m convnext ", words)
    screen = program_on_terminal(["sh", "-c", words], 80)
    if screen.code not in ((1, 2) if mistaken else (0,)):
        raise RuntimeError(f"{line!r} ended with {screen.code}:\n{screen.text}")
    return screen


def shortened(lines: list[str]) -> list[str]:
    """The lines without empty ones at the ends and without the middle of very many."""
    while lines and not lines[-1]:
        lines = lines[:-1]
    while lines and not lines[0]:
        lines = lines[1:]
    half = LONGEST // 2
    return lines if len(lines) <= LONGEST else [*lines[:half], "...", *lines[-half:]]


def save_small(picture: Path, out: Path) -> None:
    """Copy a picture as PNG, at most `WIDEST` pixels wide, in 256 colours."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(out, optimize=True)


def recorded(page: str) -> str:
    """The page with the outputs of its commands, which are run in the current folder in their order."""
    output: list[str] = []

    def replaced(match: re.Match) -> str:
        kind, text = match.groups()
        if kind == "python":
            Path(text.split("\n", 1)[0].removeprefix("# ").strip()).write_text(text)
        elif kind in ("bash", "console"):
            output.clear()
            for line in filter(None, text.splitlines()):
                print(f"$ {line}", flush=True)
                many = len(text.splitlines()) > 1
                output.extend([f"$ {line}"] * many + shortened(run_line(line, kind == "console").shown))
        elif kind == "text":
            here = str(Path.cwd())
            return "```text\n" + "".join(f"{line.replace(here + '/', '')}\n" for line in output) + "```\n"
        return match[0]

    return BLOCK.sub(replaced, page)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "tutorial.md")
    parser.add_argument("--out", type=Path, help="the page to write; the same by default")
    arguments = parser.parse_args(argv)
    out = (arguments.out or arguments.page).absolute()
    page, before = arguments.page.read_text(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            text = recorded(page)
            for name, made in PICTURES.items():
                beside = out.parent / arguments.page.stem
                if f"{beside.name}/{name}" in page:
                    beside.mkdir(exist_ok=True)
                    save_small(Path(made), beside / name)
        finally:
            os.chdir(before)
    out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

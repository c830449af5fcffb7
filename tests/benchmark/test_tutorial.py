"""The pages with recorded commands are what their script makes: outputs, files that compile, pictures that are there."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
PAGES = {
    PAGE: {"# write_digits.py", "# elsewhere.py"},
    PAGE.with_name("sessions.md"): {"# write_photos.py", "# write_scenes.py"},
}
"""And the files that their commands need."""


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(ROOT / "benchmarks" / "tutorial.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_has_its_output_and_every_file_compiles(script, page):
    found = list(script["blocks"](page.read_text()))
    assert {text.split("\n", 1)[0] for kind, text in found if kind == "python"} == PAGES[page]
    for i, (kind, text) in enumerate(found):
        if kind == "python":
            compile(text, "page", "exec")
        elif kind in ("bash", "console"):
            assert found[i + 1][0] == "text"
            assert found[i + 1][1].strip(), f"run python benchmarks/tutorial.py --page {page.name}: no output of {text}"
            assert all(line.startswith(("convnext ", "python ", "ls ")) for line in text.splitlines())
    shown = "".join(text for kind, text in found if kind == "text")
    assert max(len(line) for line in shown.splitlines() if not line.startswith("$ ")) <= 80
    assert not re.search(r"Traceback|/tmp|\x1b", shown)
    assert re.search("held[- ]out", shown)


def test_pictures_are_there_and_small(script):
    named = set(re.findall(r"\]\(tutorial/([\w.]+)\)", PAGE.read_text()))
    assert named == set(script["PICTURES"])
    for name in named:
        assert 1000 < (PAGE.with_suffix("") / name).stat().st_size < 400_000


def test_outputs_and_files_are_put_into_a_page(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "\n".join(map(str, range(100)))
    page = f'```python\n# count.py\nprint("""{lines}""")\n```\n\n```bash\npython count.py\n```\n\n```text\nold\n```\n'
    made = script["recorded"](page)
    assert made.startswith(page.partition("```text")[0])
    output = made.partition("```text\n")[2].removesuffix("```\n").splitlines()
    assert output == [*map(str, range(13)), "...", *map(str, range(87, 100))]
    with pytest.raises(RuntimeError, match="ended with 3"):
        script["recorded"]("```bash\npython -c 'raise SystemExit(3)'\n```\n")


@pytest.mark.slow
def test_the_page_is_made_anew(script, tmp_path):
    """Other processors compute other last digits, so the outputs are compared by their form."""
    assert script["main"](["--out", str(tmp_path / "page.md")]) == 0
    old, new = PAGE.read_text(), (tmp_path / "page.md").read_text()
    assert re.sub(r"```text\n.*?```", "", new, flags=re.DOTALL) == re.sub(r"```text\n.*?```", "", old, flags=re.DOTALL)
    answers = re.findall(r"^others/digit (\d)/\d+\.png is digit \d$", new, re.MULTILINE)
    assert answers == ["3", "7"]
    top1 = [float(x) for x in re.findall(r"^best +best\.safetensors +([\d.]+)", new, re.MULTILINE)]
    assert len(top1) == 2
    assert min(top1) > 70, "ten percent is chance"

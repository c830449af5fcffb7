"""The layout and the habits: floors, file sizes, the map, and the commands of the docs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_floors():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    limit = 260 if "models" in path.parts else 400
    assert len(text.splitlines()) <= limit
    assert text.startswith('"""'), "a module begins with what it is for"


def test_every_path_of_the_map_exists():
    paths = re.findall(r"`([\w/.]+\.(?:py|md))`", (ROOT / "docs/map.md").read_text())
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def documented_commands() -> list[str]:
    """Lines of the README's and the docs' code blocks that begin with `convnext`, without their comments."""
    lines = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"```(?:bash|sh)?\n(.*?)```", page.read_text(), re.DOTALL):
            lines += [line.split("  #")[0].strip() for line in block.splitlines()]
    return [line.removeprefix("uv run ") for line in lines if re.match(r"(uv run )?convnext ", line)]


@pytest.mark.parametrize("command", documented_commands())
def test_commands_of_the_docs_are_understood(command):
    """Every option and name in them exists; the ones that need no data are run for real in tests/cli."""
    from convnext import recipes
    from convnext.cli import main, train

    words = shlex.split(command)[1:]
    assert words[0] in main.VERBS or words[0].startswith("-")
    if words[0] == "train":
        name, rest = train.take_word(words[1:], "quickstart", "a recipe")
        train.parse_arguments(name, rest, recipes.get(name))


def test_tables_of_the_docs_are_what_the_results_say():
    import runpy

    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    for page in tables["pages"]():
        assert page.read_text() == tables["rendered"](page), "run python benchmarks/tables.py"


def test_public_names():
    import convnext

    for name in convnext.__all__:
        assert getattr(convnext, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = convnext.nonsense
    assert set(convnext.__all__) <= set(dir(convnext))


def test_importing_the_package_is_cheap():
    script = "import sys, convnext; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "set()"


def test_a_prediction_imports_neither_torchvision_nor_the_compiler():
    """Each takes longer than most predictions."""
    script = """
import sys
import torch, convnext, convnext.classification.predict, convnext.export.runtime
from PIL import Image
from convnext.classification.transforms import Preprocess, eval_transform
image = eval_transform(Preprocess.for_size(64))(Image.new("RGB", (80, 70)))
convnext.create_model("convnext_atto").deploy()(image[None])
print({"torchvision", "torch._dynamo", "sympy"} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_create_and_list_models():
    import convnext

    assert "convnext_tiny" in convnext.list_models("convnext_*")
    assert len(convnext.list_models("roadmap_resnet50_*")) == 16
    model = convnext.create_model("convnext_atto", num_classes=3, in_chans=1, stem_stride=2)
    assert model.config["name"] == "convnext_atto"
    with pytest.raises(convnext.ConvNextError, match="convnext_tiny"):
        convnext.create_model("convnext_tinny")

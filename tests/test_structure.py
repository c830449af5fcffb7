"""The layout and the habits: floors, file sizes, the map, and the commands of the docs."""

import ast
import io
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
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


PACKAGE = ROOT / "src" / "convnext"
TASK_ROOMS = {"classification", "detection", "segmentation", "recipes", "paper", "tasks.py"}
TASKS = {"classification", "detection", "segmentation"}
RECIPES = {"Classification", "Detection", "Segmentation"}
OF_A_TASK = {
    "task",
    "auxiliary_head",
    "heads",
    "macs_forward",
    "names",
    "proposals",
    "reduce_zero_label",
    "rpn_samples",
}
"""Attributes that the models, results or recipes of some tasks have and of others have not."""
STILL_BRANCHING = {
    # how often a file still asks which task it has; entries may only go
    "data/formats/coco_file.py": 2,  # a key of COCO's files, and the name of an extra
}


def task_branches(text: str) -> list[str]:
    """Places in a source that tell one task from another: names of tasks, recipe classes, attributes that only some have."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Constant(value=str(value)) if value in TASKS:
                found.append(f"line {node.lineno}: {value!r}")
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]) if RECIPES & names_in(kinds):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
            case ast.MatchClass(cls=kind) if RECIPES & names_in(kind):
                found.append(f"line {kind.lineno}: case {ast.unparse(node)}")
            case ast.Call(func=ast.Name(id="hasattr" | "getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                if name in OF_A_TASK:
                    found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def names_in(node: ast.AST) -> set[str]:
    """Last names in an expression: {"Detection"} of `schema.Detection`."""
    nodes = list(ast.walk(node))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}


def test_only_the_task_folders_know_the_tasks():
    found = {}
    for path in SOURCES:
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in TASK_ROOMS and (branches := task_branches(path.read_text())):
            found[place.as_posix()] = branches
    counts = {place: len(branches) for place, branches in found.items()}
    more = {place: found[place] for place, count in counts.items() if count > STILL_BRANCHING.get(place, 0)}
    assert more == {}, "ask the task's specification (tasks.py) instead"
    fewer = {place: counts.get(place, 0) for place, count in STILL_BRANCHING.items() if counts.get(place, 0) < count}
    assert fewer == {}, "these branch less than allowed by STILL_BRANCHING: lower or remove the entries"


@pytest.mark.parametrize(
    "line",
    [
        'if spec.name == "detection": pass',
        'x = {"classification": 1}',
        "isinstance(recipe, Detection)",
        "isinstance(recipe, (int, schema.Segmentation))",
        "isinstance(recipe, Detection | Segmentation)",
        "match recipe:\n    case schema.Detection(augment=a): pass",
        'hasattr(model, "auxiliary_head")',
        'getattr(model, "task", None)',
    ],
)
def test_a_branch_on_the_task_is_seen(line):
    assert len(task_branches(line)) == 1
    assert task_branches(f'"""detection of {line!r}"""\ntask = spec.task\nisinstance(x, DetectionResult)') == []


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports, at its top or inside a function; those for type checkers are none."""
    wanted = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in names_in(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                wanted.add(inner if inner in modules else node.module)
        nodes += ast.iter_child_nodes(node)
    return wanted & modules.keys()


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        reached[start] = seen
    groups = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in graph if a in reached[a]}
    return sorted(map(list, groups))


def test_no_import_circle():
    modules = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {name: imports_of(path, modules) - {name} for name, path in modules.items()}
    assert sum(map(len, graph.values())) > 300
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert circles(graph) == []


def test_every_path_of_the_map_exists():
    paths = re.findall(r"`([\w/.]+\.(?:py|md))`", (ROOT / "docs/map.md").read_text())
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def documented_commands() -> list[str]:
    """Lines of code blocks that begin with `convnext`, of all pages for people, without their comments."""
    lines = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            if kind in ("", "bash", "sh"):
                lines += [line.split("  #")[0].strip() for line in block.splitlines()]
    return [line.removeprefix("uv run ") for line in lines if re.match(r"(uv run )?convnext ", line)]


@cache
def help_of(*words: str) -> str:
    """The text of `convnext WORDS --help`."""
    from convnext.cli import main

    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            code = main.run([*words, "--help"])
        except SystemExit as stop:
            code = stop.code
    assert code in (0, None), printed.getvalue()
    return printed.getvalue()


def known_options(verb: str, rest: list[str]) -> set[str]:
    """Every `--option` that the help of a verb shows; of `data` and `report`, that of their second word."""
    second = rest[:1] if verb in ("data", "report") or (verb == "train" and rest) else []
    return set(re.findall(r"--[a-z][\w.-]*", help_of(verb, *second)))


@pytest.mark.parametrize("command", sorted(set(documented_commands())))
def test_commands_of_the_docs_are_understood(command):
    """The verb, the recipe and every option of a documented command exist; tests/cli runs those that need no data."""
    from convnext import recipes
    from convnext.cli import main, train

    verb, *rest = shlex.split(command)[1:]
    assert verb in main.VERBS or verb.startswith("-")
    if verb == "train":
        name, options = train.take_word(rest, "quickstart", "a recipe")
        train.parse_arguments(name, options, recipes.get(name))
    else:
        wanted = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert wanted <= known_options(verb, rest)


def test_the_check_of_documented_commands_sees_a_wrong_option():
    assert len(documented_commands()) > 30
    assert "--format" in known_options("export", [])
    assert "--fromat" not in known_options("export", [])
    assert "--corruptions" in known_options("data", ["corrupt"])


def test_entries_of_the_log_have_a_date_and_a_verdict():
    titles = re.findall(r"^## (.*)$", (ROOT / "docs/log.md").read_text(), re.MULTILINE)
    assert len(titles) > 20
    assert [title for title in titles if not re.match(r"\d{4}-\d\d-\d\d:? .{15,}", title)] == []


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
    rooms = {path.stem for path in PACKAGE.iterdir()}
    assert rooms.isdisjoint(convnext.__all__), "importing a module binds its name in the package, over the function"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_importing_the_package_is_cheap():
    script = "import sys, convnext; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "set()"


def test_a_prediction_imports_neither_torchvision_nor_the_compiler():
    """Each takes longer than most predictions."""
    script = """
import sys
import torch, convnext, convnext.trained, convnext.export.runtime
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

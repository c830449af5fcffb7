"""Random command lines for every verb, in this process: an answer or one sentence, never a traceback."""

import dataclasses
import random
import shutil
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from scenario import is_full, scenario, sizes

from convnext import models, recipes
from convnext.cli import benchmark, convert, data, evaluate, hub, main, parsing, predict, report, robustness
from convnext.cli.export import Arguments as Export
from convnext.weights.save import save_weights
from pictures import draw_classes

MODEL = {"name": "convnext_atto", "num_classes": 2}
PREPROCESS = {"size": 32, "crop_ratio": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "4294967296",
    "99999999999999999999",
    "0.5",
    "1e-400",
    "None",
    "True",
    "0x10",
    "\u0661",
)
WORDS = (
    "",
    " ",
    "x",
    "--",
    "-",
    "=",
    "-1 2",
    "\x1b[31m",
    "[bold]",
    "[/]",
    "ü",
    "\udcff",
    "a" * 5000,
    "../..",
    "/dev/null",
    "/proc/self/mem",
    "*",
    "[",
    "{}",
    "%s",
    "\n",
    "'",
    "None",
    "fp32",
    "cpu",
    "best",
)


def options_of(kind: type, prefix: str = "--") -> list[str]:
    """Every option of a dataclass of arguments; those of nested recipes too."""
    found = []
    for each in fields(kind):
        inner = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        if is_dataclass(inner) and not isinstance(inner, type):
            nested = (
                prefix
                if each.name in ("options", "classification", "detection", "segmentation")
                else f"{prefix}{each.name}."
            )
            found += options_of(type(inner), nested.replace("_", "-"))
        else:
            found.append(f"{prefix}{each.name.replace('_', '-')}")
    return found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw_classes(tmp_path / "photos", {"across": 3, "down": 3})
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    tensors = models.build(**MODEL).state_dict()
    save_weights(
        tensors,
        tmp_path / "m.safetensors",
        metadata={"model": MODEL, "classes": ["across", "down"], "preprocess": PREPROCESS},
    )
    return tmp_path


VERBS = {
    "train": (["quickstart", "--dry-run"], options_of(type(recipes.get("quickstart")))),
    "predict": (["m.safetensors", "photos"], options_of(parsing.with_task_options(predict.Predict, "predict_options"))),
    "evaluate": (
        ["m.safetensors", "--data", "photos"],
        options_of(parsing.with_task_options(evaluate.Evaluate, "evaluate_options")),
    ),
    "robustness": (["m.safetensors", "--clean", "nothing"], options_of(robustness.Arguments)),
    "benchmark": (["nothing"], options_of(benchmark.Arguments)),
    "info": (["m.safetensors"], ["--speed", "--diff", "recipe", "recipes", "catalog", "peers"]),
    "data": (["check", "photos"], options_of(data.Arguments)),
    "convert": (["m.safetensors", "out"], options_of(convert.Arguments)),
    "export": (["m.safetensors", "--format", "aot-inductor", "--precision", "int8"], options_of(Export)),
    "hub": (["push", "m.safetensors", "nobody"], options_of(hub.Push)),
    "report": (["curves", "nothing"], options_of(report.Roadmap)),
    "completion": (["bash"], ["--shell"]),
}
"""What is common to all lines of a verb, cheap to answer, and its options."""


def line(verb: str, chance: random.Random) -> list[str]:
    common, options = VERBS[verb]
    words = list(common) if chance.random() < 0.8 else common[: chance.randrange(len(common) + 1)]
    for _ in range(chance.randrange(1, 4)):
        option = chance.choice(options)
        kind = chance.randrange(10)
        if kind == 0:
            option = option[: chance.randrange(len(option) + 1)] + chance.choice("xyz.-")
        value = chance.choice(NUMBERS if chance.random() < 0.6 else WORDS)
        words += [f"{option}={value}"] if kind == 1 else [option] if kind == 2 else [option, value]
    if chance.random() < 0.15:
        words.insert(chance.randrange(len(words) + 1), chance.choice(WORDS))
    return words


@sizes(3, 500)
@pytest.mark.parametrize("verb", VERBS)
def test_random_command_lines(verb, place, request, tried, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CONVNEXT_CACHE", str(place / "cache"))
    keep = {path.name: path.read_bytes() for path in (place / "photos").rglob("*") if path.is_file()}
    with scenario(
        f"options of {verb}",
        f"random command lines of `{verb}`: an answer or one sentence, no traceback, images unchanged",
        is_full(request),
    ) as now:
        chance = random.Random(verb)
        for _ in range(tried):
            words = line(verb, chance)
            with now.case(ascii(words)[:300]):
                try:
                    code = main.run([verb, *words])
                except SystemExit as stop:  # --help and typos
                    code = stop.code
                assert code in (0, 1, 2), code
                said = "".join(capsys.readouterr())
                assert "Traceback" not in said
                assert "\x1b" not in said
            if not (place / "m.safetensors").exists():
                pytest.fail(f"the model is gone after {words}")
            for path in place.iterdir():
                if path.name not in ("photos", "m.safetensors"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert keep == {path.name: path.read_bytes() for path in (place / "photos").rglob("*") if path.is_file()}

"""Completion: bash runs the script; the scripts of zsh and fish are read, and run by their shells where these are there."""

import shutil
import subprocess

import pytest

from convnext.cli import completion
from convnext.cli.main import VERBS, run


@pytest.fixture(scope="module")
def verbs():
    return completion.verbs()


@pytest.fixture(scope="module")
def script(verbs, tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "convnext.bash"
    path.write_text(completion.bash(verbs))
    return path


def completed(script, *words, folder="/"):
    """Words that bash offers for the last of `words`."""
    quoted = " ".join(f"'{word}'" for word in ("convnext", *words))
    code = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _convnext; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("pre",), ["predict"]),
        (("train", "table5/tiny-"), ["table5/tiny-22k"]),
        (("train", "quickstart", "--optim.layer"), ["--optim.layer-decay"]),
        (("evaluate", "convnext_base.in22k_in1k_3"), ["convnext_base.in22k_in1k_384"]),
        (("predict", "model", "--thr"), ["--threshold"]),
        (("convert", "a", "b", "--format", "tim"), ["timm"]),
        (("export", "run", "--format", "open"), ["openvino"]),
        (("benchmark", "roadmap_resnet200_w"), ["roadmap_resnet200_width"]),
        (("info", "pee"), ["peers"]),
        (("data", "cor"), ["corrupt"]),
        (("data", "corrupt", "--sev"), ["--severities"]),
        (("report", "fig"), ["figure1"]),
        (("completion", "z"), ["zsh"]),
        (("train", "quickstart", "--no-such"), []),
    ],
)
def test_bash(script, words, offered):
    assert completed(script, *words) == offered


def test_bash_offers_all_verbs_and_files_beside_names(script, tmp_path):
    assert set(completed(script, "")) == set(VERBS)
    (tmp_path / "convnext_base.pth").touch()
    offered = completed(script, "evaluate", "convnext_base.", folder=tmp_path)
    assert {"convnext_base.pth", "convnext_base.in22k"} <= set(offered)


def test_other_shells(verbs, tmp_path):
    texts = {"zsh": completion.zsh(verbs), "fish": completion.fish(verbs)}
    assert "bashcompinit" in texts["zsh"]
    assert "complete -c convnext -n '__fish_seen_subcommand_from convert' -l format -x -a 'safetensors" in texts["fish"]
    for shell, text in texts.items():
        if shutil.which(shell):
            (tmp_path / shell).write_text(text)
            subprocess.run([shell, "-n", str(tmp_path / shell)], check=True)


def test_a_shell_that_is_not_known(capsys):
    assert run(["completion", "fisch"]) == 2
    assert "Did you mean 'fish'" in " ".join(capsys.readouterr().err.split())
    assert run(["completion", "--help"]) == 0

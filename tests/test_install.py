"""The wheel, installed into a fresh environment, holds all that the commands need."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import convnext

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv")


def done(*command: object, cwd: Path) -> str:
    """The output of a command, which must succeed; nothing of this process's environment leads to the source folder."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ended = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="uv is not installed")
def test_the_wheel_runs_from_a_fresh_environment(tmp_path):
    done(UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "convnext/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"convnext", f"convnext-{convnext.__version__}.dist-info"}

    done(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "env", cwd=tmp_path)
    folder = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python, command = folder / "python", folder / "convnext"
    done(UV, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel, cwd=tmp_path)
    site = Path(done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    libraries = Path(pytest.__file__).parents[
        1
    ]  # of this environment, in place of a download; its own .pth files are not read
    (site / "libraries.pth").write_text(f"{libraries}\n")
    source = Path(done(python, "-c", "import convnext; print(convnext.__file__)", cwd=tmp_path).strip())
    assert source.is_relative_to(site)

    assert "convnext train" in done(command, "--help", cwd=tmp_path)
    assert "convnext_atto" in done(command, "info", "models", "convnext_atto", cwd=tmp_path)
    convnext.save_weights(convnext.create_model("convnext_atto", num_classes=3), tmp_path / "atto.safetensors")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "image.png")
    answers = done(command, "predict", "atto.safetensors", "image.png", "--json", cwd=tmp_path)
    assert '"file": "image.png"' in answers

"""The libraries of the extra `serve`, and model files that every test of this folder may use."""

from pathlib import Path

import pytest

for module in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client", "httpx"):
    pytest.importorskip(module)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """A classifier's and a segmenter's file; a detector takes seconds for each image."""
    from served_models import classifier, segmenter

    folder = tmp_path_factory.mktemp("models")
    return {
        "classifier": classifier(folder / "classifier.safetensors"),
        "segmenter": segmenter(folder / "segmenter.safetensors"),
    }


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory) -> Path:
    """A detector's file."""
    from served_models import detector

    return detector(tmp_path_factory.mktemp("detector") / "detector.safetensors")

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

from convnext.errors import ConvNextError
from convnext.weights import hub

METADATA = {
    "task": "classification",
    "classes": ["cat", "dog", "owl"],
    "preprocess": {"size": 64, "crop_ratio": 0.875},
    "metrics": {"top1": 91.25},
    "data": "pets",
    "recipe": "small/finetune",
}


@pytest.fixture
def model(random_model):
    return random_model("convnext_atto", num_classes=3)


@pytest.fixture
def api(monkeypatch):
    """A Hub that keeps what it is sent."""

    class Api:
        uploads = {}

        def create_repo(self, repo_id, **_):
            if "/" not in repo_id:
                raise huggingface_hub.errors.HFValidationError("A bad name.")

        def upload_folder(self, repo_id, folder_path, **_):
            self.uploads[repo_id] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
            return f"commit of {repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def test_a_folder_comes_back(model, tmp_path):
    folder = hub.save_pretrained(model, tmp_path / "pets", METADATA)
    assert json.loads((folder / "config.json").read_text())["model"] == model.config
    again, checkpoint = hub.from_pretrained(folder, drop_path_rate=0.1)
    assert torch.equal(again.head.weight, model.head.weight)
    assert checkpoint.metadata == {"model": model.config, "num_classes": 3, **METADATA}


def test_the_card_says_what_the_run_knows(model, tmp_path):
    card = (hub.save_pretrained(model, tmp_path, METADATA, "me/pets") / "README.md").read_text()
    for fact in ("# convnext_atto", "cat, dog, owl", "size 64", "| top1 | 91.25 |", "pets", "small/finetune"):
        assert fact in card
    assert 'from_pretrained("me/pets")' in card
    assert "Licence" not in card


def test_push(model, api, monkeypatch, tmp_path):
    assert hub.push_to_hub(model, "me/pets", METADATA) == "commit of me/pets"
    sent = api.uploads["me/pets"]
    assert sent.keys() == {"model.safetensors", "config.json", "README.md"}
    for name, content in sent.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo_id, **_: str(tmp_path))
    assert torch.equal(hub.from_pretrained("me/pets")[0].head.weight, model.head.weight)


def test_errors_of_the_hub(model, api, monkeypatch):
    with pytest.raises(ConvNextError, match=r"'pets' could not be used: A bad name. .*hf auth login"):
        hub.push_to_hub(model, "pets")

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("No connection.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConvNextError, match="'me/pets' could not be used: No connection"):
        hub.from_pretrained("me/pets")

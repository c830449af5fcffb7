"""`convnext hub`: a model goes to a faked Hub and comes back; no network."""

import shutil
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import pytest
import torch

import convnext
from convnext.cli import main


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in a folder: what is uploaded can be downloaded again."""
    root = tmp_path / "hub"

    class Api:
        created = {}

        def create_repo(self, repo_id, private, exist_ok):
            assert exist_ok
            self.created[repo_id] = private

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, root / repo_id)
            return f"https://hub/{repo_id}"

    def snapshot_download(repo_id, allow_patterns, local_dir):
        if not (root / repo_id).exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("No such repository.")
        for file in (root / repo_id).iterdir():
            if file.name in allow_patterns:
                Path(local_dir).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, local_dir)
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    Api.root = root
    return Api


MODELS = {
    "convnext_atto": ("image-classification", {"size": 32, "crop_ratio": 1.0}),
    "mask_rcnn_convnext_atto": ("object-detection", {"short": 64, "long": 96}),
    "upernet_convnext_atto": ("image-segmentation", {"short": 64, "long": 96, "crop": 64}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_every_task_goes_and_comes_back(name, hub, tmp_path, capsys):
    tag, preprocess = MODELS[name]
    model = convnext.create_model(name, num_classes=3)
    facts = {"classes": ["cat", "[red]dog", "owl"], "preprocess": preprocess, "metrics": {"score": 91.25}}
    convnext.save_weights(model, tmp_path / "x.safetensors", metadata=facts)
    assert main.run(["hub", "push", str(tmp_path / "x.safetensors"), "me/pets", "--private"]) == 0
    assert hub.created["me/pets"] is True
    card = (hub.root / "me/pets/README.md").read_text()
    assert f"pipeline_tag: {tag}\n" in card
    assert "| score | 91.25 |" in card
    assert main.run(["hub", "pull", "me/pets", "--out", str(tmp_path / "here")]) == 0
    assert f"me/pets (safetensors, {name}) -> {tmp_path}/here" in capsys.readouterr().out.replace("\n", " ").replace(
        "  ", " "
    )
    again, checkpoint = convnext.from_pretrained(str(tmp_path / "here"))
    assert all(torch.equal(t, again.state_dict()[key]) for key, t in model.state_dict().items())
    assert checkpoint.metadata["classes"] == facts["classes"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["push", "nothing", "me/pets"], "no file or folder nothing"),
        (["push", "convnext_tiny.in1k", "pets"], "give owner/name"),
        (["pull", "me/none"], "could not be used: No such repository"),
        (["pull", "me/pets/x"], "give owner/name"),
        (["pull", "me/pets", "--out", "."], "exists already"),
        (["pul", "me/pets"], "Did you mean 'pull'"),
    ],
)
def test_mistakes(argv, message, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert main.run(["hub", *argv]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("verb", [[], ["push"], ["pull"]])
def test_help_has_examples(verb, capsys):
    with suppress(SystemExit):  # as tyro ends after its help
        assert main.run(["hub", *verb, "--help"]) == 0
    assert "convnext hub push runs/small-finetune me/pets" in capsys.readouterr().out

"""Share a model as a folder or a repository on the Hugging Face Hub: weights, settings and a card about them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from convnext.errors import ConvNextError
from convnext.files import replace_text
from convnext.weights.load import Checkpoint, load_model, read_checkpoint
from convnext.weights.save import save_weights

FILES = ["model.safetensors", "pytorch_model.bin", "config.json", "preprocessor_config.json"]


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    metadata: dict | None = None,
    repo_id: str | None = None,
    pipeline_tag: str | None = None,
) -> Path:
    """Write `model.safetensors`, `config.json` (the metadata, readable) and `README.md` (the model card).

    Args:
        metadata: as for `save_weights`; the card shows `data`, `metrics`, `recipe`, `preprocess`, `classes`,
            `licence` and `source`.
        repo_id: the name under which the card says to load it; the folder's path if none.
        pipeline_tag: the Hub's word for what the model does, such as image-classification.

    Returns:
        The folder.
    """
    folder = Path(folder)
    file = save_weights(model, folder / "model.safetensors", metadata=metadata)
    metadata = read_checkpoint(file).metadata
    replace_text(folder / "config.json", json.dumps(metadata, indent=2))
    replace_text(folder / "README.md", model_card(metadata, repo_id or str(folder), pipeline_tag))
    return folder


def from_pretrained(folder_or_repo_id: str | Path, **options) -> tuple[nn.Module, Checkpoint]:
    """The model of a local folder or a Hub repository, ours or one of transformers; options as for `load_model`.

    It opens classifiers; `convnext.from_pretrained` opens every model.

    Raises:
        ConvNextError: no such folder or repository, no connection, or it holds no ConvNeXt.
    """
    folder = Path(folder_or_repo_id).expanduser()
    return load_model(folder if folder.is_dir() else pull_from_hub(str(folder_or_repo_id)), **options)


def pull_from_hub(repo_id: str, folder: Path | None = None) -> Path:
    """Download the weights and settings of a repository; nothing in it is run.

    Args:
        folder: where to; the Hub's own cache if None.

    Returns:
        The folder with the files.

    Raises:
        ConvNextError: no such repository, no right to read it, or no connection.
    """
    from huggingface_hub import snapshot_download

    with _hub_errors(repo_id):
        return Path(snapshot_download(repo_id, allow_patterns=FILES, local_dir=folder))


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    metadata: dict | None = None,
    *,
    private: bool = False,
    commit_message: str = "Upload ConvNeXt",
    pipeline_tag: str | None = None,
) -> str:
    """Create the repository if need be and upload the files of `save_pretrained`, whose arguments these are.

    Returns:
        The URL of the commit.

    Raises:
        ConvNextError: not logged in, no right to write there, or no connection.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, metadata, repo_id, pipeline_tag)
        with _hub_errors(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message))


def model_card(metadata: dict, where: str, pipeline_tag: str | None = None) -> str:
    """A README for the Hub from the metadata; sections without a value are left out.

    Args:
        where: folder or repository, for the lines that load it.
    """
    config = metadata.get("model") or {}
    name = config.get("name", "ConvNeXt")
    tag = f"pipeline_tag: {pipeline_tag}\n" if pipeline_tag else ""
    facts = {
        "Model": f"{name}, `{json.dumps(config)}`",
        "Classes": metadata.get("num_classes"),
        "Data": metadata.get("data"),
        "Recipe": metadata.get("recipe"),
        "Preprocessing": ", ".join(f"{key} {value}" for key, value in (metadata.get("preprocess") or {}).items()),
        "Licence": metadata.get("licence"),
        "Source": metadata.get("source"),
    }
    parts = [
        f"---\nlibrary_name: convnext\n{tag}tags:\n- convnext\n---\n",
        f"# {name}\n",
        'A ConvNeXt ("A ConvNet for the 2020s", Liu et al., CVPR 2022).\n',
        "\n".join(f"- **{label}**: {value}" for label, value in facts.items() if value) + "\n",
    ]
    if metrics := metadata.get("metrics"):
        rows = "\n".join(f"| {key} | {value:g} |" for key, value in metrics.items() if value is not None)
        parts.append(f"## Metrics\n\n| metric | value |\n|---|---|\n{rows}\n")
    parts.append(
        "## Use\n\n```python\nimport convnext\n\n"
        f'model, checkpoint = convnext.from_pretrained("{where}")\n'
        "outputs = model.eval()(images)  # (B, channels, H, W), preprocessed as above\n```\n"
    )
    if classes := metadata.get("classes"):
        parts.append(f"## Classes\n\n{', '.join(map(str, classes))}\n")
    return "\n".join(parts)


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    # of whichever HTTP library this version of huggingface_hub uses
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        yield
    except (OSError, ValueError, HTTPError) as error:  # the Hub's own errors are OSErrors, an invalid name a ValueError
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConvNextError(
            f"The Hugging Face Hub repository {repo_id!r} could not be used: {reason}. A name is `owner/name`; private "
            "repositories and uploads need `hf auth login`."
        ) from error

"""transformers' names (ConvNextForImageClassification, ConvNextModel, ConvNextBackbone) and the JSON beside them."""

import json
from collections.abc import Iterable
from pathlib import Path

from PIL.Image import Resampling

from convnext.weights.infer import architecture, options
from convnext.weights.names import NameTable, Tensors

BLOCK = {
    "gamma": "layer_scale_parameter",
    "dwconv": "dwconv",
    "norm": "layernorm",
    "pwconv1": "pwconv1",
    "pwconv2": "pwconv2",
}
TABLE = NameTable(
    "transformers",
    [
        ("downsample_layers.0.0", "embeddings.patch_embeddings"),
        ("downsample_layers.0.1", "embeddings.layernorm"),
        *((f"downsample_layers.{i}", f"encoder.stages.{i}.downsampling_layer") for i in (1, 2, 3)),
        *(
            (f"stages.{i}.#.{ours}", f"encoder.stages.{i}.layers.#.{theirs}")
            for i in range(4)
            for ours, theirs in BLOCK.items()
        ),
        ("norm", "layernorm"),
        *((f"norm{i}", f"hidden_states_norms.stage{i + 1}") for i in range(4)),
        ("head", "classifier"),
    ],
)


def matches(keys: Iterable[str]) -> bool:
    return any(key.removeprefix("convnext.") == "embeddings.patch_embeddings.weight" for key in keys)


def to_ours(tensors: Tensors) -> Tensors:
    return TABLE.to_ours({name.removeprefix("convnext."): tensor for name, tensor in tensors.items()})


def from_ours(tensors: Tensors) -> Tensors:
    """A classifier gets the names of ConvNextForImageClassification, a backbone those of ConvNextBackbone."""
    renamed = TABLE.from_ours(tensors)
    if "head.weight" not in tensors:
        return renamed
    return {name if name.startswith("classifier.") else f"convnext.{name}": t for name, t in renamed.items()}


def read_metadata(folder: Path) -> dict:
    """Our metadata (`classes`, `preprocess`) from the JSON files of a `save_pretrained` folder, as far as they go."""
    metadata = {}
    labels = _read_json(folder / "config.json").get("id2label", {})
    if any(label != f"LABEL_{i}" for i, label in labels.items()):
        metadata["classes"] = [labels[i] for i in sorted(labels, key=int)]
    if processor := _read_json(folder / "preprocessor_config.json"):
        size = processor["size"]
        size = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]  # an int before 2023
        metadata["preprocess"] = {
            "size": size,
            "crop_ratio": processor.get("crop_pct", 0.875) if size < 384 else 1.0,
            "mean": processor["image_mean"],
            "std": processor["image_std"],
            "interpolation": Resampling(processor["resample"]).name.lower(),
        }
    return metadata


def configs(tensors: Tensors, metadata: dict) -> dict[str, dict]:
    """File name -> content of the JSON with which `from_pretrained` opens a folder of these tensors (our names)."""
    depths, dims = architecture(tensors)
    model = options(tensors)
    preprocess = metadata.get("preprocess", {})
    size = preprocess.get("size", 224)
    config = {
        "architectures": ["ConvNextForImageClassification"],
        "model_type": "convnext",
        "depths": depths,
        "hidden_sizes": dims,
        "num_stages": len(dims),
        "num_channels": model["in_chans"],
        "patch_size": 4,
        "image_size": size,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": model["layer_scale_init_value"],
    }
    if model["num_classes"] is None:
        config |= {"architectures": ["ConvNextBackbone"], "out_features": [f"stage{i + 1}" for i in range(len(dims))]}
    else:
        classes = metadata.get("classes") or [f"LABEL_{i}" for i in range(model["num_classes"])]
        config["id2label"] = dict(enumerate(classes))
        config["label2id"] = {label: i for i, label in enumerate(classes)}
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},  # at 384 and above the processor warps the whole image, as the paper does
        "crop_pct": preprocess.get("crop_ratio", 0.875),
        "resample": Resampling[preprocess.get("interpolation", "bicubic").upper()],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": preprocess.get("mean", (0.485, 0.456, 0.406)),
        "image_std": preprocess.get("std", (0.229, 0.224, 0.225)),
    }
    return {"config.json": config, "preprocessor_config.json": processor}


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

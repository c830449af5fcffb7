"""transformers' names (ConvNextForImageClassification, ConvNextModel, ConvNextBackbone) and the JSON beside them."""

import re
from collections.abc import Iterable
from pathlib import Path

from PIL.Image import Resampling

from convnext.errors import ConvNextError
from convnext.models.recognise import options, stages
from convnext.weights import metadata as schema
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
    """Our metadata (`classes`, `preprocess`) from the JSON files of a `save_pretrained` folder, as far as they go.

    Raises:
        ConvNextError: a value of another type or range, or a preprocessing that ours cannot express.
    """
    metadata = {}
    labels = _read_json(folder / "config.json", schema.TransformersConfig).get("id2label", {})
    if any(label != f"LABEL_{i}" for i, label in labels.items()):
        metadata["classes"] = [labels[i] for i in sorted(labels, key=int)]
    file = folder / "preprocessor_config.json"
    if processor := _read_json(file, schema.TransformersProcessor):
        metadata["preprocess"] = {
            **_geometry(processor, file),
            "mean": processor["image_mean"],
            "std": processor["image_std"],
            "interpolation": Resampling(processor.get("resample", Resampling.BICUBIC)).name.lower(),
        }
    return metadata


def _geometry(processor: dict, file: Path) -> dict:
    """`size` and `crop_ratio` from the settings of an image processor of transformers.

    ConvNextImageProcessor crops the centre below 384 px and warps the whole image from there on, ViTImageProcessor
    always warps, CLIPImageProcessor and BitImageProcessor crop. A crop of the whole short side is not a warp: it has a
    `crop_ratio` a little below 1.
    """
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or "ConvNextImageProcessor"
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(kind))
    stated = processor["size"]
    size = {"shortest_edge": stated} if isinstance(stated, int) else stated
    short, height, crop = size.get("shortest_edge"), size.get("height"), processor.get("crop_size")
    if kind == "ConvNext" and (side := short or height):
        ratio = processor.get("crop_pct") or 224 / 256
        return {"size": side, "crop_ratio": 1.0 if side >= 384 else _cropped(side, int(side / ratio))}
    if kind in ("ViT", "DeiT") and isinstance(stated, int):
        return {"size": stated, "crop_ratio": 1.0}
    if kind == "ViT" and height and height == size.get("width"):
        return {"size": height, "crop_ratio": 1.0}
    side = crop.get("height") if isinstance(crop, dict) and crop.get("height") == crop.get("width") else crop
    if kind in ("CLIP", "Bit") and short and isinstance(side, int) and 0 < side <= short:
        return {"size": side, "crop_ratio": _cropped(side, short)}
    raise ConvNextError(
        f"The preprocessing in {file} ({kind}, size {stated}, crop {crop}) cannot be expressed here: known are the image "
        "processors of ConvNext, ViT, CLIP and Bit with square inputs. Load the file of weights in that folder by its own "
        "path to leave the preprocessing out."
    )


def _cropped(side: int, short: int) -> float:
    """The `crop_ratio` below 1 with which the short side is scaled to `short` pixels before `side` of them are kept."""
    return side / short if side < short and int(side / (side / short)) == short else side / (short + 0.5)


def _processor(preprocess: dict) -> dict:
    """The image processor of transformers that does the same; the inverse of `_geometry`."""
    size, ratio = preprocess.get("size", 224), preprocess.get("crop_ratio", 0.875)
    if ratio < 1 and size < 384:
        return {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": size}, "crop_pct": ratio}
    if ratio < 1:
        return {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": int(size / ratio)},
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
        }
    if size < 384:
        return {"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}}
    return {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": size}}


def configs(tensors: Tensors, metadata: dict) -> dict[str, dict]:
    """File name -> content of the JSON with which `from_pretrained` opens a folder of these tensors (our names)."""
    depths, dims = stages(tensors)
    model = options(tensors)
    preprocess = metadata.get("preprocess") or {}
    if "short" in preprocess:
        raise ConvNextError(
            "The transformers format has no image processor for the preprocessing of a detector or segmenter. Leave "
            "`preprocess` out of the metadata, or save as 'safetensors'."
        )
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
        if (
            metadata.get("thresholds") is not None
        ):  # these themselves it cannot say: its pipelines ask for one of all classes
            config["problem_type"] = "multi_label_classification"
    processor = {
        **_processor(preprocess),
        "do_resize": True,
        "resample": Resampling[preprocess.get("interpolation", "bicubic").upper()],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": preprocess.get("mean", (0.485, 0.456, 0.406)),
        "image_std": preprocess.get("std", (0.229, 0.224, 0.225)),
    }
    return {"config.json": config, "preprocessor_config.json": processor}


def _read_json(path: Path, kind: type) -> dict:
    return schema.read(path.read_text(encoding="utf-8", errors="replace"), path, kind) if path.exists() else {}

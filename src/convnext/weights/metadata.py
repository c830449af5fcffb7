"""The one schema of all metadata that is read from a file: what has another type or size than expected is refused.

A file may come from anybody. What stands here is interpreted; other keys are kept as they are and never interpreted.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from convnext.errors import ConvNextError

LONGEST_TEXT = 16 << 20  # characters of JSON: the 21,841 names of ImageNet-22K take 0.5 million

Word = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w.+-]+$")]
Text = Annotated[str, Field(max_length=10_000)]
Labels = Annotated[list[Annotated[str, Field(max_length=1_000)]], Field(max_length=100_000)]
Thresholds = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(max_length=100_000)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Channels = Annotated[int, Field(ge=1, le=8192)]
Side = Annotated[int, Field(ge=1, le=8192)]  # pixels
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Model(_Section):
    """The registered name and the options of `build`, which refuses options that the model does not have."""

    name: Word
    num_classes: Count | None = None
    in_chans: Annotated[int, Field(ge=1, le=1024)] = 3
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    layer_scale_init_value: Annotated[float, Field(ge=0, le=100)] = 0.0
    head_init_scale: Annotated[float, Field(ge=-1000, le=1000)] = 1.0
    stem_stride: Literal[1, 2, 4] = 4
    width_mult: Annotated[float, Field(gt=0, le=16)] = 1.0
    depth_mult: Annotated[float, Field(gt=0, le=16)] = 1.0
    channels: Channels = 1
    auxiliary_channels: Channels = 1
    checkpoint_backbone: bool = False
    rpn_samples: Annotated[int, Field(ge=1)] | None = None
    roi_samples: Annotated[int, Field(ge=1)] | None = None


class Preprocess(_Section):
    """Sizes in pixels; mean and deviation per channel of values in 0..1."""

    size: Side = 1
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bicubic"
    short: Side = 1
    long: Side = 1
    crop: Side | None = None
    mean: Annotated[list[Number], Field(min_length=1, max_length=1024)] = [0.0]
    std: Annotated[list[Positive], Field(min_length=1, max_length=1024)] = [1.0]


class Reading(_Section):
    """How the training data was read, where that was not found out (`recipes.reading`)."""

    format: Word | None = None
    images: Text | None = None
    file_column: Text | None = None
    label_columns: Annotated[list[Text], Field(max_length=100_000)] = []
    split_column: Text | None = None
    separator: Text | None = None


class Split(_Section):
    """The training data and how it was split, so that `evaluate` finds the held-out part."""

    data: Text | None = None
    val: Text | None = None
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    seed: int = 0
    fingerprint: Annotated[str, Field(max_length=200)] | None = None
    upright: bool = True
    reduce_zero_label: bool | None = None
    read: Reading = Reading()


class Metadata(_Section):
    model: Model | None = None
    num_classes: Count | None = None
    classes: Labels | None = None
    names: Labels | None = None
    thresholds: Thresholds | None = None
    preprocess: Preprocess | None = None
    metrics: dict[Annotated[str, Field(max_length=200)], Number | None] | None = None
    task: Word | None = None
    recipe: Text | None = None
    licence: Text | None = None
    source: Text | None = None
    weights: Text | None = None
    step: Annotated[int, Field(ge=0)] | None = None
    split: Split | None = None


class Exported(_Section):
    """Schema of an exported file's metadata; the fields are those of `task.exported.Metadata`, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid")

    task: Word
    model: Text
    format: Word
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    classes: Annotated[Labels, Field(min_length=1)]
    preprocess: Preprocess
    batch: Count | None = None
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    smallest: Side = 1
    in_chans: Annotated[int, Field(ge=1, le=1024)] = 3
    names: Labels | None = None
    thresholds: Thresholds | None = None
    inputs: Annotated[list[Word], Field(max_length=8)] = []
    outputs: Annotated[list[Word], Field(max_length=8)] = []
    pads: bool = False
    kept: Annotated[list[Text], Field(max_length=10_000)] = []
    build: Model | Annotated[dict, Field(max_length=0)] = {}
    data: Split = Split()
    versions: dict[Text, Text] = {}


class TransformersConfig(_Section):
    """`config.json` of a transformers folder, as far as it is used."""

    id2label: Annotated[
        dict[Annotated[str, Field(pattern=r"^\d{1,6}$")], Annotated[str, Field(max_length=1_000)]],
        Field(max_length=100_000),
    ] = {}


class TransformersProcessor(_Section):
    """`preprocessor_config.json` of a transformers folder, as far as it is used. `size` was an integer before 2023."""

    size: Side | dict[str, Side]
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    do_resize: bool = True
    resample: Annotated[int, Field(ge=0, le=5)] = 3
    image_mean: Annotated[list[Number], Field(min_length=1, max_length=1024)]
    image_std: Annotated[list[Positive], Field(min_length=1, max_length=1024)]


def read(text: str, where: Path | str, schema: type[_Section] = Metadata) -> dict[str, Any]:
    """The JSON object in `text`, checked against the schema; its values are as they stand there.

    Args:
        where: the file, for the message.

    Raises:
        ConvNextError: not a JSON object, or a value of another type or range; one sentence that names the first.
    """
    try:
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"it has {len(text):,} characters, more than {LONGEST_TEXT:,}")
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        schema.model_validate(values)
    except (ValueError, RecursionError) as error:  # pydantic's and json's errors are ValueErrors
        raise ConvNextError(
            f"The metadata in {where} cannot be used: {_reason(error)}. It is damaged or was not written by this program; "
            "get the file again, or take the weights alone with `load_weights` from a file without metadata."
        ) from None
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        given = repr(first["input"])
        given = given if len(given) <= 60 else f"{given[:60]}.."
        return f"{place} is {given} ({first['msg'][0].lower()}{first['msg'][1:]})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]

"""What a recipe says: frozen dataclasses whose every field can be overridden on the command line.

The docstring under a field is its `--help` text. Defaults are the paper's (Table 5, Section A.3), so a recipe states only
what it changes. `Recipe` holds what every run has; one subclass per task adds the rest.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

STRICT = {"extra": "forbid"}  # for pydantic, which reads recipes back from a run's config


@dataclass(frozen=True)
class Model:
    __pydantic_config__ = STRICT

    name: str = "convnext_tiny"
    """Model to build; `convnext info models` lists them."""
    drop_path_rate: float | None = 0.0
    """Stochastic depth of the last block, rising linearly from 0 at the first. None: the paper's rate for this size
    (0.1 below Tiny), scaled by epochs / 300, because a short run underfits long before it overfits."""
    layer_scale_init_value: float = 1e-6
    """Initial LayerScale; 0 leaves it out."""
    head_init_scale: float = 1.0
    """Factor on the classifier's initial weights (0.001 in fine-tuning with a new head)."""
    stem_stride: Literal[1, 2, 4] = 4
    """Stride of the stem; 1 or 2 for small images."""
    width_mult: float = 1.0
    """Factor on the widths of a roadmap model, for experiments that cannot afford the paper's sizes."""
    depth_mult: float = 1.0
    """Factor on the depths of a roadmap model."""
    weights: str | None = None
    """Checkpoint file to start from. A classifier of another size is replaced by a fresh one, and said."""


@dataclass(frozen=True)
class DenseModel:
    """A detector or segmenter."""

    __pydantic_config__ = STRICT

    name: str = "mask_rcnn_convnext_tiny"
    """Model to build; `convnext info models '*'` lists them."""
    drop_path_rate: float = 0.4
    """Stochastic depth of the backbone's last block, rising linearly from 0 at the first."""
    layer_scale_init_value: float = 1e-6
    """Initial LayerScale; 0 leaves it out."""
    checkpoint_backbone: bool = False
    """Recompute the backbone's activations in the backward pass: less memory, about a quarter slower."""
    weights: str | None = None
    """Checkpoint to start from: of a classifier, for the backbone, or of a whole model of this task."""


@dataclass(frozen=True)
class Segmenter(DenseModel):
    name: str = "upernet_convnext_tiny"
    """Model to build; `convnext info models 'upernet*'` lists them."""
    channels: int = 512
    """Width of the head."""
    auxiliary_channels: int = 256
    """Width of the auxiliary head."""


@dataclass(frozen=True)
class Augment:
    __pydantic_config__ = STRICT

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random crop keeps (inputs above 32 px)."""
    crop_padding: int = 4
    """Padding before the random crop (inputs of 32 px or less, in place of the resized crop)."""
    hflip: float = 0.5
    """Probability of a horizontal flip; 0 for pictures in which left and right matter, such as digits."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment string; None turns it off."""
    random_erasing: float = 0.25
    """Probability of erasing a rectangle with noise."""
    mixup: float = 0.8
    """Mixup's alpha; 0 turns it off."""
    cutmix: float = 1.0
    """CutMix's alpha; 0 turns it off."""
    mixup_prob: float = 1.0
    """Probability that a batch is mixed at all."""
    mixup_switch_prob: float = 0.5
    """Probability of CutMix rather than Mixup when both are on."""
    label_smoothing: float = 0.1
    """Label smoothing, with and without Mixup."""


@dataclass(frozen=True)
class DetectionAugment:
    """Section A.3, and the configuration that it refers to: half the time a resize, half the time a crop between two."""

    __pydantic_config__ = STRICT

    short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Short sides to choose from, in pixels."""
    long: int = 1333
    """Largest long side."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    random_crop: bool = True
    """Half the time, resize to 400, 500 or 600 px and crop 384 to 600 px before the resize."""


@dataclass(frozen=True)
class SegmentationAugment:
    __pydantic_config__ = STRICT

    short: int = 512
    """Short side before the random scale, in pixels; also that of evaluation."""
    long: int = 2048
    """Largest long side before the random scale; also that of evaluation."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale."""
    crop: int = 512
    """Side of the random crop, and of the windows in evaluation."""
    max_share: float = 0.75
    """Largest share of a crop that one class may have, where ten attempts find one."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Random brightness, contrast, saturation and hue."""


@dataclass(frozen=True)
class AdamW:
    """The optimizer of every task; subclasses add how the learning rate moves."""

    __pydantic_config__ = STRICT

    lr: float = 4e-3
    """Peak learning rate, for the total batch; it is never scaled behind your back."""
    weight_decay: float = 0.05
    """Decoupled weight decay; norms, biases and LayerScale have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the gradient's mean and square."""
    eps: float = 1e-8
    """AdamW's term against division by zero."""
    layer_decay: float | None = None
    """Factor on the learning rate per layer group from the head down (Sections A.2, A.3); None: one rate for all."""
    clip_grad: float | None = None
    """Largest gradient norm, in every precision; None: no clipping."""


@dataclass(frozen=True)
class Optim(AdamW):
    """Half a cosine after a warm-up from zero (Tables 5 and 6)."""

    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    warmup_epochs: float | None = 20.0
    """Linear warm-up in epochs; None: use warmup_share."""
    warmup_share: float = 0.05
    """Linear warm-up as a share of the run, when warmup_epochs is None."""


@dataclass(frozen=True)
class StepOptim(AdamW):
    """A tenth of the learning rate after each milestone (COCO)."""

    lr: float = 1e-4
    """Peak learning rate, for the total batch; it is never scaled behind your back."""
    milestones: tuple[int, ...] = (27, 33)
    """Epochs after which the learning rate is a tenth of what it was."""
    warmup_steps: int = 500
    """Optimizer steps of linear warm-up."""
    warmup_ratio: float = 1e-3
    """Share of the learning rate at which the warm-up starts."""


@dataclass(frozen=True)
class PolyOptim(AdamW):
    """A polynomial that reaches zero at the end (ADE20K)."""

    lr: float = 1e-4
    """Peak learning rate, for the total batch; it is never scaled behind your back."""
    power: float = 1.0
    """The polynomial's power; 1 is a straight line."""
    warmup_steps: int = 1500
    """Optimizer steps of linear warm-up."""
    warmup_ratio: float = 1e-6
    """Share of the learning rate at which the warm-up starts."""


@dataclass(frozen=True)
class Ema:
    __pydantic_config__ = STRICT

    decay: float | None = 0.9999
    """Decay per optimizer step; None: use half_life_share."""
    half_life_share: float | None = None
    """Half-life as a share of the run, when decay is None; None as well: no EMA."""


@dataclass(frozen=True)
class Runtime:
    """What changes how a run is executed, but not its result."""

    __pydantic_config__ = STRICT

    workers: int | None = None
    """Processes that load data; None: one per core left over, at most 8 per device; 0: load in the main process."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    log_every: int = 50
    """Optimizer steps between two lines of metrics."""
    checkpoint_minutes: float = 5.0
    """Minutes between two checkpoints; there is also one at the end of every epoch."""
    checkpoint_steps: int | None = None
    """Optimizer steps between two checkpoints, in addition."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    eval_batch: int | None = None
    """Images per evaluation batch and device; None: twice device_batch."""
    recompute_stages: tuple[int, ...] = ()
    """Stages (0 to 3) whose hidden layers the fused operations of a GPU make again in the backward pass rather than keep:
    less memory for one matrix product more."""


@dataclass(frozen=True)
class Recipe:
    """What every run has. Every field can be overridden: `--seed 1 --optim.lr 1e-3`."""

    __pydantic_config__ = STRICT
    task: ClassVar[str]
    decay_rule: ClassVar[str] = "layer"  # see `layer_decay_ids` of the models

    source: str = ""
    """Where the setting comes from: table and column of the paper, or "ours" and why."""
    data: str = ""
    """The labelled images; what it may be is the task's."""
    val_share: float = 0.1
    """Share held out for validation, when the data has no validation part of its own."""
    total_batch: int = 4096
    """Images per optimizer step over all devices: device_batch x devices x accumulation."""
    device_batch: int = 128
    """Images per forward pass and device; accumulation follows from it."""
    seed: int = 0
    """Decides every random choice: held-out images, initial weights, order, augmentation, drop-path."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere."""
    compile: bool = False
    """Compile the model with torch.compile (slower start, faster steps)."""
    max_corrupt_share: float = 0.01
    """Share of unreadable training images at which the run stops; below it they are logged and replaced."""
    max_nonfinite: int = 10
    """Optimizer steps in a row with a non-finite loss or gradient (each is skipped) at which the run stops."""
    ema: Ema = field(default_factory=Ema)
    runtime: Runtime = field(default_factory=Runtime)


@dataclass(frozen=True)
class Classification(Recipe):
    """Images with one label each."""

    task: ClassVar[str] = "classification"

    data: str = ""
    """Folder of images (train/ and val/, or one folder per class), folder of parquet files, `digits`, or
    `torchvision:NAME`."""
    image_size: int = 224
    """Side of the square input in pixels."""
    epochs: int = 300
    """Passes over the training images; a remainder smaller than a batch is left out of each."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)


@dataclass(frozen=True)
class Dense(Recipe):
    """What detection and segmentation have in common."""

    total_batch: int = 16
    """Images per optimizer step over all devices: device_batch x devices x accumulation."""
    device_batch: int = 2
    """Images per forward pass and device; accumulation follows from it."""
    ema: Ema = field(default_factory=lambda: Ema(decay=None))


@dataclass(frozen=True)
class Detection(Dense):
    """Images with boxes and masks."""

    task: ClassVar[str] = "detection"

    data: str = ""
    """Folder in COCO's layout: `annotations/*.json` and the images; or one JSON file beside the images of each part."""
    epochs: int = 36
    """Passes over the training images; a remainder smaller than a batch is left out of each."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    model: DenseModel = field(default_factory=DenseModel)
    augment: DetectionAugment = field(default_factory=DetectionAugment)
    optim: StepOptim = field(default_factory=StepOptim)
    test_short: int = 800
    """Short side of the pictures in evaluation, in pixels."""
    test_long: int = 1333
    """Largest long side of the pictures in evaluation."""
    rpn_samples: int = 256
    """Anchors per image that the region proposal loss is taken over."""
    roi_samples: int = 512
    """Proposals per image that the losses of the heads are taken over."""


@dataclass(frozen=True)
class Segmentation(Dense):
    """Images with a label for each pixel."""

    task: ClassVar[str] = "segmentation"
    decay_rule: ClassVar[str] = "stage"

    data: str = ""
    """Folder in ADE20K's layout, or one with `images` and `masks` (label PNGs of the same names) and a `classes.txt`."""
    steps: int = 160_000
    """Optimizer steps."""
    eval_every: int = 16_000
    """Optimizer steps between two evaluations; the end is always evaluated."""
    model: Segmenter = field(default_factory=Segmenter)
    augment: SegmentationAugment = field(default_factory=SegmentationAugment)
    optim: PolyOptim = field(default_factory=PolyOptim)
    test_mode: Literal["slide", "whole"] = "slide"
    """Evaluate by windows of the crop's size, or the whole picture at once."""
    reduce_zero_label: bool | None = None
    """Whether label 0 means "no label" and the others count from 1; None: yes in ADE20K's layout, no elsewhere."""

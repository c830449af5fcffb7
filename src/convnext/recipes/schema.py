"""The fields of a recipe: frozen dataclasses whose every field can be overridden on the command line.

The docstring under a field is its `--help` text. Defaults are the paper's (Table 5, Section A.3), so a recipe states only
what it changes. `Recipe` has the fields of every run; one subclass per task adds its own. Each number has its range
(`recipes.ranges`).
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from convnext.recipes.dense import LONG, SHORT, SHORT_SIDES
from convnext.recipes.optim import AdamW, Optim, PolyOptim, StepOptim
from convnext.recipes.ranges import LONG_SIDE, MAX_BATCH, MAX_SIDE, SHARE, SIDE, STRICT, WORKERS, ranged
from convnext.recipes.reading import Reading


@dataclass(frozen=True)
class ModelOptions:
    """Model options that every recipe has; subclasses add those of their kind."""

    __pydantic_config__ = STRICT

    name: str = ""
    """Model to build; `convnext info models '*'` lists them."""
    drop_path_rate: float | None = ranged(0.0, at_least=0, below=1)
    """Stochastic depth of the last block, rising linearly from 0 at the first. None: the paper's rate for this size
    (0.1 below Tiny), scaled by epochs / 300, because a short run underfits long before it overfits."""
    weights: str | None = None
    """Checkpoint to start from: a file or a released name."""


@dataclass(frozen=True)
class Model(ModelOptions):
    name: str = "convnext_tiny"
    """Model to build; `convnext info models` lists them."""
    layer_scale_init_value: float = ranged(1e-6, at_least=0)
    """Initial LayerScale; 0 leaves it out."""
    head_init_scale: float = ranged(1.0, at_least=0)
    """Factor on the classifier's initial weights (0.001 in fine-tuning with a new head)."""
    stem_stride: Literal[1, 2, 4] = 4
    """Stride of the stem; 1 or 2 for small images."""
    width_mult: float = ranged(1.0, above=0, at_most=16)
    """Factor on the widths of a roadmap model, for experiments that cannot afford the paper's sizes."""
    depth_mult: float = ranged(1.0, above=0, at_most=16)
    """Factor on the depths of a roadmap model."""
    weights: str | None = None
    """Checkpoint file or released name to start from. If the class count differs, the classifier is re-initialised and a
    message says so."""


@dataclass(frozen=True)
class DenseModel(ModelOptions):
    """A detector or segmenter."""

    name: str = "mask_rcnn_convnext_tiny"
    """Model to build; `convnext info models '*'` lists them."""
    drop_path_rate: float = 0.4
    """Stochastic depth of the backbone's last block, rising linearly from 0 at the first."""
    layer_scale_init_value: float = ranged(1e-6, at_least=0)
    """Initial LayerScale; 0 leaves it out."""
    checkpoint_backbone: bool = False
    """Recompute the backbone's activations in the backward pass: less memory, about a quarter slower."""
    weights: str | None = None
    """Checkpoint to start from: of a classifier, for the backbone, or of a whole model of this task."""


@dataclass(frozen=True)
class Segmenter(DenseModel):
    name: str = "upernet_convnext_tiny"
    """Model to build; `convnext info models 'upernet*'` lists them."""
    channels: int = ranged(512, at_least=1, at_most=MAX_SIDE)
    """Width of the head."""
    auxiliary_channels: int = ranged(256, at_least=1, at_most=MAX_SIDE)
    """Width of the auxiliary head."""


@dataclass(frozen=True)
class Augment:
    __pydantic_config__ = STRICT

    crop_scale: tuple[float, float] = ranged((0.08, 1.0), above=0, at_most=1, ordered=True)
    """Share of the image's area that a random crop keeps (inputs above 32 px)."""
    crop_padding: int = ranged(4, at_least=0, at_most=1024)
    """Padding before the random crop (inputs of 32 px or less, in place of the resized crop)."""
    hflip: float = ranged(0.5, **SHARE)
    """Probability of a horizontal flip; 0 for images in which left and right matter, such as digits."""
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment string; None turns it off."""
    random_erasing: float = ranged(0.25, **SHARE)
    """Probability of erasing a rectangle with noise."""
    mixup: float = ranged(0.8, at_least=0)
    """Mixup's alpha; 0 turns it off."""
    cutmix: float = ranged(1.0, at_least=0)
    """CutMix's alpha; 0 turns it off."""
    mixup_prob: float = ranged(1.0, **SHARE)
    """Probability that a batch is mixed at all."""
    mixup_switch_prob: float = ranged(0.5, **SHARE)
    """Probability of CutMix rather than Mixup when both are on."""
    label_smoothing: float = ranged(0.1, **SHARE)
    """Label smoothing, with and without Mixup."""


@dataclass(frozen=True)
class DetectionAugment:
    """Section A.3, and the configuration that it refers to: half the time a resize, half the time a crop between two."""

    __pydantic_config__ = STRICT

    short_sides: tuple[int, ...] = ranged(SHORT_SIDES, nonempty=True, **SIDE)
    """Short sides to choose from, in pixels."""
    long: int = ranged(LONG, **LONG_SIDE)
    """Largest long side."""
    hflip: float = ranged(0.5, **SHARE)
    """Probability of a horizontal flip."""
    random_crop: bool = True
    """Half the time, resize to 400, 500 or 600 px and crop 384 to 600 px before the resize."""
    as_reference: bool = False
    """Resample masks as the reference does, at pixel corners, and keep boxes of less than a pixel. Otherwise at pixel
    centres, as the image is, and such boxes are dropped."""


@dataclass(frozen=True)
class SegmentationAugment:
    __pydantic_config__ = STRICT

    short: int = ranged(512, **SIDE)
    """Short side before the random scale, in pixels; also that of evaluation."""
    long: int = ranged(2048, **LONG_SIDE)
    """Largest long side before the random scale; also that of evaluation."""
    scale: tuple[float, float] = ranged((0.5, 2.0), above=0, at_most=16, ordered=True)
    """Range of the random scale."""
    crop: int = ranged(512, **SIDE)
    """Side of the random crop, and of the windows in evaluation."""
    max_share: float = ranged(0.75, **SHARE)
    """Largest share of a crop that one class may have, where ten attempts find one."""
    hflip: float = ranged(0.5, **SHARE)
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Random brightness, contrast, saturation and hue."""


@dataclass(frozen=True)
class Ema:
    __pydantic_config__ = STRICT

    decay: float | None = ranged(0.9999, above=0, below=1)
    """Decay per optimizer step; None: use half_life_share."""
    half_life_share: float | None = ranged(None, above=0, at_most=1)
    """EMA half-life as a fraction of the run, used if `decay` is None; both None disables the EMA."""


@dataclass(frozen=True)
class Runtime:
    """Options of the execution of a run that do not change its result, but for a cache of large images."""

    __pydantic_config__ = STRICT

    workers: int | None = ranged(None, **WORKERS)
    """Processes that load data, per device; None: all cores but one for each GPU, half of them without one; 0: load in the
    process that trains."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    cache: Literal["off", "ram", "disk"] = "off"
    """Keep decoded training images after their first use, shared by all processes: in memory while the run lasts, or in
    ~/.cache/convnext (CONVNEXT_CACHE moves it), where other runs on the same images find them. `--runtime.cache disk`"""
    cache_side: int = ranged(512, **SIDE)
    """Images of more than side x side pixels are kept scaled down to that many. Their crops then differ from those without a
    cache, so this is part of what a continued run must have in common."""
    log_every: int = ranged(50, at_least=1)
    """Optimizer steps between two lines of metrics."""
    checkpoint_minutes: float = ranged(5.0, at_least=0)
    """Minutes between two checkpoints; there is also one at the end of every epoch."""
    checkpoint_steps: int | None = ranged(None, at_least=1)
    """Optimizer steps between two checkpoints, in addition."""
    keep_checkpoints: int = ranged(2, at_least=1)
    """Newest checkpoints kept."""
    timeout: float = ranged(30.0, at_least=0.01)
    """Minutes after which the run ends when a process of it, a loading process or a file system does not answer; the same
    command then continues it."""
    eval_batch: int | None = ranged(None, at_least=1, at_most=MAX_BATCH)
    """Images per evaluation batch and device; None: twice device_batch."""
    recompute_stages: tuple[int, ...] = ranged((), at_least=0, at_most=3)
    """Stages (0 to 3) whose hidden layers are recomputed in the backward pass (fused GPU kernels only): less memory for one
    matrix product more."""
    cuda_graph: bool = False
    """Record a whole step once and replay it as one CUDA graph: for small batches on one GPU, where launching the kernels takes
    longer than they do. Its memory stays taken. Not for detectors. No GPU has run it yet."""

    @property
    def kept_side(self) -> int | None:
        """Bound of the images that training sees, which is part of the result; None: none."""
        return None if self.cache == "off" else self.cache_side


@dataclass(frozen=True)
class Recipe:
    """The fields of every run. Each can be overridden: `--seed 1 --optim.lr 1e-3`."""

    __pydantic_config__ = STRICT
    kinds: ClassVar[dict[str, "type[Recipe]"]] = {}  # the recipe class of each task, filled in as they are defined
    task: ClassVar[str]
    decay_rule: ClassVar[str] = "layer"  # see `layer_decay_ids` of the models
    steps_alike: ClassVar[bool] = True  # every training step has the same operations on tensors of the same shapes
    length_option: ClassVar[str]  # the option that makes a run longer
    places: ClassVar[tuple[str, ...]] = ("data",)  # fields that name data; those after the first may be empty

    source: str = ""
    """Where the setting comes from: table and column of the paper, or "ours" and why."""
    data: str = ""
    """Training data; accepted formats depend on the task."""
    val_share: float = ranged(0.1, at_least=0, below=1)
    """Share held out for validation, when the data has no validation part of its own; one image of each class at least.
    0: train on everything and evaluate never; the best weights are then the last."""
    total_batch: int = ranged(4096, at_least=1, at_most=MAX_BATCH)
    """Images per optimizer step over all devices: device_batch x devices x accumulation."""
    device_batch: int | Literal["auto"] = ranged(128, at_least=1, at_most=MAX_BATCH)
    """Images per forward pass and device; accumulation follows from it. auto: as many as the memory takes, found before the
    run and written into its config."""
    seed: int = 0
    """Seed of every random choice: held-out images, initial weights, order, augmentation, drop-path."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, fp16 on an older one, fp32 elsewhere."""
    published_precision: Literal["", "fp32", "fp16"] = ""
    """Precision of the paper's own run, for the table before a run; it changes nothing."""
    from_scratch: bool = False
    """Start from random weights, whatever the recipe names. The paper's fine-tuning recipes refuse to without this."""
    compile: bool = False
    """Compile the model with torch.compile (slower start, faster steps)."""
    best_by: str | None = None
    """Metric of the held-out images by which the best weights are chosen; None: the task's own (top1, or map of several labels;
    mask_ap, miou). `loss` counts downwards, all others upwards."""
    patience: int | None = ranged(None, at_least=1)
    """Stop after so many evaluations in a row without a better result; None: train to the end. Only evaluations at half the peak
    learning rate or less count: before that, a flat curve says nothing about what a falling rate will bring."""
    track: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    """Experiment trackers that get the metrics as well (extra `track`); none of them can stop or slow the run. TensorBoard's
    events are always written."""
    freeze: tuple[str, ...] = ()
    """Parts that stay as they are: `backbone`, which leaves the output layers to be trained, or `stages 0 1` of its four. They
    compute as in evaluation, without drop-path."""
    max_corrupt_share: float = ranged(0.01, **SHARE)
    """Share of unreadable training images at which the run stops; below it they are logged and replaced."""
    max_nonfinite: int = ranged(10, at_least=1)
    """Optimizer steps in a row with a non-finite loss or gradient (each is skipped) at which the run stops."""
    model: ModelOptions = field(default_factory=ModelOptions)
    optim: AdamW = field(default_factory=AdamW)
    ema: Ema = field(default_factory=Ema)
    read: Reading = field(default_factory=Reading)
    runtime: Runtime = field(default_factory=Runtime)

    def __init_subclass__(cls, **keywords) -> None:
        super().__init_subclass__(**keywords)
        if "task" in cls.__dict__:
            Recipe.kinds[cls.task] = cls

    @property
    def needs_weights(self) -> bool:
        """True of a published setting for fine-tuning: from random weights it is no longer that setting."""
        return self.optim.layer_decay is not None and self.source.startswith(("Table", "thesis"))

    def duration(self) -> str:
        """The length of the run in words."""
        raise NotImplementedError

    def length(self, steps_per_epoch: int) -> tuple[int, int]:
        """Optimizer steps of the run, and between two evaluations."""
        raise NotImplementedError(f"{type(self).__name__} states no length: derive it from ByEpochs or BySteps too")


@dataclass(frozen=True)
class ByEpochs:
    """The length of a run in epochs; stands before `Recipe` among a class's bases."""

    steps_alike: ClassVar[bool] = True  # every training step has the same operations on tensors of the same shapes
    length_option: ClassVar[str] = "--epochs"

    epochs: int = ranged(300, at_least=1)
    """Passes over the training images; a remainder smaller than a batch is left out of each."""
    eval_every: int = ranged(1, at_least=1)
    """Epochs between two evaluations; the last epoch is always evaluated."""

    def length(self, steps_per_epoch: int) -> tuple[int, int]:
        return self.epochs * steps_per_epoch, self.eval_every * steps_per_epoch

    def duration(self) -> str:
        return f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"


@dataclass(frozen=True)
class BySteps:
    """The length of a run in optimizer steps; stands before `Recipe` among a class's bases."""

    steps_alike: ClassVar[bool] = True  # every training step has the same operations on tensors of the same shapes
    length_option: ClassVar[str] = "--steps"

    steps: int = ranged(160_000, at_least=1)
    """Optimizer steps."""
    eval_every: int = ranged(16_000, at_least=1)
    """Optimizer steps between two evaluations; the end is always evaluated."""

    def length(self, steps_per_epoch: int) -> tuple[int, int]:
        return self.steps, self.eval_every

    def duration(self) -> str:
        return f"{self.steps:,} steps"


@dataclass(frozen=True)
class Classification(ByEpochs, Recipe):
    """Images with one label each, or several."""

    task: ClassVar[str] = "classification"
    places: ClassVar[tuple[str, ...]] = ("data", "val")

    data: str = ""
    """Folder of images (train/ and val/, or one folder per class), table (.csv, .tsv, .jsonl), folder of parquet files or
    shards, shards by a pattern ('train-{0000..0146}.tar'), `digits`, or `torchvision:NAME`; docs/own-data.md has all formats."""
    val: str = ""
    """Images to evaluate on, where they are not in the data: a folder with the same classes, or another data set. All of
    the data is then trained on."""
    upright: bool = True
    """Turn images as their EXIF orientation says; the reference does not, and neither do the paper's recipes."""
    image_size: int = ranged(224, **SIDE)
    """Side of the square input in pixels."""
    class_weights: str | None = None
    """Weights of the classes in the loss: `balanced` (inverse to their sizes), `inverse-sqrt`, or a JSON file of names and
    weights. Their mean over the training images is made 1. Where an image can have several labels they are weights of the
    images that have a class: `balanced` makes these count as much as those that lack it."""
    multi_label_loss: Literal["bce", "asymmetric"] = "bce"
    """Loss of images with several labels: binary cross-entropy, or asymmetric loss (Ridnik et al., 2021), in which the many
    labels that are easily seen to be absent hardly count. Mixup and CutMix weight the labels by the share of their image;
    label smoothing draws 0 and 1 towards a half."""
    sampling: Literal["natural", "balanced", "sqrt"] = "natural"
    """Images of an epoch: each once; or as many of every class; or of each class in proportion to the square root of its size,
    rare ones repeated with other augmentation."""
    order: Literal["full", "block"] = "full"
    """Order of an epoch: a permutation of all images; or shards permuted, and the images inside every `order_window` of them,
    for disks and networks on which random reads are slow. `--order block --order-window 16`"""
    order_window: int = ranged(16, at_least=1)
    """Shards, or row groups of parquet files, whose images are mixed in `--order block`; more mix better, and need more memory."""
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    optim: AdamW = field(default_factory=Optim)


@dataclass(frozen=True)
class Dense(Recipe):
    """Defaults shared by detection and segmentation."""

    total_batch: int = 16
    """Images per optimizer step over all devices: device_batch x devices x accumulation."""
    device_batch: int | Literal["auto"] = 2
    """Images per forward pass and device; accumulation follows from it."""
    ema: Ema = field(default_factory=lambda: Ema(decay=None))


@dataclass(frozen=True)
class Detection(ByEpochs, Dense):
    """Images with boxes and masks."""

    task: ClassVar[str] = "detection"
    steps_alike: ClassVar[bool] = False

    data: str = ""
    """Folder in COCO's layout: `annotations/*.json` and the images; or one JSON file beside the images of each part; or
    YOLO's, Pascal VOC's or LabelMe's (docs/own-data.md)."""
    epochs: int = 36
    """Passes over the training images; a remainder smaller than a batch is left out of each."""
    model: DenseModel = field(default_factory=DenseModel)
    augment: DetectionAugment = field(default_factory=DetectionAugment)
    optim: AdamW = field(default_factory=StepOptim)
    test_short: int = ranged(SHORT, **SIDE)
    """Short side of the images in evaluation, in pixels."""
    test_long: int = ranged(LONG, **LONG_SIDE)
    """Largest long side of the images in evaluation."""
    rpn_samples: int = ranged(256, at_least=1)
    """Anchors per image that the region proposal loss is taken over."""
    roi_samples: int = ranged(512, at_least=1)
    """Proposals per image that the losses of the heads are taken over."""


@dataclass(frozen=True)
class Segmentation(BySteps, Dense):
    """Images with a label for each pixel."""

    task: ClassVar[str] = "segmentation"
    decay_rule: ClassVar[str] = "stage"

    data: str = ""
    """Folder in ADE20K's layout, or one with `images` and `masks` (label PNGs of the same names) and a `classes.txt`."""
    model: Segmenter = field(default_factory=Segmenter)
    augment: SegmentationAugment = field(default_factory=SegmentationAugment)
    optim: AdamW = field(default_factory=PolyOptim)
    test_mode: Literal["slide", "whole"] = "slide"
    """Evaluate by windows of the crop's size, or the whole image at once."""
    reduce_zero_label: bool | None = None
    """Treat label 0 as "no label" and count the others from 1; None: only in ADE20K's layout."""

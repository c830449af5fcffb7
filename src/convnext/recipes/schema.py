"""What a recipe says: frozen dataclasses whose every field can be overridden on the command line.

The docstring under a field is its `--help` text. Defaults are Table 5's, so a recipe states only what it changes.
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
class Optim:
    __pydantic_config__ = STRICT

    lr: float = 4e-3
    """Peak learning rate, for the total batch; it is never scaled behind your back."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    warmup_epochs: float | None = 20.0
    """Linear warm-up in epochs; None: use warmup_share."""
    warmup_share: float = 0.05
    """Linear warm-up as a share of the run, when warmup_epochs is None."""
    weight_decay: float = 0.05
    """Decoupled weight decay; norms, biases and LayerScale have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the gradient's mean and square."""
    eps: float = 1e-8
    """AdamW's term against division by zero."""
    layer_decay: float | None = None
    """Factor on the learning rate per layer group from the head down (Section A.2); None: one rate for all."""
    clip_grad: float | None = None
    """Largest gradient norm, in every precision; None: no clipping."""


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


@dataclass(frozen=True)
class Recipe:
    """A classification run. Every field can be overridden: `--epochs 30 --optim.lr 1e-3`."""

    __pydantic_config__ = STRICT
    task: ClassVar[str] = "classification"
    source: str = ""
    """Where the setting comes from: table and column of the paper, or "ours" and why."""
    data: str = ""
    """Folder of images (train/ and val/, or one folder per class), folder of parquet files, `digits`, or
    `torchvision:NAME`."""
    val_share: float = 0.1
    """Share held out for validation, per class, when the data has no validation part of its own."""
    image_size: int = 224
    """Side of the square input in pixels."""
    epochs: int = 300
    """Passes over the training images; a remainder smaller than a batch is left out of each."""
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
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    max_corrupt_share: float = 0.01
    """Share of unreadable training images at which the run stops; below it they are logged and replaced."""
    max_nonfinite: int = 10
    """Optimizer steps in a row with a non-finite loss or gradient (each is skipped) at which the run stops."""
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    ema: Ema = field(default_factory=Ema)
    runtime: Runtime = field(default_factory=Runtime)

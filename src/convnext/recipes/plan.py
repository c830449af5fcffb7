"""What a recipe comes to on a given dataset and number of devices: steps, warm-up, EMA, drop-path; and its warnings."""

import math
from dataclasses import dataclass

from convnext.errors import ConvNextError
from convnext.recipes.diff import flatten
from convnext.recipes.schema import Classification, Detection, Recipe, Segmentation
from convnext.recipes.table5 import OURS_1K, PAPER_1K


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves; `convnext.train.schedule.learning_rate` computes it.

    Attributes:
        kind: cosine (Tables 5 and 6), step (COCO) or poly (ADE20K).
        warmup_steps: linear warm-up: from 0 to the peak inclusive for the cosine; for the others from `warmup_ratio` of
            what the schedule says at that step.
        min_lr: the end of the cosine.
        milestones: steps after which `step` divides by ten.
        power: of `poly`.
    """

    kind: str
    lr: float
    total_steps: int
    warmup_steps: int
    min_lr: float = 0.0
    warmup_ratio: float = 0.0
    milestones: tuple[int, ...] = ()
    power: float = 1.0

    def __str__(self) -> str:
        if self.kind == "step":
            return f"{self.lr:g}, a tenth after each of the steps {', '.join(f'{step:,}' for step in self.milestones)}"
        return f"{self.lr:g} -> {self.min_lr:g} ({'cosine' if self.kind == 'cosine' else f'power {self.power:g}'})"


@dataclass(frozen=True)
class Plan:
    """The numbers of a run, all in optimizer steps unless said otherwise."""

    samples: int
    devices: int
    device_batch: int
    accumulation: int
    total_batch: int
    steps_per_epoch: int
    total_steps: int
    eval_steps: int
    schedule: Schedule
    ema_decay: float | None
    drop_path_rate: float

    @property
    def ema_half_life(self) -> float | None:
        """Steps after which a weight's share in the average has halved."""
        return math.log(0.5) / math.log(self.ema_decay) if self.ema_decay else None

    def rows(self) -> list[tuple[str, str]]:
        """The table shown before a run starts."""
        half_life = self.ema_half_life
        return [
            ("images", f"{self.samples:,}"),
            (
                "batch",
                f"{self.device_batch} per device x {self.devices} device{'s' * (self.devices > 1)} x "
                f"{self.accumulation} accumulation = {self.total_batch}",
            ),
            ("steps per epoch", f"{self.steps_per_epoch:,}"),
            ("total steps", f"{self.total_steps:,} ({self.total_steps / self.steps_per_epoch:.4g} epochs)"),
            ("warm-up", f"{self.schedule.warmup_steps:,} steps"),
            ("learning rate", self._learning_rate()),
            ("EMA", "off" if half_life is None else f"decay {self.ema_decay:.6g}, half-life {half_life:,.0f} steps"),
            ("drop-path", f"{self.drop_path_rate:.3g}"),
        ]  # fmt: skip

    def _learning_rate(self) -> str:
        if self.schedule.kind != "cosine":
            return str(self.schedule)
        return f"{self.schedule} (not scaled; linear rule from 4e-3 at 4096: {4e-3 * self.total_batch / 4096:.2g})"

    def warnings(self) -> list[str]:
        """Settings that make no sense for a run of this length."""
        found = []
        if self.ema_half_life and self.ema_half_life > self.total_steps / 10:
            found.append(
                f"The EMA's half-life of {self.ema_half_life:,.0f} steps is more than a tenth of the run "
                f"({self.total_steps:,} steps): its weights will lag far behind. Use --ema.decay None --ema.half-life-share 0.01."
            )
        if (warmup := self.schedule.warmup_steps) > self.total_steps / 4:
            shorter = {"cosine": "--optim.warmup-epochs None --optim.warmup-share 0.05"}
            found.append(
                f"The warm-up of {warmup:,} steps is more than a quarter of the run ({self.total_steps:,} steps). "
                f"Use {shorter.get(self.schedule.kind, f'--optim.warmup-steps {self.total_steps // 20}')}."
            )
        return found


def make_plan(recipe: Recipe, samples: int, devices: int = 1) -> Plan:
    """Work out the run of `recipe` on `samples` training images and `devices` processes.

    Raises:
        ConvNextError: the batch sizes do not divide, the dataset is smaller than a batch, or a number is out of range.
    """
    _check_ranges(recipe)
    total = recipe.total_batch
    device_batch = _device_batch(total, recipe.device_batch, devices)
    if samples < total:
        raise ConvNextError(
            f"The training set has {samples} images, fewer than one batch of {total}. Choose a smaller batch, such as "
            f"--total-batch {2 ** int(math.log2(max(samples // 4, 1)))}, or give more data."
        )
    steps_per_epoch = samples // total
    if isinstance(recipe, Segmentation):
        total_steps, eval_steps = recipe.steps, recipe.eval_every
    else:
        total_steps, eval_steps = recipe.epochs * steps_per_epoch, recipe.eval_every * steps_per_epoch
    ema_decay = recipe.ema.decay
    if ema_decay is None and recipe.ema.half_life_share is not None:
        ema_decay = 0.5 ** (1 / max(recipe.ema.half_life_share * total_steps, 1.0))
    return Plan(
        samples=samples,
        devices=devices,
        device_batch=device_batch,
        accumulation=total // (device_batch * devices),
        total_batch=total,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        eval_steps=eval_steps,
        schedule=_schedule(recipe, steps_per_epoch, total_steps),
        ema_decay=ema_decay,
        drop_path_rate=_drop_path(recipe),
    )


def _schedule(recipe: Recipe, steps_per_epoch: int, total_steps: int) -> Schedule:
    match recipe:
        case Classification(optim=optim):
            epochs = optim.warmup_epochs
            warmup = round(optim.warmup_share * total_steps if epochs is None else epochs * steps_per_epoch)
            schedule = Schedule("cosine", optim.lr, total_steps, warmup, min_lr=optim.min_lr)
        case Detection(optim=optim):
            milestones = tuple(epoch * steps_per_epoch for epoch in optim.milestones)
            schedule = Schedule(
                "step",
                optim.lr,
                total_steps,
                optim.warmup_steps,
                warmup_ratio=optim.warmup_ratio,
                milestones=milestones,
            )
        case Segmentation(optim=optim):
            schedule = Schedule(
                "poly", optim.lr, total_steps, optim.warmup_steps, warmup_ratio=optim.warmup_ratio, power=optim.power
            )
    if schedule.warmup_steps >= total_steps:
        option = "--optim.warmup-epochs" if schedule.kind == "cosine" else "--optim.warmup-steps"
        longer = "--steps" if isinstance(recipe, Segmentation) else "--epochs"
        raise ConvNextError(
            f"The warm-up ({schedule.warmup_steps:,} steps) is as long as the whole run ({total_steps:,} steps). "
            f"Lower it with {option}, or raise {longer}."
        )
    return schedule


def _device_batch(total: int, wanted: int, devices: int) -> int:
    """The largest batch up to `wanted` of which a whole number on every device makes the total."""
    if total % devices:
        raise ConvNextError(
            f"A total batch of {total} cannot be shared by {devices} devices. Choose a --total-batch that is a multiple of "
            f"{devices}."
        )
    share = total // devices
    largest = next(size for size in range(min(wanted, share), 0, -1) if share % size == 0)
    if 2 * largest < min(wanted, share):
        raise ConvNextError(
            f"A total batch of {total} is {share} images on each of {devices} devices, and the largest equal parts of up to "
            f"{wanted} images have only {largest}. Choose a rounder --total-batch, such as {share // wanted * wanted * devices}."
        )
    return largest


def _drop_path(recipe: Recipe) -> float:
    if recipe.model.drop_path_rate is not None:
        return recipe.model.drop_path_rate
    size = recipe.model.name.rsplit("_", 1)[-1]
    return (PAPER_1K | dict.fromkeys(OURS_1K, 0.1)).get(size, 0.1) * min(1.0, recipe.epochs / 300)


def _at_least(least: float):
    return (lambda value: value >= least), f"at least {least}"


def _positive(value: float) -> bool:
    return value > 0


def _share(value: float) -> bool:
    return 0 <= value <= 1


# what would only fail later, or train nonsense: field -> (test, what it must be); None stands for "off" everywhere
RANGES = (
    dict.fromkeys(
        ("epochs", "steps", "total_batch", "device_batch", "image_size", "eval_every", "test_short", "test_long",
         "rpn_samples", "roi_samples", "augment.short", "augment.long", "augment.crop", "runtime.log_every",
         "runtime.keep_checkpoints"),
        _at_least(1),
    )
    | dict.fromkeys(
        ("optim.warmup_epochs", "optim.warmup_steps", "optim.weight_decay", "augment.mixup", "augment.cutmix"), _at_least(0)
    )
    | dict.fromkeys(("optim.lr", "optim.clip_grad", "optim.power"), (_positive, "above 0"))
    | dict.fromkeys(("val_share", "ema.decay"), ((lambda value: 0 < value < 1), "between 0 and 1"))
    | dict.fromkeys(("optim.warmup_share", "model.drop_path_rate"), ((lambda value: 0 <= value < 1), "at least 0 and below 1"))
    | {"optim.layer_decay": ((lambda value: 0 < value <= 1), "above 0 and at most 1")}
    | {"augment.short_sides": ((lambda value: len(value) and min(value) >= 1), "one or more sides of at least 1 pixel")}
    | dict.fromkeys(
        ("augment.hflip", "augment.random_erasing", "augment.mixup_prob", "augment.mixup_switch_prob",
         "augment.label_smoothing", "augment.max_share", "optim.warmup_ratio"),
        (_share, "between 0 and 1"),
    )
)  # fmt: skip


def _check_ranges(recipe: Recipe) -> None:
    for name, value in flatten(recipe).items():
        good, wanted = RANGES.get(name, (None, ""))
        if good and value is not None and not good(value):
            raise ConvNextError(f"--{name.replace('_', '-')} is {value}; it must be {wanted}.")

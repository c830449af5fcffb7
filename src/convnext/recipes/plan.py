"""What a recipe comes to on a given dataset and number of devices: steps, warm-up, EMA, drop-path; and its warnings."""

import math
from dataclasses import dataclass

from convnext.errors import ConvNextError
from convnext.recipes.schema import Recipe
from convnext.recipes.table5 import OURS_1K, PAPER_1K


@dataclass(frozen=True)
class Plan:
    """The numbers of a run, all in optimizer steps unless said otherwise."""

    samples: int
    devices: int
    device_batch: int
    accumulation: int
    total_batch: int
    steps_per_epoch: int
    epochs: int
    total_steps: int
    warmup_steps: int
    lr: float
    min_lr: float
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
            ("total steps", f"{self.total_steps:,} ({self.epochs} epochs)"),
            ("warm-up", f"{self.warmup_steps:,} steps"),
            ("learning rate", f"{self.lr:g} -> {self.min_lr:g} (not scaled; linear rule from 4e-3 at 4096: "
                              f"{4e-3 * self.total_batch / 4096:.2g})"),
            ("EMA", "off" if half_life is None else f"decay {self.ema_decay:.6g}, half-life {half_life:,.0f} steps"),
            ("drop-path", f"{self.drop_path_rate:.3g}"),
        ]  # fmt: skip

    def warnings(self) -> list[str]:
        """Settings that make no sense for a run of this length."""
        found = []
        if self.ema_half_life and self.ema_half_life > self.total_steps / 10:
            found.append(
                f"The EMA's half-life of {self.ema_half_life:,.0f} steps is more than a tenth of the run "
                f"({self.total_steps:,} steps): its weights will lag far behind. Use --ema.decay None --ema.half-life-share 0.01."
            )
        if self.warmup_steps > self.total_steps / 4:
            found.append(
                f"The warm-up of {self.warmup_steps:,} steps is more than a quarter of the run ({self.total_steps:,} steps). "
                "Use --optim.warmup-epochs None --optim.warmup-share 0.05."
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
    total_steps = steps_per_epoch * recipe.epochs
    optim = recipe.optim
    if optim.warmup_epochs is not None:
        warmup = round(optim.warmup_epochs * steps_per_epoch)
    else:
        warmup = round(optim.warmup_share * total_steps)
    if warmup >= total_steps:
        raise ConvNextError(
            f"The warm-up ({warmup:,} steps) is as long as the whole run ({total_steps:,} steps). "
            "Lower it with --optim.warmup-epochs, or raise --epochs."
        )
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
        epochs=recipe.epochs,
        total_steps=total_steps,
        warmup_steps=warmup,
        lr=optim.lr,
        min_lr=optim.min_lr,
        ema_decay=ema_decay,
        drop_path_rate=_drop_path(recipe),
    )


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


def _check_ranges(recipe: Recipe) -> None:
    """Refuse numbers that would only fail later, or train nonsense."""
    augment, optim = recipe.augment, recipe.optim
    checks = [
        ("epochs", recipe.epochs, recipe.epochs >= 1, "at least 1"),
        ("total-batch", recipe.total_batch, recipe.total_batch >= 1, "at least 1"),
        ("device-batch", recipe.device_batch, recipe.device_batch >= 1, "at least 1"),
        ("image-size", recipe.image_size, recipe.image_size >= 1, "at least 1"),
        ("eval-every", recipe.eval_every, recipe.eval_every >= 1, "at least 1"),
        ("val-share", recipe.val_share, 0 < recipe.val_share < 1, "between 0 and 1"),
        ("optim.lr", optim.lr, optim.lr > 0, "above 0"),
        ("optim.warmup-epochs", optim.warmup_epochs, (optim.warmup_epochs or 0) >= 0, "at least 0"),
        ("optim.warmup-share", optim.warmup_share, 0 <= optim.warmup_share < 1, "at least 0 and below 1"),
        ("optim.weight-decay", optim.weight_decay, optim.weight_decay >= 0, "at least 0"),
        ("optim.layer-decay", optim.layer_decay, 0 < (optim.layer_decay or 1) <= 1, "above 0 and at most 1"),
        ("optim.clip-grad", optim.clip_grad, optim.clip_grad is None or optim.clip_grad > 0, "above 0, or None"),
        ("ema.decay", recipe.ema.decay, 0 < (recipe.ema.decay or 0.5) < 1, "between 0 and 1, or None"),
        ("model.drop-path-rate", recipe.model.drop_path_rate, 0 <= (recipe.model.drop_path_rate or 0) < 1,
         "at least 0 and below 1, or None"),
        ("augment.mixup", augment.mixup, augment.mixup >= 0, "at least 0"),
        ("augment.cutmix", augment.cutmix, augment.cutmix >= 0, "at least 0"),
    ]  # fmt: skip
    checks += [
        (f"augment.{name.replace('_', '-')}", value, 0 <= value <= 1, "between 0 and 1")
        for name in ("hflip", "random_erasing", "mixup_prob", "mixup_switch_prob", "label_smoothing")
        for value in [getattr(augment, name)]
    ]
    for name, value, good, wanted in checks:
        if not good:
            raise ConvNextError(f"--{name} is {value}; it must be {wanted}.")
    runtime = recipe.runtime
    for name in ("log_every", "keep_checkpoints"):
        if getattr(runtime, name) < 1:
            raise ConvNextError(
                f"--runtime.{name.replace('_', '-')} is {getattr(runtime, name)}; it must be at least 1."
            )

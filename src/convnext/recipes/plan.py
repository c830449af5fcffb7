"""The plan of a run: steps, warm-up, EMA and drop-path of a recipe on a given dataset and number of devices; warnings."""

import math
from dataclasses import dataclass

from convnext.errors import ConvNextError
from convnext.recipes.optim import Schedule
from convnext.recipes.ranges import check_ranges
from convnext.recipes.schema import Recipe
from convnext.recipes.table5 import DROP_PATH_RATES


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
    shorter_warmup: str  # the options that make the warm-up a twentieth of the run
    ema_decay: float | None
    drop_path_rate: float

    @property
    def ema_half_life(self) -> float | None:
        """Steps after which a weight's share in the average has halved."""
        return math.log(0.5) / math.log(self.ema_decay) if self.ema_decay else None

    def rows(self) -> list[tuple[str, str]]:
        """The table shown before a run starts."""
        half_life, epochs = self.ema_half_life, f"{self.total_steps / self.steps_per_epoch:.4g}"
        return [
            ("images", f"{self.samples:,}"),
            (
                "batch",
                f"{self.device_batch} per device x {self.devices} device{'s' * (self.devices > 1)} x "
                f"{self.accumulation} accumulation = {self.total_batch}",
            ),
            ("steps per epoch", f"{self.steps_per_epoch:,}"),
            ("total steps", f"{self.total_steps:,} ({epochs} epoch{'s' * (epochs != '1')})"),
            ("warm-up", _steps(self.schedule.warmup_steps)),
            ("learning rate", self._learning_rate()),
            ("EMA", "off" if half_life is None else f"decay {self.ema_decay:.6g}, half-life {_steps(half_life)}"),
            ("drop-path", f"{self.drop_path_rate:.3g}"),
        ]  # fmt: skip

    def _learning_rate(self) -> str:
        if self.schedule.kind != "cosine":
            return str(self.schedule)
        return f"{self.schedule} (not scaled; linear rule from 4e-3 at 4096: {4e-3 * self.total_batch / 4096:.2g})"

    def warnings(self) -> list[str]:
        """Settings that make no sense for a run of this length."""
        found = []
        if self.ema_half_life and self.ema_half_life > max(
            self.total_steps / 10, 1.01
        ):  # 1 step is the shortest there is
            found.append(
                f"The EMA's half-life of {_steps(self.ema_half_life)} is more than a tenth of the run "
                f"({self.total_steps:,} steps): its weights will lag far behind. Use --ema.decay None --ema.half-life-share 0.01."
            )
        if (warmup := self.schedule.warmup_steps) > self.total_steps / 4:
            found.append(
                f"The warm-up of {_steps(warmup)} is more than a quarter of the run ({self.total_steps:,} steps). "
                f"Use {self.shorter_warmup}."
            )
        return found


def _steps(number: float) -> str:
    return f"{number:,.0f} step{'s' * (round(number) != 1)}"


def make_plan(recipe: Recipe, samples: int, devices: int = 1) -> Plan:
    """Work out the run of `recipe` on `samples` training images and `devices` processes; a `device_batch` of "auto" is a
    device's whole share of the total batch.

    Raises:
        ConvNextError: the batch sizes do not divide, the dataset is smaller than a batch, or a number is out of range.
    """
    check_ranges(recipe)
    total = recipe.total_batch
    wanted = total if recipe.device_batch == "auto" else recipe.device_batch
    device_batch = _device_batch(total, wanted, devices)
    if samples < total:
        raise ConvNextError(
            f"The training set has {samples} images, fewer than one batch of {total}. Choose a smaller batch, such as "
            f"--total-batch {2 ** int(math.log2(max(samples // 4, 1)))}, or give more data."
        )
    steps_per_epoch = samples // total
    total_steps, eval_steps = recipe.length(steps_per_epoch)
    schedule = recipe.optim.schedule(steps_per_epoch, total_steps)
    if schedule.warmup_steps >= total_steps:
        raise ConvNextError(
            f"The warm-up ({schedule.warmup_steps:,} steps) is as long as the whole run ({total_steps:,} steps). "
            f"Use {recipe.optim.shorter_warmup()}, or raise {recipe.length_option}."
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
        total_steps=total_steps,
        eval_steps=eval_steps,
        schedule=schedule,
        shorter_warmup=recipe.optim.shorter_warmup(),
        ema_decay=ema_decay,
        drop_path_rate=_drop_path(recipe, total_steps / steps_per_epoch),
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


def _drop_path(recipe: Recipe, epochs: float) -> float:
    if recipe.model.drop_path_rate is not None:
        return recipe.model.drop_path_rate
    return DROP_PATH_RATES.get(recipe.model.name, 0.1) * min(1.0, epochs / 300)

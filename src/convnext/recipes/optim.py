"""The options of the optimizer, and the learning-rate schedule that each kind of them makes."""

from dataclasses import dataclass
from typing import ClassVar

from convnext.errors import ConvNextError
from convnext.recipes.ranges import SHARE, STRICT, ranged


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves; `convnext.engine.schedule.learning_rate` computes it.

    Attributes:
        kind: cosine (Tables 5 and 6), step (COCO) or poly (ADE20K).
        warmup_steps: linear warm-up: from 0 to the peak inclusive for the cosine; for the others from `warmup_ratio` of
            the schedule's own value at that step.
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
    power: float = ranged(1.0, above=0)

    def __str__(self) -> str:
        if self.kind == "step":
            return f"{self.lr:g}, a tenth after each of the steps {', '.join(f'{step:,}' for step in self.milestones)}"
        return f"{self.lr:g} -> {self.min_lr:g} ({'cosine' if self.kind == 'cosine' else f'power {self.power:g}'})"


@dataclass(frozen=True)
class AdamW:
    """The optimizer of every task; subclasses add how the learning rate moves."""

    __pydantic_config__ = STRICT
    kinds: ClassVar[list[type["AdamW"]]] = []  # the subclasses, by which a run's config is read back
    warmup_option: ClassVar[str] = "--optim.warmup-steps"  # the warm-up's length; None: a share of the run

    lr: float = ranged(4e-3, above=0)
    """Peak learning rate, for the total batch; not rescaled when the batch size changes."""
    weight_decay: float = ranged(0.05, at_least=0)
    """Decoupled weight decay; norms, biases and LayerScale have none."""
    betas: tuple[float, float] = ranged((0.9, 0.999), at_least=0, below=1)
    """AdamW's decay of the gradient's mean and square."""
    eps: float = ranged(1e-8, above=0)
    """AdamW's term against division by zero."""
    layer_decay: float | None = ranged(None, above=0, at_most=1)
    """Factor on the learning rate per layer group from the head down (Sections A.2, A.3); None: one rate for all."""
    clip_grad: float | None = ranged(None, above=0)
    """Largest gradient norm, in every precision; None: no clipping."""
    warmup_share: float = ranged(0.05, at_least=0, below=1)
    """Linear warm-up as a share of the run, when its length in epochs or steps is None."""

    def __init_subclass__(cls, **keywords) -> None:
        super().__init_subclass__(**keywords)
        AdamW.kinds.append(cls)

    def schedule(self, steps_per_epoch: int, total_steps: int) -> Schedule:
        """The learning rate over a run of this length."""
        raise NotImplementedError(f"{type(self).__name__} has no schedule: use Optim, StepOptim or PolyOptim")

    def _warmup(self, steps: int | None, total_steps: int) -> int:
        return round(self.warmup_share * total_steps) if steps is None else steps

    def shorter_warmup(self) -> str:
        """The options for a warm-up of a twentieth of the run."""
        return f"{self.warmup_option} None --optim.warmup-share 0.05"


@dataclass(frozen=True)
class Optim(AdamW):
    """Half a cosine after a warm-up from zero (Tables 5 and 6)."""

    warmup_option: ClassVar[str] = "--optim.warmup-epochs"

    min_lr: float = ranged(1e-6, at_least=0)
    """Learning rate at the end of the cosine."""
    warmup_epochs: float | None = ranged(20.0, at_least=0)
    """Linear warm-up in epochs; None: use warmup_share."""

    def schedule(self, steps_per_epoch: int, total_steps: int) -> Schedule:
        steps = None if self.warmup_epochs is None else round(self.warmup_epochs * steps_per_epoch)
        return Schedule("cosine", self.lr, total_steps, self._warmup(steps, total_steps), min_lr=self.min_lr)


@dataclass(frozen=True)
class StepOptim(AdamW):
    """A tenth of the learning rate after each milestone (COCO, Section A.3)."""

    lr: float = 1e-4
    """Peak learning rate, for the total batch; not rescaled when the batch size changes."""
    milestones: tuple[int, ...] | None = ranged(None, at_least=1, ordered=True)
    """Epochs after which the learning rate is a tenth of what it was; None: milestone_shares of the run."""
    milestone_shares: tuple[float, ...] = ranged((27 / 36, 33 / 36), above=0, below=1, ordered=True)
    """Shares of the run after which the learning rate is a tenth of what it was, where milestones is None; the paper's are
    27 and 33 of 36 epochs."""
    warmup_steps: int | None = ranged(500, at_least=0)
    """Optimizer steps of linear warm-up; None: use warmup_share."""
    warmup_ratio: float = ranged(1e-3, **SHARE)
    """Share of the learning rate at which the warm-up starts."""

    def schedule(self, steps_per_epoch: int, total_steps: int) -> Schedule:
        milestones = tuple(round(share * total_steps) for share in self.milestone_shares)
        if self.milestones is not None:
            milestones = tuple(epoch * steps_per_epoch for epoch in self.milestones)
            if milestones and milestones[-1] >= total_steps:
                raise ConvNextError(
                    f"The milestone after epoch {self.milestones[-1]} is not before the end of a run of "
                    f"{total_steps / steps_per_epoch:g} epochs. Give earlier --optim.milestones, or leave the option out: "
                    "the milestones then move with the length of the run."
                )
        warmup = self._warmup(self.warmup_steps, total_steps)
        return Schedule("step", self.lr, total_steps, warmup, warmup_ratio=self.warmup_ratio, milestones=milestones)


@dataclass(frozen=True)
class PolyOptim(AdamW):
    """A polynomial that reaches zero at the end (ADE20K, Section A.3)."""

    lr: float = 1e-4
    """Peak learning rate, for the total batch; not rescaled when the batch size changes."""
    power: float = ranged(1.0, above=0)
    """The polynomial's power; 1 is a straight line."""
    warmup_steps: int | None = ranged(1500, at_least=0)
    """Optimizer steps of linear warm-up; None: use warmup_share."""
    warmup_ratio: float = ranged(1e-6, **SHARE)
    """Share of the learning rate at which the warm-up starts."""

    def schedule(self, steps_per_epoch: int, total_steps: int) -> Schedule:
        warmup = self._warmup(self.warmup_steps, total_steps)
        return Schedule("poly", self.lr, total_steps, warmup, warmup_ratio=self.warmup_ratio, power=self.power)

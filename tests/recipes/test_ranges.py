"""Ranges stand at the fields of every recipe, and what lies outside is refused with the option's name."""

import dataclasses
import math
from dataclasses import dataclass, field, is_dataclass, replace
from typing import get_type_hints

import pytest

from convnext import recipes
from convnext.errors import ConvNextError
from convnext.recipes import schema
from convnext.recipes.optim import StepOptim
from convnext.recipes.ranges import check_ranges, range_of, ranged
from convnext.recipes.schema import Classification, Detection, Segmentation

WITHOUT_A_RANGE = {"seed"}  # any integer is a seed
KINDS = [
    kind
    for kind in vars(schema).values()
    if isinstance(kind, type) and is_dataclass(kind) and hasattr(kind, "__pydantic_config__")
]


@dataclass
class Inner:
    batch: int = ranged(32, at_least=1, at_most=4096)


@dataclass
class Options:
    top_k: int = ranged(5, at_least=1)
    scale: tuple[float, float] = ranged((0.5, 1.0), above=0, at_most=1, ordered=True)
    ratio: float | None = None
    inner: Inner = field(default_factory=Inner)


@dataclass
class Changed(Inner):
    batch: int = 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(top_k=-1), "--top-k is -1; it must be at least 1."),
        (Options(scale=(-1.0, 2.0)), "--scale is -1.0 2.0; every number of it must be above 0 and at most 1"),
        (Options(scale=(1.0, 0.5)), "rising order"),
        (Options(scale=(0.5, math.nan)), "--scale is 0.5 nan; it must be finite."),
        (Options(ratio=math.inf), "--ratio is inf; it must be finite."),
        (Options(inner=Inner(batch=0)), "--inner.batch is 0; it must be at least 1 and at most 4096."),
        (Options(inner=Changed(batch=0)), "--inner.batch is 0"),
    ],
)
def test_a_value_outside_is_refused_by_the_name_of_its_option(options, words):
    with pytest.raises(ConvNextError) as error:
        check_ranges(options)
    assert words in str(error.value)


def test_values_inside_and_none_pass():
    check_ranges(Options(top_k=1, scale=(1.0, 1.0), ratio=None, inner=Changed()))


def test_the_prefix_is_the_callers():
    with pytest.raises(ConvNextError, match="^field batch is 0"):
        check_ranges(Inner(0), prefix="field ")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_number_of_a_recipe_has_a_range(kind):
    hints = get_type_hints(kind)
    for each in dataclasses.fields(kind):
        text = str(hints[each.name])
        if "Literal" not in text and ("int" in text or "float" in text) and each.name not in WITHOUT_A_RANGE:
            assert range_of(kind, each.name), f"{kind.__name__}.{each.name}"


def test_every_recipe_is_within_its_ranges():
    for recipe in recipes.recipes().values():
        check_ranges(recipe)


def changed(recipe, option, value):
    """The recipe with one field, named as on the command line, replaced."""
    part, _, name = option.rpartition(".")
    if not part:
        return replace(recipe, **{name: value})
    return replace(recipe, **{part: replace(getattr(recipe, part), **{name: value})})


@pytest.mark.parametrize(
    ("recipe", "option", "values"),
    [
        (Classification(), "image_size", (0, -1, 65536, 4294967296)),
        (Classification(), "max_nonfinite", (0,)),
        (Classification(), "val_share", (-0.1, 1.0, math.nan)),
        (Classification(), "max_corrupt_share", (-0.1, math.nan, 2.0)),
        (Classification(), "runtime.workers", (-1,)),
        (Classification(), "runtime.keep_checkpoints", (0,)),
        (Classification(), "runtime.checkpoint_steps", (0, -3)),
        (Classification(), "runtime.checkpoint_minutes", (-1.0, math.inf)),
        (Classification(), "runtime.eval_batch", (0, -1)),
        (Classification(), "runtime.recompute_stages", ((4,), (-1,))),
        (Classification(), "optim.betas", ((1.0, 1.0), (0.9, -0.1))),
        (Classification(), "optim.eps", (math.nan, 0.0)),
        (Classification(), "optim.lr", (math.nan, math.inf, 0.0)),
        (Classification(), "optim.min_lr", (-1e-9, math.nan)),
        (Classification(), "augment.crop_scale", ((-1.0, 2.0), (1.0, 0.5), (0.0, 1.0))),
        (Classification(), "augment.crop_padding", (-1,)),
        (Classification(), "model.width_mult", (0.0, math.inf)),
        (Classification(), "model.drop_path_rate", (1.0, -0.1, math.nan)),
        (Classification(), "ema.half_life_share", (0.0, -1.0)),
        (Detection(), "augment.short_sides", ((), (0,), (100_000,))),
        (Detection(), "optim.milestones", ((0,), (33, 27))),
        (Detection(), "optim.warmup_ratio", (2.0,)),
        (Segmentation(), "model.channels", (0, 1 << 40)),
        (Segmentation(), "augment.scale", ((2.0, 0.5), (0.0, 1.0))),
        (Segmentation(), "optim.lr", (-1.0,)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_is_refused(recipe, option, values):
    for value in values:
        with pytest.raises(ConvNextError) as error:
            check_ranges(changed(recipe, option, value))
        assert f"--{option.replace('_', '-')} is " in str(error.value)


def test_an_optimizer_keeps_the_ranges_of_its_base():
    assert range_of(StepOptim, "lr") is not None

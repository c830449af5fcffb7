from dataclasses import replace

import pytest

from convnext import recipes
from convnext.errors import ConvNextError
from convnext.recipes.plan import make_plan
from convnext.recipes.schema import Classification, Detection, Ema, Model, Optim, Segmentation, StepOptim

SMALL = Classification(epochs=10, total_batch=64, device_batch=16, optim=Optim(warmup_epochs=1.0), ema=Ema(decay=None))


def test_the_paper_on_imagenet():
    plan = make_plan(recipes.get("table5/tiny"), 1_281_167, devices=8)
    assert (plan.accumulation, plan.steps_per_epoch, plan.total_steps) == (4, 312, 93_600)
    assert plan.schedule.warmup_steps == 20 * 312
    assert plan.ema_half_life == pytest.approx(6931, abs=1)
    assert plan.drop_path_rate == 0.1
    assert plan.warnings() == []
    assert ("batch", "128 per device x 8 devices x 4 accumulation = 4096") in plan.rows()


def test_the_total_batch_stays_when_devices_change():
    for devices in (1, 2, 4):
        plan = make_plan(SMALL, 1000, devices)
        assert plan.device_batch * plan.devices * plan.accumulation == 64
        assert plan.steps_per_epoch == 15


def test_a_device_batch_larger_than_its_share_shrinks():
    plan = make_plan(replace(SMALL, device_batch=128), 1000, 4)
    assert (plan.device_batch, plan.accumulation) == (16, 1)


def test_a_device_batch_that_does_not_divide_gives_way_to_the_next_that_does():
    plan = make_plan(replace(SMALL, total_batch=360, device_batch=64), 1000)
    assert (plan.device_batch, plan.accumulation) == (60, 6)


def test_small_presets_scale_with_the_run():
    short, long = (make_plan(replace(recipes.get("small/scratch"), epochs=e), 50_000) for e in (10, 100))
    assert short.schedule.warmup_steps == round(0.05 * short.total_steps)
    assert long.ema_half_life == pytest.approx(0.01 * long.total_steps)
    assert long.drop_path_rate == pytest.approx(10 * short.drop_path_rate)
    assert not short.warnings() + long.warnings()


def test_an_ema_or_warmup_too_long_for_the_run_is_warned_of():
    plan = make_plan(replace(SMALL, ema=Ema(decay=0.9999), optim=Optim(warmup_epochs=4.0)), 1000)
    assert len(plan.warnings()) == 2
    assert "half-life" in plan.warnings()[0]
    assert "warm-up" in plan.warnings()[1]


@pytest.mark.parametrize(
    ("recipe", "samples", "devices", "words"),
    [
        (SMALL, 63, 1, "fewer than one batch"),
        (replace(SMALL, total_batch=59), 1000, 1, "--total-batch, such as 48"),
        (SMALL, 1000, 3, "--total-batch"),
        (replace(SMALL, epochs=0), 1000, 1, "--epochs"),
        (replace(SMALL, optim=Optim(lr=-1)), 1000, 1, "--optim.lr"),
        (replace(SMALL, optim=Optim(warmup_epochs=20)), 1000, 1, "as long as the whole run"),
        (replace(SMALL, model=replace(SMALL.model, drop_path_rate=1.0)), 1000, 1, "--model.drop-path-rate"),
        (replace(SMALL, augment=replace(SMALL.augment, hflip=2.0)), 1000, 1, "--augment.hflip"),
        (replace(SMALL, ema=Ema(decay=1.0)), 1000, 1, "--ema.decay"),
        (replace(SMALL, max_nonfinite=0), 1000, 1, "--max-nonfinite is 0"),
        (Detection(epochs=2, optim=StepOptim(milestones=(27, 33))), 64_000, 1, "milestone after epoch 33"),
        (Detection(epochs=2, optim=StepOptim(milestones=(1, 2))), 64_000, 1, "milestone after epoch 2"),
    ],
)
def test_what_cannot_work_is_refused_with_the_option_to_change(recipe, samples, devices, words):
    with pytest.raises(ConvNextError, match=words):
        make_plan(recipe, samples, devices)


def test_every_recipe_plans():
    for name, recipe in recipes.recipes().items():
        plan = make_plan(recipe, 1_281_167, 1)
        assert plan.device_batch * plan.accumulation == recipe.total_batch, name


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ("convnext_atto", 0.1),
        ("convnext_small", 0.4),
        ("convnext_base", 0.5),
        ("convnext_xlarge", 0.5),
        ("convnext_isotropic_small", 0.1),
        ("convnext_isotropic_large", 0.5),
    ],
)
def test_drop_path_of_none_is_the_tables_rate_scaled_with_the_run(model, rate):
    for epochs, share in ((300, 1.0), (30, 0.1), (600, 1.0)):
        recipe = Classification(epochs=epochs, model=Model(model, drop_path_rate=None))
        assert make_plan(recipe, 1_281_167).drop_path_rate == pytest.approx(share * rate)


def test_milestones_of_the_paper_are_27_and_33_of_36_epochs():
    for recipe in (recipes.get("coco/mask-rcnn-tiny"), recipes.get("coco/cascade-xlarge-22k")):
        plan = make_plan(recipe, 117_266, devices=8)
        assert plan.schedule.milestones == (27 * plan.steps_per_epoch, 33 * plan.steps_per_epoch)


def test_milestones_move_with_the_length_of_the_run():
    recipe = replace(recipes.get("coco/mask-rcnn-tiny"), epochs=2)
    assert make_plan(recipe, 16_000).schedule.milestones == (1500, 1833)
    explicit = replace(recipe, optim=replace(recipe.optim, milestones=(1,)))
    assert make_plan(explicit, 16_000).schedule.milestones == (1000,)
    assert make_plan(recipes.get("small/detect"), 8000).schedule.milestones == (16_000, 22_000)


def test_the_warm_up_of_the_presets_for_few_images_moves_with_the_length_of_the_run():
    for images, steps in ((60, 8), (8000, 1200)):
        assert make_plan(recipes.get("small/detect"), images).schedule.warmup_steps == steps
    assert make_plan(recipes.get("small/segment"), 300).schedule.warmup_steps == 200
    paper = recipes.get("coco/mask-rcnn-tiny")
    with pytest.raises(ConvNextError, match=r"--optim.warmup-steps None --optim.warmup-share 0.05"):
        make_plan(replace(paper, epochs=1), 160)
    followed = replace(paper, epochs=1, optim=replace(paper.optim, warmup_steps=None, warmup_share=0.05))
    assert make_plan(followed, 1600).schedule.warmup_steps == 5


def test_the_schedule_follows_the_optimizer():
    cosine = make_plan(Detection(optim=Optim(warmup_epochs=1.0)), 16_000).schedule
    assert (cosine.kind, cosine.warmup_steps, cosine.total_steps) == ("cosine", 1000, 36_000)
    step = make_plan(Segmentation(optim=StepOptim()), 16_000).schedule
    assert (step.kind, step.milestones) == ("step", (120_000, 146_667))


def test_the_ema_advice_is_not_given_to_a_run_that_follows_it():
    tiny = replace(SMALL, epochs=1, ema=Ema(decay=None, half_life_share=0.01), optim=Optim(warmup_epochs=0.0))
    assert make_plan(tiny, 300).warnings() == []

"""`convnext train RECIPE [--data DIR] [--field value ...]`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from convnext import recipes
from convnext.cli.parsing import check_data, parse, take_word
from convnext.console import stdout
from convnext.errors import ConvNextError
from convnext.recipes.schema import Recipe

DESCRIPTION = """Train a model by a recipe; every field of the recipe can be overridden.

    convnext train                                    the quickstart: handwritten digits
    convnext train small/finetune --data photos --model.weights convnext_tiny.in22k
    convnext train small/scratch --data photos --model.name convnext_femto --epochs 100
    torchrun --nproc-per-node 8 -m convnext train table5/tiny --data imagenet

The same command continues a run that was stopped, to the same bits. `convnext info recipes` lists the recipes."""


@dataclass(frozen=True)
class Arguments:
    """Options of `train`."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of the run; runs/RECIPE if not given. One that holds an unfinished run of the same config is continued."""
    dry_run: bool = False
    """Show the plan of the run, and stop."""


def run(argv: list[str]) -> int:
    name, rest = take_word(argv, "quickstart", "a recipe")
    if name == "quickstart" and not argv[:1] == ["quickstart"] and any(a.split("=")[0] == "--data" for a in rest):
        raise ConvNextError(
            "Name the recipe to train your own images with: `convnext train small/finetune --data ...` from released weights, "
            "or `convnext train small/scratch --data ...` from random ones. Without a recipe, digits are trained."
        )
    arguments = parse_arguments(name, rest, recipes.get(name))
    check_data(arguments.recipe.data)
    if arguments.recipe.model.weights:
        from convnext.trained import check_name

        check_name(str(arguments.recipe.model.weights))

    from convnext.runtime.interruption import Stopped
    from convnext.training import run_recipe

    console = stdout()
    try:
        run_recipe(name, arguments.recipe, arguments.out, arguments.dry_run, console)
    except Stopped as stopped:
        console.print(f"Stopped at {stopped}; the state is saved. Give the same command to continue.")
        return stopped.code
    return 0


def parse_arguments(name: str, argv: list[str], recipe: Recipe) -> Arguments:
    """The recipe with the overrides of the command line."""
    argv = ["--model.name" if word == "--model" else word for word in argv]
    return parse(Arguments, argv, f"train {name}", DESCRIPTION, default=Arguments(recipe))

"""The roadmap's recipes: every row of Tables 10 and 11, trained with Table 5's setting without EMA (Section A.1)."""

from convnext.paper import ROADMAPS, STEPS
from convnext.recipes.schema import Classification, Ema, Model
from convnext.recipes.table5 import PAPER_1K

TABLES = {"resnet50": "Table 10", "resnet200": "Table 11"}
DROP_PATH_RATES = {"resnet50": PAPER_1K["tiny"], "resnet200": PAPER_1K["base"]}

RECIPES = {
    f"roadmap/{regime}-{step.key}": Classification(
        source=f"{TABLES[regime]}, row {STEPS[step.key]}",
        model=Model(name=f"roadmap_{regime}_{step.key}", drop_path_rate=DROP_PATH_RATES[regime]),
        ema=Ema(decay=None),
    )
    for regime, roadmap in ROADMAPS.items()
    for step in roadmap.steps
}

"""Results of the paper (Liu et al., "A ConvNet for the 2020s", CVPR 2022): every table of results, one row per model.

Numbers are as printed, in the printed unit: GFLOPs are 1e9 multiply-accumulates, throughput is images per second,
accuracies and errors are percent. A cell that the paper prints in two tables stands once where the tables share their
rows (1 with 12, 4 with 7, 8 with 9); elsewhere each table is whole and the tests hold them against each other. A `note`
says where a printed cell is not what counting gives, or where the thesis version of the text corrects it.
"""

from convnext.paper.downstream import (
    CASCADE_TRAINING_GB,
    TABLE3,
    TABLE4,
    Detection,
    Segmentation,
    detection,
    segmentation,
)
from convnext.paper.imagenet import (
    COUNTED,
    ISOTROPIC_LARGE_PARAMS_WITHOUT_LAYER_SCALE,
    TABLE1,
    TABLE2,
    TRANSFORMERS,
    Classification,
    Counted,
    Isotropic,
    classification,
    isotropic,
)
from convnext.paper.lookup import NAMES, Pretrain, lookup
from convnext.paper.roadmap import GROUPS, NOT_ADOPTED, ROADMAPS, STEPS, Reference, Regime, Roadmap, Step, roadmap_step
from convnext.paper.settings import TABLE5, TABLE6, Setting, Settings
from convnext.paper.stages import STAGES, Stage
from convnext.paper.table8 import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    RESNET50_C_BAR_ERRORS,
    TABLE8,
    TABLE9,
    Robustness,
    robustness,
)

__all__ = [
    "ALEXNET_CLEAN_ERROR",
    "ALEXNET_ERRORS",
    "CASCADE_TRAINING_GB",
    "COUNTED",
    "GROUPS",
    "ISOTROPIC_LARGE_PARAMS_WITHOUT_LAYER_SCALE",
    "NAMES",
    "NOT_ADOPTED",
    "RESNET50_C_BAR_ERRORS",
    "ROADMAPS",
    "STAGES",
    "STEPS",
    "TABLE1",
    "TABLE2",
    "TABLE3",
    "TABLE4",
    "TABLE5",
    "TABLE6",
    "TABLE8",
    "TABLE9",
    "TRANSFORMERS",
    "Classification",
    "Counted",
    "Detection",
    "Isotropic",
    "Pretrain",
    "Reference",
    "Regime",
    "Roadmap",
    "Robustness",
    "Segmentation",
    "Setting",
    "Settings",
    "Stage",
    "Step",
    "classification",
    "detection",
    "isotropic",
    "lookup",
    "roadmap_step",
    "robustness",
    "segmentation",
]

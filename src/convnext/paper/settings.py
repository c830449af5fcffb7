"""Tables 5 and 6: settings of training, as printed; what the thesis version adds or corrects."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """A row: what it is called, and a value for each column; several models' values stand with / between them.

    `thesis`: only the thesis version (Tables 2.5 and 2.6) has it, or has it so.
    """

    name: str
    values: tuple[str, str]
    thesis: bool = False
    note: str = ""


@dataclass(frozen=True)
class Settings:
    """A table of settings; `recipes` are ours for the models of each column, `thesis_recipes` for the thesis' columns."""

    title: str
    columns: tuple[str, str]
    recipes: tuple[tuple[str, ...], tuple[str, ...]]
    thesis_recipes: tuple[tuple[str, ...], tuple[str, ...]]
    rows: tuple[Setting, ...]


def _both(value: str) -> tuple[str, str]:
    return value, value


_1K = ("table5/tiny", "table5/small", "table5/base", "table5/large")
_22K = ("table5/base-22k", "table5/large-22k", "table5/xlarge-22k")
_MOMENTUM = "β1, β2 = 0.9, 0.999"

TABLE5 = Settings(
    "ImageNet-1K/22K (pre-)training settings",
    ("ConvNeXt-T/S/B/L, ImageNet-1K 224²", "ConvNeXt-B/L/XL, ImageNet-22K 224²"),
    (_1K, _22K),
    (_1K, ("table5/tiny-22k", "table5/small-22k", *_22K)),
    (
        Setting(
            "weight init", _both("trunc. normal (0.2)"), True, "a misprint: the reference draws with 0.02, as we do"
        ),
        Setting("optimizer", _both("AdamW")),
        Setting("base learning rate", _both("4e-3")),
        Setting("weight decay", _both("0.05")),
        Setting("optimizer momentum", _both(_MOMENTUM)),
        Setting("batch size", _both("4096")),
        Setting("training epochs", ("300", "90")),
        Setting("learning rate schedule", _both("cosine decay")),
        Setting("warmup epochs", ("20", "5")),
        Setting("warmup schedule", _both("linear")),
        Setting("layer-wise lr decay", _both("None")),
        Setting("randaugment", _both("(9, 0.5)")),
        Setting("label smoothing", _both("0.1")),
        Setting("mixup", _both("0.8")),
        Setting("cutmix", _both("1.0")),
        Setting("random erasing", _both("0.25"), True),
        Setting("stochastic depth", ("0.1/0.4/0.5/0.5", "0.1/0.1/0.2")),
        Setting("stochastic depth", ("0.1/0.4/0.5/0.5", "0.0/0.0/0.1/0.1/0.2"), True),
        Setting("layer scale", _both("1e-6")),
        Setting("head init scale", _both("None"), True),
        Setting("gradient clip", _both("None")),
        Setting("exp. mov. avg. (EMA)", ("0.9999", "None")),
    ),
)

_FROM_1K = ("table6/base-384", "table6/large-384")
_FROM_22K = ("table6/base-22k-1k-384", "table6/large-22k-1k-384", "table6/xlarge-22k-1k-384")

TABLE6 = Settings(
    "ImageNet-1K fine-tuning settings",
    ("ConvNeXt-B/L, ImageNet-1K 224² to 384²", "ConvNeXt-B/L/XL, ImageNet-22K 224² to 224² and 384²"),
    (_FROM_1K, _FROM_22K),
    (_FROM_1K, ("table6/tiny-22k-1k-384", "table6/small-22k-1k-384", *_FROM_22K)),
    (
        Setting("optimizer", _both("AdamW")),
        Setting("base learning rate", _both("5e-5")),
        Setting("weight decay", _both("1e-8")),
        Setting("optimizer momentum", _both(_MOMENTUM)),
        Setting("batch size", _both("512")),
        Setting("training epochs", _both("30")),
        Setting("learning rate schedule", _both("cosine decay")),
        Setting("layer-wise lr decay", ("0.7", "0.8")),
        Setting("warmup epochs", _both("None")),
        Setting("warmup schedule", _both("N/A")),
        Setting("randaugment", _both("(9, 0.5)")),
        Setting("label smoothing", _both("0.1")),
        Setting("mixup", _both("None")),
        Setting("cutmix", _both("None")),
        Setting("random erasing", _both("0.25"), True),
        Setting("stochastic depth", ("0.8/0.95", "0.2/0.3/0.4")),
        Setting("stochastic depth", ("0.8/0.95", "0.0/0.1/0.2/0.3/0.4"), True),
        Setting("layer scale", _both("pre-trained")),
        Setting("head init scale", _both("0.001"), True),
        Setting("gradient clip", _both("None")),
        Setting("exp. mov. avg. (EMA)", ("None", "None/None/0.9999")),
    ),
)

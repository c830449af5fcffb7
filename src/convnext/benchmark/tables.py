"""The paper's tables of speed and memory (1, 2 and 12) as lists of configurations, and what was measured beside what it prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from convnext import paper
from convnext.benchmark.configs import Choices, Config, expand
from convnext.benchmark.paper_peers import BACKBONES, TIMM
from convnext.errors import ConvNextError, nearest

TRAINING_BATCH = 32  # of Table 2's memory
CONDITIONS = {
    1: "the paper's numbers are of a V100",
    2: f"the paper's numbers are of a V100; training memory with {TRAINING_BATCH} images",
    12: "the paper's numbers are of an A100, with TF32 and channels-last",
}


@dataclass(frozen=True)
class Line:
    """A row of the paper: its model, ours or timm's name of it, images per second and GB of training memory as printed."""

    model: str
    name: str
    size: int
    speed: float
    memory_gb: float | None = None

    @property
    def rival(self) -> bool:
        return not self.model.startswith("ConvNeXt")

    @property
    def pair(self) -> tuple[str, int]:
        """Key that a ConvNeXt and its rival share: the size of the model (T, S, ..) and that of the images."""
        return self.model.partition("-")[2].removesuffix(" (iso.)"), self.size


def lines(number: int, only: Sequence[str] = ()) -> list[Line]:
    """The ConvNeXts of a table and their rivals: Swins (1, 12) or ViTs (2).

    Args:
        only: names of ours; their rivals come with them.

    Raises:
        ConvNextError: one of these is not in the table.
    """
    if number == 2:
        found = [Line(r.model, _name(r.model, 224), 224, r.v100, r.training_gb) for r in paper.TABLE2]
    else:
        speeds = [(r, r.v100 if number == 1 else r.a100) for r in paper.TABLE1 if r.family in ("ConvNeXt", "Swin")]
        found = [Line(r.model, _name(r.model, r.size), r.size, speed) for r, speed in speeds if speed is not None]
    if not only:
        return found
    ours = [line.name for line in found if not line.rival]
    for name in only:
        if name not in ours:
            raise ConvNextError(
                f"Table {number} has no {name!r}.{nearest(name, dict.fromkeys(ours))} "
                f"It has: {', '.join(dict.fromkeys(ours))}."
            )
    pairs = {line.pair for line in found if line.name in only}
    return [line for line in found if line.pair in pairs]


def _name(model: str, size: int) -> str:
    ours = {theirs: name for name, theirs in paper.NAMES.items()}
    return ours[model] if model in ours else f"timm:{TIMM[(model, size)]}"


def configs(
    number: int, choices: Choices, device: str, deployable: Callable[[str], bool], only: Sequence[str] = ()
) -> list[Config]:
    """The configurations of a table; its image sizes and, for the memory of Table 2, its batch size are the paper's.

    Pairs stand together, so that a ConvNeXt and its rival are measured in turn.
    """
    if number == 12 and choices.precisions is None and device == "cuda":
        choices = replace(choices, precisions=("tf32",))
    parts = [choices]
    if number == 2:
        training = replace(choices, modes=("train",), batches=choices.batches or (TRAINING_BATCH,))
        parts = [replace(choices, modes=("inference",)), training]
    found = []
    wanted = sorted(lines(number, only), key=lambda line: (line.size, -line.speed))
    for part in parts:
        for size, of_size in groupby(wanted, key=lambda line: line.size):
            names = [line.name for line in of_size]
            found += expand(names, replace(part, image_sizes=(size,)), device, deployable)
    return list(dict.fromkeys(found))


def beside(number: int, rows: Sequence[dict], only: Sequence[str] = ()) -> tuple[str, tuple, list[tuple]]:
    """(title, columns, rows of cells): for each pair the paper's numbers, those of here and their ratios.

    Speed is that of the fastest configuration of each model, memory of the one that takes least.
    """
    pairs: dict[tuple, dict[bool, Line]] = {}
    for line in lines(number, only):
        pairs.setdefault(line.pair, {})[line.rival] = line
    rival = "ViT" if number == 2 else "Swin"
    ours = "ConvNeXt (iso.)" if number == 2 else "ConvNeXt"
    cells = []
    for (letter, size), sides in sorted(pairs.items(), key=lambda item: (item[0][1], "TSBLX".index(item[0][0][0]))):
        line, other = sides.get(False), sides.get(True)
        printed = [side and side.speed for side in (line, other)]
        here = [side and fastest(rows, side) for side in (line, other)]
        cells.append((f"{letter} {size}", "img/s", *_compare(printed, here)))
        if number == 2:
            printed = [side and side.memory_gb for side in (line, other)]
            here = [side and smallest_gb(rows, side) for side in (line, other)]
            cells.append(("", "training GB", *_compare(printed, here)))
    columns = ("size", "", f"{ours}, paper", "here", f"{rival}, paper", "here", "ratio, paper", "here")
    return f"Table {number}: {CONDITIONS[number]}", columns, cells


def fastest(rows: Sequence[dict], line: Line) -> float | None:
    """Images per second of inference."""
    found = [
        row["images_per_second"]["p50"] for row in rows if "images_per_second" in row and _of(row, line, "inference")
    ]
    return max(found, default=None)


def smallest_gb(rows: Sequence[dict], line: Line) -> float | None:
    """GB of a training step."""
    found = [row["peak_memory_mb"] / 1000 for row in rows if "peak_memory_mb" in row and _of(row, line, "train")]
    return min(found, default=None)


def _of(row: dict, line: Line, mode: str) -> bool:
    config = row["config"]
    return (config["model"], config["image_size"], config["mode"]) == (line.name, line.size, mode)


def _compare(printed: Sequence[float | None], here: Sequence[float | None]) -> tuple:
    """Paper and here of ours, of the rival, and of ours over the rival."""
    (our_paper, their_paper), (ours, theirs) = printed, here
    ratios = [a / b if a and b else None for a, b in ((our_paper, their_paper), (ours, theirs))]
    numbers = [None if n is None else f"{n:,.1f}" for n in (our_paper, ours, their_paper, theirs)]
    return (*numbers, *(None if ratio is None else f"{ratio:.2f}" for ratio in ratios))


def detectors_of_paper(rows: Sequence[dict]) -> list[tuple]:
    """(model, what, the paper's number) for each measured detector of Table 3, and of Section 4's training memory."""
    theirs = {f"timm:{name}": label for label, name in BACKBONES.items()}
    found = []
    for config in {(row["config"]["model"], row["config"]["mode"]): row["config"] for row in rows}.values():
        heads, _, body = config["model"].replace("_convnext_", "+convnext_").partition("+")
        label, method = (
            (paper.NAMES | theirs).get(body),
            {"mask_rcnn": "mask", "cascade_mask_rcnn": "cascade"}.get(heads),
        )
        row = paper.lookup(paper.TABLE3, backbone=label, method=method) if label and method else None
        if row is not None and config["mode"] == "inference":
            found.append((config["model"], "images/s, A100 (Table 3)", f"{row.fps:g}"))
        if row is not None and config["mode"] == "train" and method == "cascade" and label in paper.CASCADE_TRAINING_GB:
            found.append(
                (config["model"], "training GB, 2 images (Section 4)", f"{paper.CASCADE_TRAINING_GB[label]:g}")
            )
    return found

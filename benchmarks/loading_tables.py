"""The tables of docs/speed.md about loading images, for `benchmarks/tables.py`."""

from pathlib import Path

from convnext.report.table import markdown


def loading(result: dict) -> str:
    """Images per second and core of loading, ours beside the rivals."""
    rival = result["rows"]["timm, training"]["images_per_second"]
    rows = [
        (
            name,
            row["images_per_second"],
            round(row["milliseconds"]["p50"], 2),
            round(row["images_per_second"] / rival, 2) if ", training" in name else None,
        )
        for name, row in result["rows"].items()
    ]
    table = markdown(rows, ("", "images/s and core", "ms", "training : timm"))
    return (
        f"{result['images']} to 224 px, processor time, medians of {result['rounds']} rounds in turn; {result['device']}, "
        f"timm {result['versions']['timm']}, torchvision {result['versions']['torchvision']} (`{result['command']}`, "
        f"`results/{Path(result['file']).name}`).\n\n{table}"
    )


def source(result: dict) -> str:
    """The device, the command and the file of a result."""
    return f"{result['device']} (`{result['command']}`, `results/{Path(result['file']).name}`)"


def decoders(result: dict) -> str:
    """Every decoder's speed on two sizes, as a part of ours, and how far its pixels are from Pillow's."""
    small, large = result["sizes"].values()
    rows = [
        (
            name,
            *(
                value
                for row in (small[name], large[name])
                for value in (round(row["images_per_second"], 1), row["to_ours"])
            ),
            large[name]["difference"],
        )
        for name in small
    ]
    about = (
        f"{result['what']}; medians of {result['rounds']} rounds, {result['crops']} crops of each file; {source(result)}. "
        "The difference is that of the large files."
    )
    return f"{about}\n\n{markdown(rows, ('', *(head for size in result['sizes'] for head in (size, 'of ours')), 'difference'))}"


def data_path(result: dict) -> str:
    """What all parts of that benchmark share."""
    return (
        f"{result['images']}, batches of {result['batch']}, {result['workers']} loading processes, medians of {result['rounds']} "
        f"rounds in turn; {source(result)}."
    )


def data_path_epochs(result: dict) -> str:
    """First and second epoch by the kind of the cache."""
    rows = [
        (kind, row["first"], row["second"], row["second_to_first"], row.get("third_forgotten"))
        for kind, row in result["epochs"].items()
    ]
    heads = ("cache", "first epoch, images/s", "second", "second : first", "third, file forgotten")
    return f"{data_path(result)}\n\n{markdown(rows, heads)}"


def data_path_wait(result: dict) -> str:
    """The part of a step that waits, and what the loader could give."""
    rows = [
        (name, f"{100 * row['data_wait']:.1f}", row["images_per_second"], row["asked"], row["possible"])
        for name, row in result["wait"].items()
    ]
    heads = ("batches, cache", "waits, % of a step", "images/s", "asked", "possible")
    return f"{data_path(result)} A step sleeps {result['step_ms']} ms.\n\n{markdown(rows, heads)}"


def fourteen_million(result: dict) -> str:
    """Start-up and memory by the number of images."""
    rows = [
        (
            name,
            row["open_seconds"],
            row["first_batch_seconds"],
            round(row["main_mb"]),
            round(row["worker_own_mb"]),
            round(row["worker_resident_mb"]),
        )
        for name, row in result["rows"].items()
    ]
    columns = ("images", "open, s", "first batch, s", "main process, MB", "loader's own, MB", "loader resident, MB")
    return (
        f"{result['classes']:,} classes in {result['shards']:,} shards, {result['workers']} loading processes; "
        f"{source(result)}.\n\n{markdown(rows, columns)}"
    )


def accuracy_before(result: dict) -> str:
    """Accuracy after the same epochs with an earlier loading and with today's."""
    seeds = sorted(result["top1"]["now"])
    rows = [
        (
            which,
            *(round(each[seed]["ema"], 2) for seed in seeds),
            round(result["means"][which]["ema"], 2),
            round(result["means"][which]["raw"], 2),
        )
        for which, each in result["top1"].items()
    ]
    heads = ("loading", *(f"seed {seed}" for seed in seeds), "mean", "mean without EMA")
    return (
        f"Top-1 % of ConvNeXt-Atto after {result['epochs']} epochs of {result['images']}, {result['side']} px; the means "
        f"differ by {result['difference']['ema']:+.2f}, with a standard error of {result['error']:.2f} from the number of images "
        f"alone; {source(result)}.\n\n{markdown(rows, heads)}"
    )


TABLES = {
    "loading_500x375": loading,
    "loading_12mp": loading,
    "decoders": decoders,
    "data_path_epochs": data_path_epochs,
    "data_path_wait": data_path_wait,
    "accuracy_before": accuracy_before,
    "fourteen_million": fourteen_million,
}

"""The tables of docs/speed.md about int8, fp32 and the number of cores, for `benchmarks/tables.py`."""

from pathlib import Path

from convnext.report.table import markdown

INT8_COLUMNS = {
    "bf16": lambda c: c["form"] == "deploy",
    "OpenVINO bf16": lambda c: c["runtime"] == "openvino",
    "int8": lambda c: c["runtime"] == "convnext-int8",
    "OpenVINO int8": lambda c: c["runtime"] == "openvino-int8",
}
INT8_RATIOS = (("int8", "bf16"), ("int8", "OpenVINO int8"), ("bf16", "OpenVINO bf16"))


def int8_groups(result: dict) -> dict[tuple[str, int], dict[str, dict]]:
    """(model, batch) -> column -> row."""
    groups: dict[tuple[str, int], dict[str, dict]] = {}
    for row in result["rows"]:
        group = groups.setdefault((row["config"]["model"].removeprefix("convnext_"), row["config"]["batch"]), {})
        group |= {column: row for column, fits in INT8_COLUMNS.items() if fits(row["config"])}
    return groups


def cpu_int8(result: dict) -> str:
    """Images per second of the deployed forms and of OpenVINO's, and the ratios of those in the same run."""
    table = []
    for (model, batch), rows in int8_groups(result).items():
        speed = {column: row["images_per_second"]["p50"] for column, row in rows.items()}
        ratios = (round(speed[one] / speed[other], 2) for one, other in INT8_RATIOS)
        table.append((model, batch, *(round(speed[column], 1) for column in INT8_COLUMNS), *ratios))
    rounds = " and ".join(map(str, sorted({row["rounds"] for row in result["rows"]}, reverse=True)))
    one = result["rows"][0]
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    heads = ("", "batch", *INT8_COLUMNS, *(f"{one} : {other}" for one, other in INT8_RATIOS))
    return (
        f"Images per second at 224 px, random weights, in turn in one run for each row: medians of {rounds} rounds; "
        f"{one['device']}; {versions} (`results/{Path(result['file']).name}`).\n\n{markdown(table, heads)}"
    )


def cpu_fp32(result: dict) -> str:
    """Images per second in fp32 of the deployed form and of OpenVINO's."""
    kinds = {"deployed": INT8_COLUMNS["bf16"], "OpenVINO": INT8_COLUMNS["OpenVINO bf16"]}
    table = []
    for batch in dict.fromkeys(row["config"]["batch"] for row in result["rows"]):
        speeds = [
            next(
                row["images_per_second"]["p50"]
                for row in result["rows"]
                if row["config"]["batch"] == batch and fits(row["config"])
            )
            for fits in kinds.values()
        ]
        table.append(("tiny", batch, *(round(speed, 1) for speed in speeds), round(speeds[0] / speeds[1], 2)))
    return (
        f"The same in fp32, medians of {result['rows'][0]['rounds']} rounds (`results/{Path(result['file']).name}`).\n\n"
        + markdown(table, ("", "batch", *kinds, "deployed : OpenVINO"))
    )


def cpu_int8_ready(result: dict) -> str:
    """Seconds until the first answer of the same forms."""
    groups = int8_groups(result)
    table = [
        (
            column,
            *(round(rows[column]["build_seconds"] + rows[column]["first_step_seconds"], 1) for rows in groups.values()),
        )
        for column in INT8_COLUMNS
    ]
    heads = ("", *(f"{model}, batch {batch}" for model, batch in groups))
    return (
        "Seconds from the call that builds the model to its first answer, of int8 with its calibration on 8 images "
        f"(`results/{Path(result['file']).name}`).\n\n{markdown(table, heads)}"
    )


def int8_accuracy(result: dict) -> str:
    """Accuracy in fp32 and both kinds of int8, and the errors of logits of random weights."""
    kinds = {"convnext-int8": "int8", "openvino": "OpenVINO int8"}
    table = [
        (
            f"{row['run']} ({row['model']})",
            row["images"],
            row["metric"],
            round(row["fp32"], 2),
            *(round(row[kind]["accuracy"], 2) for kind in kinds),
            *(round(row[kind]["agreement"], 2) for kind in kinds),
            *(row[kind]["not_int8"] for kind in kinds),
        )
        for row in result["trained"]
    ]
    heads = (
        "run", "images", "metric", "fp32", *kinds.values(), *(f"{name} agrees, %" for name in kinds.values()),
        "blocks spared", "layers spared by OpenVINO",
    )  # fmt: skip
    errors = "; ".join(
        f"{row['model']} {row['convnext-int8']:.1e} against OpenVINO's {row['openvino']:.1e}, and {row['bf16']:.1e} in bf16"
        for row in result["random"]
    )
    ready = "; ".join(
        f"{row['model']} "
        + ", ".join(
            f"{told['seconds']} s and {told['megabytes']} MB from {kinds.get(kind, 'its weights')}"
            for kind, told in row["first_answer"].items()
        )
        for row in result["random"]
        if "first_answer" in row
    )
    ready = (
        f" From `convnext.load` to a first answer, and memory above the imports until eight images at once are answered: {ready}."
        if ready
        else ""
    )
    return (
        f"Held-out images; {result['device']}; NNCF {result['versions']['nncf']} (`benchmarks/int8_accuracy.py`, "
        f"`results/{Path(result['file']).name}`). The mean square error of the logits of random weights, as a share of their own: "
        f"{errors}.{ready}\n\n{markdown(table, heads)}"
    )


MODELLED = 4, 16, 64  # cores


def cpu_threads(result: dict) -> str:
    """Images per second on one and two cores, and the line through them for more: a serial part, and one that is shared."""
    found: dict[tuple, dict[int, dict]] = {}
    for row in result["rows"]:
        config = row["config"]
        int8 = config["runtime"] == "convnext-int8"
        if config["form"] == "deploy" or (int8 and config["precision"] == "bf16"):
            cores = int(row["device"].split(", ")[-1].split()[0])
            found.setdefault(("int8" if int8 else config["precision"], config["batch"]), {})[cores] = row
    table = []
    for (kind, batch), rows in sorted(found.items()):
        one, two = (batch / rows[cores]["images_per_second"]["p50"] for cores in (1, 2))
        serial = max(2 * two - one, 0.0)
        speeds = {cores: batch / (serial + (one - serial) / cores) for cores in MODELLED}
        per_image = rows[2]["model_gb_per_second"] / rows[2]["images_per_second"]["p50"]
        table.append(
            (
                *(
                    kind,
                    batch,
                    round(batch / one, 1),
                    round(batch / two, 1),
                    round(one / two, 2),
                    round(1000 * serial, 1),
                ),
                *(round(speed) for speed in speeds.values()),
                round(per_image * speeds[MODELLED[-1]]),
            )
        )
    heads = (
        *("", "batch", "1 core", "2 cores", "2 : 1", "serial ms"),
        *(f"{cores} cores, on paper" for cores in MODELLED),
        f"GB/s at {MODELLED[-1]}",
    )
    return (
        f"ConvNeXt-T, images per second: medians of {result['rows'][0]['rounds']} rounds on one core and on two "
        f"(`results/{Path(result['file']).name}`), and what follows for more if the part that the second core did not shorten "
        f"stays as it is and the rest is shared by all.\n\n{markdown(table, heads)}"
    )


TABLES = {
    "cpu_int8": cpu_int8,
    "cpu_int8_xeon": cpu_int8,
    "cpu_fp32_xeon": cpu_fp32,
    "cpu_int8_amx": cpu_int8,
    "cpu_fp32_amx": cpu_fp32,
    "cpu_int8_ready": cpu_int8_ready,
    "cpu_fp32": cpu_fp32,
    "cpu_threads": cpu_threads,
    "int8_accuracy": int8_accuracy,
}

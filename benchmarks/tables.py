"""Write the tables of README.md and docs/ from results/*.json: `python benchmarks/tables.py` (a test checks they are current).

A page marks a place with `<!-- table: NAME -->` and `<!-- end -->`; what stands between is replaced.
"""

import json
import re
import runpy
from pathlib import Path

from convnext.report.table import markdown

ROOT = Path(__file__).parents[1]


def small_scratch(result: dict) -> str:
    rows = [
        (
            side,
            row["epochs"],
            round(row["images_per_second"]),
            round(row["seconds"] / 60, 1),
            round(row["top1"]["raw"], 2),
            round(row["top1"]["ema"], 2),
        )
        for side, row in result["rows"].items()
    ]
    table = markdown(rows, ("", "epochs", "images/s", "minutes", "top-1 % raw", "top-1 % EMA"))
    return (
        f"{result['model']} from random weights on CIFAR-10 (re-encoded as JPEG, so not the official numbers), "
        f"{result['minutes']:g} minutes of training each, in turn, on {result['device']}, torch {result['versions']['torch']}:\n"
        f"our engine against timm's model of the same size in a plain loop with the same transforms and schedule "
        f"(`benchmarks/small_scratch.py`, `results/{Path(result['file']).name}`).\n\n{table}"
    )


def robustness(result: dict) -> str:
    rows = [(name.replace("_", " "), *errors, round(sum(errors) / 5, 1)) for name, errors in result["errors"].items()]
    table = markdown(rows, ("error in %", *(f"severity {i}" for i in range(1, 6)), "mean"))
    return (
        f"{result['model']}, {result['images']} held-out images, clean error {result['clean_error']} %, mean error over all "
        f"{result['mean_error']} % (`{result['command']}`, `results/{Path(result['file']).name}`).\n\n{table}"
    )


def corruptions(result: dict) -> str:
    rows = [
        (name.replace("_", " "), round(row["images_per_second"]), *row["psnr_db"])
        for name, row in result["corruptions"].items()
    ]
    table = markdown(rows, ("", "images/s and core", *(f"PSNR at {i}" for i in range(1, 6))))
    return (
        f"Mean PSNR in dB of {len(result['photos'])} photos at 224 px at each severity, and the speed "
        f"({result['images_per_second_over_imagenet_c']:.0f} images/s over the 15 of ImageNet-C; {result['device']}; "
        f"`benchmarks/corruptions.py`, `results/{Path(result['file']).name}`).\n\n{table}"
    )


def overfit(result: dict) -> str:
    metrics = result["metrics"]
    shown = ", ".join(
        f"{title} {metrics[key]:g}"
        for key, title in (
            ("box_ap", "box AP"), ("box_ap50", "box AP50"), ("mask_ap", "mask AP"), ("miou", "mIoU"), ("aacc", "pixel accuracy")
        )
        if key in metrics
    )  # fmt: skip
    return (
        f"{result['what']}: {shown} after {result['steps']} steps in {result['minutes']:g} minutes on {result['device']} "
        f"(`benchmarks/overfit.py`, `results/{Path(result['file']).name}`)."
    )


def multi_label(result: dict) -> str:
    rows = [
        (
            loss,
            *(round(row[key], 2) for key in ("map", "map_micro", "f1", "f1_micro")),
            round(min(each["ap"] for each in row["per_class"].values()), 2),
            row["minutes"],
        )
        for loss, row in result["rows"].items()
    ]
    titles = ("loss", "mAP %", "micro mAP %", "F1 %", "micro F1 %", "least AP % of a class", "minutes")
    return (
        f"{result['what']}; {result['device']} (`benchmarks/multi_label.py`, `results/{Path(result['file']).name}`).\n\n"
        f"{markdown(rows, titles)}"
    )


def compile_kernels(result: dict) -> str:
    """The forms that a Tiny launches on images of 224 px in bf16; of the others their extremes."""
    cells = [cell for row in result["kernels"].values() for cell in row.values()]
    architectures = sorted({name for row in result["kernels"].values() for name in row}, key=lambda name: int(name[3:]))
    everywhere = sum(len(row) == len(architectures) for row in result["kernels"].values())
    stacks = [cell[2] for cell in cells if cell[2]]
    rows = [
        (
            name.replace("_", " "),
            *(
                f"{row[each][0]} / {row[each][1] / 1024:.1f} / {row[each][2]} / {row[each][3]}" if each in row else None
                for each in architectures
            ),
        )
        for name, row in result["kernels"].items()
        if re.search(r"_(96x56|192x28|384x14|768x7|96|192|384|768)$", name) and "fp32" not in name
    ]
    return (
        f"Registers per thread / KiB of shared memory per program / bytes of stack per thread / programs per multiprocessor, "
        f"Triton {result['triton']} "
        f"(`benchmarks/compile_kernels.py`, `results/{Path(result['file']).name}`). Of {len(result['kernels'])} forms, "
        f"{everywhere} of them on all architectures: at most {max(cell[0] for cell in cells)} registers and "
        f"{max(cell[1] for cell in cells) / 1024:.1f} KiB, {len(stacks)} with a stack, of at most {max(stacks, default=0)} "
        f"bytes.\n\n{markdown(rows, ('', *architectures))}"
    )


CPU_COLUMNS = {
    "ours": lambda c: (
        c["model"].startswith("convnext")
        and c["runtime"] == "torch"
        and c["form"] == "plain"
        and c["compile"] == "none"
    ),
    "ours deployed": lambda c: c["form"] == "deploy",
    "ours compiled": lambda c: c["model"].startswith("convnext") and c["compile"] != "none" and c["runtime"] == "torch",
    "OpenVINO int8": lambda c: c["model"].startswith("convnext") and c["runtime"] == "openvino-int8",
    "timm": lambda c: c["model"].startswith("timm") and c["runtime"] == "torch" and c["compile"] == "none",
    "timm compiled": lambda c: c["model"].startswith("timm") and c["compile"] != "none",
    "torchvision": lambda c: (
        c["model"].startswith("torchvision") and c["compile"] == "none" and c["runtime"] == "torch"
    ),
    "ONNX Runtime": lambda c: c["model"].startswith("timm") and c["runtime"] == "onnxruntime",
    "OpenVINO": lambda c: c["model"].startswith("timm") and c["runtime"] == "openvino",
}


def cpu_speed(result: dict) -> str:
    """Images per second, the best configuration of each kind, and the ratios that people ask for."""
    groups: dict[tuple, dict[str, float]] = {}
    for row in result["rows"]:
        config = row["config"]
        size = config["model"].partition(":")[2] or config["model"]
        best = groups.setdefault((size, config["precision"], config["batch"]), {})
        for column, fits in CPU_COLUMNS.items():
            if fits(config) and "images_per_second" in row:
                best[column] = max(best.get(column, 0), row["images_per_second"]["p50"])
    rows = []
    for (size, precision, batch), best in groups.items():
        deployed = best.get("ours deployed")
        ratios = [
            round(deployed / best[rival], 2) if deployed and best.get(rival) else None for rival in ("timm", "OpenVINO")
        ]
        speeds = [round(best[column], 1) if column in best else None for column in CPU_COLUMNS]
        rows.append((size.removeprefix("convnext_"), precision, batch, *speeds, *ratios))
    one = result["rows"][0]
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    shown = [i for i in range(len(rows[0])) if any(row[i] is not None for row in rows)]
    columns = ("", "type", "batch", *CPU_COLUMNS, "deployed : timm", "deployed : OpenVINO")
    columns, rows = [columns[i] for i in shown], [[row[i] for i in shown] for row in rows]
    return (
        f"Images per second at 224 px, random weights, in turn in one run for each row: medians of {one['rounds']} rounds; "
        f"{one['device']}; {versions} (`results/{Path(result['file']).name}`).\n\n{markdown(rows, columns)}"
    )


def cpu_ready(result: dict) -> str:
    """Seconds until the first answer: building, converting or compiling, and the first call."""
    again = json.loads((ROOT / "results" / "cpu_compile_cached.json").read_text())
    columns = list(dict.fromkeys((row["config"]["precision"], row["config"]["batch"]) for row in result["rows"]))
    table = []
    for name, fits, source in (
        *((column, fits, result) for column, fits in CPU_COLUMNS.items()),
        *((f"{column}, again", CPU_COLUMNS[column], again) for column in ("ours compiled", "timm compiled")),
    ):
        seconds = {
            (row["config"]["precision"], row["config"]["batch"]): row["build_seconds"]
            + row.get("compile_seconds", row.get("first_step_seconds", 0))
            for row in source["rows"]
            if fits(row["config"]) and "images_per_second" in row
        }
        cells = [round(seconds[column], 1) if column in seconds else None for column in columns]
        table.append((name, *cells))
    heads = ("", *(f"{precision}, batch {batch}" for precision, batch in columns))
    return (
        "Seconds from the call that builds the model to its first answer, with converting or compiling; `again` is another "
        "process, which finds PyTorch's compiler cache (`results/cpu_compile.json`, `results/cpu_compile_cached.json`).\n\n"
        + markdown(sorted(table, key=lambda row: row[0]), heads)
    )


def detector_speed(result: dict) -> str:
    rows = [
        (name, row["seconds"]["p50"], row["gmacs"], row["speed_to_torchvision"], row["gmacs_to_torchvision"])
        for name, row in result["rows"].items()
    ]
    table = markdown(rows, ("", "seconds", "GMACs", "speed : torchvision", "GMACs : torchvision"))
    return (
        f"{result['what'][0].upper()}{result['what'][1:]}; {result['device']} (`benchmarks/detector_speed.py`, "
        f"`results/{Path(result['file']).name}`).\n\n{table}"
    )


def faults(result: dict) -> str:
    rows = [
        (name, row["what"], row["tried"], row["survived"], row["seconds"]) for name, row in result["scenarios"].items()
    ]
    table = markdown(rows, ("scenario", "what is done, and what must hold", "tried", "survived", "seconds"))
    tried, survived, seconds = (sum(row[i] for row in rows) for i in (2, 3, 4))
    return (
        f"{tried:,} cases, {survived:,} survived, in {seconds / 60:.0f} minutes together, two at a time; {result['machine']} "
        f"beside other work, torch {result['versions']['torch']} (`python -m tests.faults`, "
        f"`results/{Path(result['file']).name}`).\n\n{table}"
    )


def startup(result: dict) -> str:
    names = {
        "torch": "`import torch`, in the same rounds",
        "mistake": "the answer to a mistake in a name",
        "predict": "`convnext predict` of one image, to its end",
        "first step": "`convnext train`, to its first step",
        "quickstart": "`convnext train`, to its end",
    }
    rows = [
        (text, row["seconds"], row.get("ratio"), *result["bars"].get(name, (None, None)))
        for name, text in names.items()
        for row in (result["rows"][name],)
    ]
    table = markdown(rows, ("", "seconds", ": `import torch`", "bar (s)", "bar (ratio)"))
    return (
        f"Seconds from the start of the command, medians of {result['rounds']} rounds on {result['device']}, torch "
        f"{result['versions']['torch']}; the whole training once, top-1 {result['rows']['quickstart']['top1']} % of the held-out "
        f"digits (`{result['command']}`).\n\n{table}"
    )


PAIR = ("convnext", "litserve")


def serving(result: dict, part: str, rows: list[tuple], head: tuple[str, ...], about: str) -> str:
    """A table of `convnext serve` under load, with where it was measured."""
    versions = result["versions"]
    rivals = f", LitServe {versions['litserve']}, FastAPI {versions['fastapi']}" if part == "rivals" else ""
    return (
        f"{about} {result['device']}, shared by server and load generator; ConvNeXt-Atto at 224 px, JPEG of 500 x 375 pixels, "
        f"torch {versions['torch']}{rivals} (`python benchmarks/serve_load.py {part}`, `results/serve.json`)."
        f"\n\n{markdown(rows, head)}"
    )


SERVERS = {"convnext": "convnext serve", "litserve": "LitServe", "fastapi": "FastAPI, one predict a request"}


def serve_rivals(result: dict) -> str:
    rows = [
        (name, clients, *(cell.get(key) for key in ("rps", "p50_ms", "p99_ms", "server_cores", "client_cores")))
        for clients in result["rows"]["rivals"]["convnext"]
        if clients.isdecimal()
        for kind, name in SERVERS.items()
        for cell in (result["rows"]["rivals"][kind][clients],)
    ]
    head = ("", "clients", "requests/s", "p50 ms", "p99 ms", "cores of the server", "of the clients")
    one = result["rows"]["latency"]
    about = (
        "Each client asks again when it is answered; 6 s each, the servers in turn. Alone, an answer takes "
        f"{one['served_ms']} ms, decoding and computing in the same process {one['within_ms']} ms ({one['ratio']} times)."
    )
    return serving(result, "rivals", rows, head, about)


def serve_knobs(result: dict) -> str:
    rows = []
    for words, row in result["rows"]["knobs"].items():
        if isinstance(row, dict):
            share = round(100 * row["codes"].get("503", 0) / sum(row["codes"].values()), 1)
            name = f"`{words}`" if words else "all as they are"
            rows.append(
                (name, row["rps"], row.get("p50_ms"), row.get("p99_ms"), row["batch"], share, round(row["rss_mb"]))
            )
    head = ("", "answers/s", "p50 ms", "p99 ms", "images of a batch", "503 %", "MB")
    return serving(result, "knobs", rows, head, "64 clients, one option changed at a time, 5 s each.")


def serve_faults(result: dict) -> str:
    """Faults that were made and what came of them, ours and LitServe's."""
    found = result["rows"]

    def told(codes: dict) -> str:
        return ", ".join(f"{count:,} x {code}" for code, count in codes.items())

    def storm(row: dict) -> str:
        return (
            f"{told(row['codes'])}; goodput {100 * row['goodput']:.0f} % of {row['sustainable_rps']} a second; p99 of 200 "
            f"{row['p99_ms'] / 1000:.1f} s; as before after {row['normal_after_s']} s; "
            f"{row['rss_mb'][0]:.0f} to {row['rss_mb'][2]:.0f} MB"
        )

    def crowd(row: dict) -> str:
        p99 = row["alone"]["p99_ms"], row["beside"]["p99_ms"]
        return f"p99 {p99[0]:.0f} to {p99[1]:.0f} ms ({row['ratio_p99']} times); {told(row['codes'])}"

    def killed(row: dict) -> str:
        text = f"{row['kills']} kills: {told(row['codes'])}, {row['failed_but_not_by_a_kill']} failed apart from them"
        waiting = row["clients_that_wait_for_ever"]
        return f"{text}; {waiting} clients wait for ever" if waiting else text

    def drained(row: dict) -> str:
        left = "; processes are left" if row["processes_left"] else ""
        return f"{row['times']} times: {told(row['codes'])}; exit code {', '.join(row['exit_codes'])}{left}"

    parts = {
        "overload": ("three times the sustainable rate (60 s, LitServe 10 s)", storm),
        "slow": ("300 clients send a byte a second, 8 healthy ones", crowd),
        "kills": ("SIGKILL of a worker every 5 s, 8 clients", killed),
        "drain": ("SIGTERM under 16 clients", drained),
    }
    rows = [
        (title, *(tell(found[part][kind]) if kind in found[part] else "not measured" for kind in PAIR))
        for part, (title, tell) in parts.items()
        if part in found
    ]
    reloads, drift = found["reloads"], found["drift"]
    mb, answers = drift["rss_mb"], reloads["answers_by_model"]
    kept = f"{told(reloads['codes'])}; {answers} answers of 2 models; {reloads['damaged_file']}, the model stays"
    rows += [
        ("20 reloads under 8 clients, then a damaged file", kept, "has no reload"),
        (f"{drift['requests']:,} requests", f"{mb[0]:.0f} to {mb[1]:.0f} MB ({100 * drift['drift']:+.1f} %)", ""),
    ]
    about = (
        "Requests by the code of their answer; `cut`: sent, and no answer; `refused`: no connection. Reloads and the last line "
        "are of a network of 32 px. The rows were measured at different times, some beside other work on the machine."
    )
    return serving(result, "overload slow kills drain reloads drift", rows, ("", "convnext serve", "LitServe"), about)


TABLES = {
    "serve_rivals": serve_rivals,
    "serve_knobs": serve_knobs,
    "serve_faults": serve_faults,
    "startup": startup,
    "faults": faults,
    "cpu_speed": cpu_speed,
    "cpu_speed_sizes": cpu_speed,
    "cpu_openvino": cpu_speed,
    "cpu_compile": cpu_speed,
    "cpu_ready": cpu_ready,
    "detector_speed": detector_speed,
    "compile_kernels": compile_kernels,
    "small_scratch_cifar10": small_scratch,
    "multi_label": multi_label,
    "robustness_digits": robustness,
    "corruptions": corruptions,
    "overfit_segmentation": overfit,
    "overfit_mask_rcnn": overfit,
    "overfit_cascade_mask_rcnn": overfit,
}
for more in ("int8_tables.py", "loading_tables.py", "small_data_tables.py"):
    TABLES |= runpy.run_path(str(Path(__file__).with_name(more)))["TABLES"]


FILES = {
    "cpu_ready": "cpu_compile",
    "cpu_int8_ready": "cpu_int8",
    "data_path_epochs": "data_path",
    "data_path_wait": "data_path",
    "small_data_slice": "small_data",
    "small_data_minutes": "small_data",
    "small_data_long_tail": "small_data",
    "small_data_whole": "small_data",
    "serve_rivals": "serve",
    "serve_knobs": "serve",
    "serve_faults": "serve",
}  # of tables that are not named like their results


def rendered(page: Path) -> str:
    """The page with its tables as the results have them now."""

    def table(found: re.Match) -> str:
        name = found[1]
        path = ROOT / "results" / f"{FILES.get(name, name)}.json"
        result = json.loads(path.read_text()) | {"file": str(path)}
        return f"<!-- table: {name} -->\n{TABLES[name](result)}\n<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", table, page.read_text(), flags=re.DOTALL)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(rendered(page))

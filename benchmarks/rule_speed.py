"""Inference of this tree beside an earlier commit: eager, fused and deployed forms, in turn, as ratios.

    python benchmarks/rule_speed.py --before 9beeebd --out results/rule_speed.json

Each round starts new processes, two for the earlier commit and one for this tree: where a process finds its memory makes a
call up to 3 % faster or slower for as long as it lives. They measure each case in turn, and the order is another one in the
next round. A tree's time is the fastest call of all rounds, because whatever else runs on a machine only ever adds to it;
`noise` is the same ratio between the two processes of the earlier commit, which is 1 but for noise. The bar is 1.01: 1 % is
what the rule for faster forms (`ops/rule.py`) may cost. Forms: eager is PyTorch's own operations with a gradient to come,
fused the same model under `no_grad`, deployed its `deploy("fp32")`. Run it on an idle machine.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).parents[1]
BAR = 1.01
FORMS = ("eager", "fused", "deployed")
CASES = tuple(
    {"model": model, "form": form, "batch": batch, "size": 224}
    for model in ("convnext_atto", "convnext_tiny")
    for batch in (1, 8)
    for form in FORMS
) + tuple({"model": "convnext_atto", "form": form, "batch": 1, "size": 32} for form in FORMS)
SECONDS = 0.2  # of calls for a case in a round, at least one call after one to warm up


def work() -> None:
    """Answer each line of standard input, a case and a number of calls, with the seconds of the fastest, until it ends."""
    import torch

    import convnext

    forms: dict[tuple, torch.nn.Module] = {}
    images: dict[tuple, torch.Tensor] = {}
    for line in sys.stdin:
        case = json.loads(line)
        name, form, shape = case["model"], case["form"], (case["batch"], 3, case["size"], case["size"])
        if (name, form) not in forms:
            torch.manual_seed(0)
            model = convnext.create_model(name, layer_scale_init_value=0.5).eval()
            forms[name, form] = model.deploy("fp32") if form == "deployed" else model
        x = images.setdefault(shape, torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        model, seconds = forms[name, form], []
        with torch.set_grad_enabled(form == "eager"):
            for _ in range(case["calls"]):
                began = perf_counter()
                y = model(x)
                seconds.append(perf_counter() - began)
        print(json.dumps({"seconds": min(seconds), "sum": y.double().sum().item()}), flush=True)


class Tree:
    """A process that computes with the package in `source`, by `script --work`."""

    def __init__(self, source: Path, script: str = __file__):
        environment = {**os.environ, "PYTHONPATH": str(source)}
        command = [sys.executable, script, "--work"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, case: dict, calls: int) -> dict:
        """Seconds of the fastest call, and the sum of the outputs."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({**case, "calls": calls}), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The process of a tree ended with {self.process.wait()}; its error is above.")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def checked_out(revision: str, folder: Path) -> Path:
    """The `src` of a commit, unpacked into the folder."""
    packed = subprocess.run(["git", "archive", revision, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def compare(before: Path, after: Path, cases: Sequence[dict], rounds: int, seconds: float = SECONDS) -> list[dict]:
    """One row for each case: the times of both trees, their ratio, the noise, and the median of the rounds' ratios.

    Raises:
        RuntimeError: the trees compute different numbers, or a process ended.
    """
    found = [[[], [], []] for _ in cases]
    for number in range(rounds):
        trees = [Tree(before), Tree(before), Tree(after)]
        try:
            for case, times in zip(cases, found, strict=True):
                count = None
                for i in sorted(range(3), key=lambda i: (i + number) % 3):
                    first = trees[i].measure(case, 1)
                    if abs(first["sum"] - case.setdefault("sum", first["sum"])) > 1e-3 * max(abs(case["sum"]), 1):
                        raise RuntimeError(f"{title(case)}: the trees compute {first['sum']} and {case['sum']}.")
                    count = count or max(1, round(seconds / first["seconds"]))
                    times[i].append(trees[i].measure(case, count)["seconds"])
        finally:
            for tree in trees:
                tree.close()
    rows = []
    for case, (old, twin, new) in zip(cases, found, strict=True):
        row = {key: value for key, value in case.items() if key != "sum"}
        row |= {"before_ms": round(1e3 * min(old), 3), "after_ms": round(1e3 * min(new), 3)}
        row |= {"ratio": round(min(new) / min(old), 4), "noise": round(min(twin) / min(old), 4)}
        row["median_ratio"] = round(median(c / a for a, c in zip(old, new, strict=True)), 4)
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--before", default="9beeebd", help="commit to compare with, or a folder with the package in it"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", default="", help="the cases with this in their name, such as tiny, deployed or 'batch 1'"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of calls for a case in a round")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.work:
        return work()
    cases = [dict(case) for case in CASES if arguments.only in title(case)]
    with tempfile.TemporaryDirectory() as folder:
        given = Path(arguments.before)
        old = given if given.is_dir() else checked_out(arguments.before, Path(folder))
        rows = compare(old, ROOT / "src", cases, arguments.rounds, arguments.seconds)
    for row in rows:
        times = f"{row['before_ms']:9.2f} {row['after_ms']:9.2f} ms"
        late = "  slower" if row["ratio"] > BAR else ""
        print(f"{title(row):44} {times}   {row['ratio']:.4f}, noise {row['noise']:.4f}{late}")
    if arguments.out:
        import torch

        from convnext.benchmark.rows import environment

        result = environment(torch.device("cpu")) | {
            "what": "seconds of a forward in fp32, the fastest call of all rounds, this tree over an earlier one, in turn",
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).date().isoformat(),
            "before": arguments.before,
            "rounds": arguments.rounds,
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    return None


def title(case: dict) -> str:
    return f"{case['model']}, {case['form']}, batch {case['batch']}, {case['size']} px"


if __name__ == "__main__":
    main()

"""`convnext serve` under load and faults, beside LitServe and a plain FastAPI application: real processes on loopback.

    python benchmarks/serve_load.py rivals latency overload --out results/serve.json     # parts in turn; the file keeps the others

Set OMP_WAIT_POLICY=passive and GOMP_SPINCOUNT=5000, as `convnext serve` does by itself, to give the others the same.
The model is a ConvNeXt-Atto at 224 px with random weights, the requests are JPEG files of 500 x 375 pixels; `drift` takes a
network of 32 px. Load generator and server share this machine's cores, so all rates are rates of both together.
Needs `pip install litserve` for the parts rivals, overload, slow and kills.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from serve_clients import BROKEN, TICK, Client, Server, closed, codes, latency, message, opened, slow

import convnext
from convnext.benchmark.rows import environment
from convnext.files import to_json
from convnext.serve.model import of_bytes
from convnext.serve.options import Limits

KINDS = ("convnext", "litserve", "fastapi")
CLIENTS = (1, 8, 64)
ROUNDS = 1
PAUSE = 0.1  # seconds
STARTED = 4  # seconds of a core that a worker has used once it answers
KNOBS = (
    "", "--max-batch 1", "--max-batch 4", "--max-batch 64", "--max-wait-ms 0", "--max-wait-ms 50", "--queue 16", "--workers 2"
)  # fmt: skip


def models(folder: Path) -> dict[str, Path]:
    """Files of the networks: "atto" at 224 px, "small" and "other" of the same shape at 32 px."""
    preprocess = {"size": 224, "crop_ratio": 0.875}
    torch.manual_seed(0)
    made = {"atto": (convnext.create_model("convnext_atto", num_classes=1000), preprocess)}
    for name in ("small", "other"):
        network = "roadmap_resnet50_separate-downsampling"
        options = {"num_classes": 1000, "width_mult": 0.125, "depth_mult": 0.34, "head_init_scale": 1.0}
        made[name] = convnext.create_model(network, **options), {"size": 32, "crop_ratio": 1.0}
    return {
        name: convnext.save_weights(
            model, folder / f"{name}.safetensors", metadata={"task": "classification", "preprocess": pre}
        )
        for name, (model, pre) in made.items()
    }


def pictures(count: int = 16, size: tuple[int, int] = (500, 375)) -> list[bytes]:
    """JPEG files of smooth noise."""
    found = []
    for seed in range(count):
        coarse = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
        stream = BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def requests_of(kind: str, contents: Sequence[bytes]) -> list[bytes]:
    """Requests for images as a server takes them: bytes, or LitServe's JSON with base64."""
    from base64 import b64encode

    if kind != "litserve":
        return [message(each) for each in contents]
    return [message(json.dumps({"image": b64encode(each).decode()}).encode(), "application/json") for each in contents]


class Bench:
    """The parts; each returns what goes into the results under its name."""

    def __init__(self, folder: Path, scale: float):
        self.models, self.contents, self.scale = models(folder), pictures(), scale

    def server(self, kind: str = "convnext", model: str = "atto", *options: str) -> Server:
        return Server(kind, str(self.models[model]), *options)

    async def rivals(self) -> dict:
        """Closed loop with 1, 8 and 64 clients, the servers in turn."""
        cells: dict[str, dict[str, list]] = {kind: {str(n): [] for n in CLIENTS} for kind in KINDS}
        for _ in range(ROUNDS):
            for kind in KINDS:
                with self.server(kind) as server:
                    requests = requests_of(kind, self.contents)
                    await server.ready(requests[0])
                    for clients in CLIENTS:
                        await closed(server.port, requests, clients, 1.5 * self.scale)
                        cpu, own, began = server.cpu(), time.process_time(), time.monotonic()
                        samples = await closed(server.port, requests, clients, 6 * self.scale)
                        seconds = time.monotonic() - began
                        cores = (server.cpu() - cpu) / seconds, (time.process_time() - own) / seconds
                        cells[kind][str(clients)].append((samples, seconds, *cores))
        return {kind: {clients: self.cell(runs) for clients, runs in row.items()} for kind, row in cells.items()}

    @staticmethod
    def cell(runs: list) -> dict:
        """One server with so many clients, all rounds together."""
        samples = [each for run in runs for each in run[0]]
        good = [each for each in samples if each.code == 200]
        rate = round(len(good) / sum(run[1] for run in runs), 1)
        cores = {"server_cores": 2, "client_cores": 3}
        means = {name: round(statistics.mean(run[i] for run in runs), 2) for name, i in cores.items()}
        return {"rps": rate, **latency(good), "codes": codes(samples), **means}

    async def latency(self) -> dict:
        """One client, and the same images decoded and computed in this process, in turns of 20.

        Threads that have computed spin for a while, on the cores of whoever comes next: each turn begins after a pause, and
        its first 4 do not count.
        """
        trained = convnext.load(self.models["atto"], device="cpu")
        (loaded, precision), spec, options = trained.deployed(), trained.spec, trained.spec.predict_options()
        served, within = [], []

        def alone(content: bytes) -> str:
            prepared = spec.prepare(loaded, of_bytes(content, "image", 10**8), options)
            (output,) = spec.compute(loaded, [prepared], precision)
            return to_json(spec.finish(loaded, prepared, output).to_dict())

        with self.server() as server:
            client, requests = Client(server.port), requests_of("convnext", self.contents)
            await server.ready(requests[0])
            for _ in range(max(2, round(20 * self.scale))):
                chosen = [k % len(requests) for k in range(20)]
                await asyncio.sleep(PAUSE)
                answers = [await client.ask(requests[k]) for k in chosen]
                served += [answer.seconds for answer in answers[4:]]
                await asyncio.sleep(PAUSE)
                for n, k in enumerate(chosen):
                    began = time.perf_counter()
                    text = alone(self.contents[k])
                    within += [time.perf_counter() - began] if n >= 4 else []
                    assert text.encode() == answers[n].body
            client.close()
        medians = [round(1000 * statistics.median(each), 2) for each in (served, within)]
        return {"served_ms": medians[0], "within_ms": medians[1], "ratio": round(medians[0] / medians[1], 3)}

    async def knobs(self) -> dict:
        """64 clients with one option changed at a time; images of a batch are the mean by `/metrics`."""
        found = {}
        for words in KNOBS:
            with self.server("convnext", "atto", *words.split()) as server:
                requests = requests_of("convnext", self.contents)
                await server.ready(requests[0])
                await closed(server.port, requests, 64, 2 * self.scale)
                before, began = await server.metrics(), time.monotonic()
                samples = await closed(server.port, requests, 64, 5 * self.scale)
                seconds, after = time.monotonic() - began, await server.metrics()
                good = [each for each in samples if each.code == 200]
                batches, images = (after[key] - before[key] for key in ("batch_images_count", "batch_images_sum"))
                row = {"rps": round(len(good) / seconds, 1), **latency(good), "codes": codes(samples)}
                found[words] = row | {"batch": round(images / max(batches, 1), 1), "rss_mb": server.rss()}
        return found

    async def overload(self) -> dict:
        """Three times the rate that 64 clients reach, for 60 s; LitServe for 10 s, because its queue has no end."""
        found = {}
        for kind, seconds in (("convnext", 60), ("litserve", 10)):
            with self.server(kind) as server:
                requests = requests_of(kind, self.contents)
                await server.ready(requests[0])
                await closed(server.port, requests, 64, 3 * self.scale)
                began = time.monotonic()
                samples = await closed(server.port, requests, 64, 8 * self.scale)
                sustainable = len(samples) / (time.monotonic() - began)
                calm = latency(await closed(server.port, requests, 1, 2 * self.scale))
                rss, began = server.rss(), time.monotonic()
                storm = await opened(server.port, requests, 3 * sustainable, seconds * self.scale)
                ended, peak = began + seconds * self.scale, server.rss()
                drained = time.monotonic() - ended
                after = await closed(server.port, requests, 1, 6 * self.scale)
                normal = [each.began - ended for each in after if 1000 * each.seconds <= 1.5 * calm["p50_ms"]]
                good = [each for each in storm if each.code == 200]
                inside = [each for each in good if each.began + each.seconds <= ended]
                found[kind] = {
                    "seconds": seconds, "sustainable_rps": round(sustainable, 1),
                    "offered_rps": round(len(storm) / seconds / self.scale, 1),
                    "codes": codes(storm), "cut_on_kept_connections": sum(each.retry for each in storm if each.code == BROKEN),
                    "refused_without_retry_after": sum(not each.retry for each in storm if each.code == 503),
                    "goodput": round(len(inside) / seconds / self.scale / sustainable, 3), **latency(good),
                    "p99_refused_ms": latency(each for each in storm if each.code == 503).get("p99_ms"),
                    "queue_over_rate_ms": round(1000 * Limits().queue / sustainable), "calm_p50_ms": calm["p50_ms"],
                    "last_answer_after_s": round(drained, 2),
                    "normal_after_s": round(min(normal, default=-1), 2), "rss_mb": [rss, peak, server.rss()],
                }  # fmt: skip
        return found

    async def slow(self) -> dict:
        """300 clients that send a byte a second, beside 8 healthy ones."""
        found = {}
        for kind in ("convnext", "litserve"):
            with self.server(kind) as server:
                requests, stop = requests_of(kind, self.contents), asyncio.Event()
                await server.ready(requests[0])
                await closed(server.port, requests, 8, 2 * self.scale)
                alone = await closed(server.port, requests, 8, 15 * self.scale)
                crowd = asyncio.create_task(slow(server.port, 300, stop))
                await asyncio.sleep(2 * self.scale)
                beside = await closed(server.port, requests, 8, 15 * self.scale)
                stop.set()
                (cuts,) = await crowd
                rows = {
                    "alone": latency(alone),
                    "beside": latency(beside),
                    "codes": codes(beside),
                    "slow_clients_ended": cuts,
                }
                found[kind] = rows | {"ratio_p99": round(rows["beside"]["p99_ms"] / rows["alone"]["p99_ms"], 3)}
        return found

    async def kills(self) -> dict:
        """SIGKILL of one of two workers every 5 s for 60 s, under 8 clients; LitServe: of its one inference worker, 20 s.

        A kill waits until the worker that replaces the one before has used the cores of a start, at most 20 s more: it may never
        be given a connection.
        """
        found = {}
        for kind, seconds, options in (("convnext", 60, ("--workers", "2")), ("litserve", 20, ())):
            with self.server(kind, "small", *options) as server:
                requests, stop, kills = requests_of(kind, self.contents), asyncio.Event(), []
                await server.ready(requests[0])
                load = asyncio.create_task(closed(server.port, requests, 8, 600, stop))
                chance = np.random.default_rng(0)
                for _ in range(round(seconds * self.scale / 5)):
                    await asyncio.sleep(5)
                    limit = time.monotonic() + 20 * (kind == "convnext")
                    while len(server.workers(STARTED)) < 2 and time.monotonic() < limit:
                        await asyncio.sleep(0.2)
                    workers = server.workers()
                    if workers:
                        os.kill(int(chance.choice(workers)), signal.SIGKILL)
                        kills.append(time.monotonic())
                await asyncio.sleep(8)
                stop.set()
                done, _ = await asyncio.wait({load}, timeout=15)
                samples = load.result() if done else []
                cut = [each for each in samples if each.code != 200]
                late = [each for each in cut if not any(-0.05 < each.began + each.seconds - kill < 1 for kill in kills)]
                found[kind] = {
                    "kills": len(kills), "codes": codes(samples), "failed_a_kill": round(len(cut) / max(len(kills), 1), 2),
                    "failed_but_not_by_a_kill": len(late), "clients_that_wait_for_ever": 0 if done else 8, **latency(samples),
                    "longest_s": round(max((each.seconds for each in samples), default=0), 2),
                }  # fmt: skip
                load.cancel()
        return found

    async def drain(self) -> dict:
        """SIGTERM under 16 clients that come again at once, five times (LitServe: once).

        Lost is what was sent before the signal and has no answer.
        """
        found = {}
        for kind, times in (("convnext", 5), ("litserve", 1)):
            samples, exits, longest, left, lost, cuts = [], set(), 0.0, False, 0, []
            for _ in range(times):
                with self.server(kind) as server:
                    requests, stop = requests_of(kind, self.contents), asyncio.Event()
                    await server.ready(requests[0])
                    load = asyncio.create_task(closed(server.port, requests, 16, 600, stop))
                    await asyncio.sleep(2)
                    server.process.send_signal(signal.SIGTERM)
                    began = time.monotonic()
                    try:
                        exits.add(await asyncio.to_thread(server.process.wait, 20))
                    except subprocess.TimeoutExpired:
                        exits.add("none after 20 s")
                    longest = max(longest, time.monotonic() - began)
                    stop.set()
                    await asyncio.wait({load}, timeout=3)
                    left |= len(server.session()) > 0
                await asyncio.wait({load}, timeout=5)
                samples += load.result()
                cut = [each for each in load.result() if each.code == BROKEN]
                lost += sum(each.began < began for each in cut)
                cuts += [[round(each.began - began, 3), round(each.seconds, 3)] for each in cut]
            found[kind] = {
                "times": times, "processes_left": left, "codes": codes(samples),
                "lost": lost, "cut_began_after_signal_and_took_s": cuts,
                "exit_codes": sorted(map(str, exits)), "longest_s": round(longest, 2),
            }  # fmt: skip
        return found

    async def reloads(self) -> dict:
        """20 reloads under 8 clients by turns of two models, then a damaged file."""
        served = self.models["small"].with_name("served.safetensors")
        contents = [self.models[name].read_bytes() for name in ("small", "other")]
        served.write_bytes(contents[0])

        def put(content: bytes) -> None:
            aside = served.with_name("aside")
            aside.write_bytes(content)
            aside.replace(served)

        with Server("convnext", str(served), "--admin") as server:
            (request, *_), stop = requests_of("convnext", self.contents), asyncio.Event()
            await server.ready(request)
            load = asyncio.create_task(closed(server.port, [request], 8, 600, stop))
            reload = b"POST /admin/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
            answers, seconds = [], []
            for i in range(1, 21):
                put(contents[i % 2])
                told = await Client(server.port).ask(reload)
                answers.append(told.code)
                seconds.append(told.seconds)
                await asyncio.sleep(0.2)
            put(contents[0][:-50])
            damaged = await Client(server.port).ask(reload)
            await asyncio.sleep(0.5)
            stop.set()
            samples = await load
        by_parity = {(int(each.version) % 2, each.body) for each in samples if each.code == 200}
        return {
            "reloads": answers.count(200), "median_s": round(statistics.median(seconds), 2), "codes": codes(samples),
            **latency(samples), "different_answers": len({body for _, body in by_parity}),
            "answers_by_model": len(by_parity), "damaged_file": damaged.code,
            "version_after_it": samples[-1].version,
        }  # fmt: skip

    async def drift(self) -> dict:
        """Memory of the process over 10,000 requests, after 3,000 that do not count."""
        with self.server("convnext", "small") as server:
            requests = requests_of("convnext", self.contents)
            await server.ready(requests[0])
            rows, done = [], 0
            while done < 13_000 * self.scale:
                done += len(await closed(server.port, requests, 16, 1.0))
                rows.append((done, server.rss()))
        counted = [row for row in rows if row[0] >= 3000 * self.scale]
        (_, first), (_, last) = counted[0], counted[-1]
        return {
            "requests": counted[-1][0] - counted[0][0],
            "rss_mb": [first, last],
            "drift": round(last / first - 1, 4),
        }


def await_idle(seconds: float = 30.0) -> float:
    """Wait until other processes leave the cores alone, not longer than some seconds; the share that they take of all cores."""
    end = time.monotonic() + seconds
    while True:
        before, began = idle_seconds(), time.monotonic()
        time.sleep(1.0)
        share = 1 - (idle_seconds() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
        if share < 0.1 or time.monotonic() > end:
            return max(share, 0.0)


def idle_seconds() -> float:
    """Seconds that all cores together have been idle."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / TICK


PARTS = ("rivals", "latency", "knobs", "overload", "slow", "kills", "drain", "reloads", "drift")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--scale", type=float, default=1.0, help="of all durations; for trying the script")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    facts = environment(torch.device("cpu")) | {"command": f"python benchmarks/serve_load.py {' '.join(PARTS)}"}
    facts["environment"] = {name: os.environ.get(name, "") for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    for name in ("uvicorn", "starlette", "litserve", "fastapi", "uvloop"):
        try:
            facts["versions"][name] = version(name)
        except PackageNotFoundError:
            continue
    out = arguments.out
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.scale)
        for part in arguments.parts:
            began, busy = time.monotonic(), round(await_idle(), 2)
            found = asyncio.run(getattr(bench, part)())
            print(f"{part} ({time.monotonic() - began:.0f} s): {json.dumps(found)}", flush=True)
            if out:
                before = json.loads(out.read_text()) if out.exists() else {}
                rows = before.get("rows", {}) | {part: found | {"date": time.strftime("%Y-%m-%d"), "busy_before": busy}}
                out.write_text(json.dumps(before | facts | {"rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

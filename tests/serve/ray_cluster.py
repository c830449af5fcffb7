"""A local cluster of Ray with two replicas of a model: `python ray_cluster.py MODEL`; what it sees as JSON (test_on_ray.py)."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import httpx
import ray
from ray import serve
from served_models import picture

import convnext.serve

SECONDS = 120.0


def replicas() -> set[int]:
    """Process ids of the replicas."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::ServeReplica:default:convnext"):
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def main(model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(convnext.serve.ray_app(f"m={model}", replicas=2, cpus=0.5, device="cpu"))
    url = f"http://127.0.0.1:{port}"

    def ask(i: int) -> tuple[int, str]:
        reply = httpx.post(f"{url}/predict", content=picture(i), timeout=30)
        return reply.status_code, reply.text

    answers = [ask(i) for i in range(10)]
    refused = httpx.post(f"{url}/predict", content=b"x", timeout=30)
    first = replicas()
    os.kill(min(first), signal.SIGKILL)
    codes, end = [], time.monotonic() + SECONDS
    while len(replicas() - {min(first)}) < 2 and time.monotonic() < end:
        codes.append(ask(0)[0])
        time.sleep(0.1)
    time.sleep(2)
    seen = {"answers": answers, "refused": [refused.status_code, refused.text], "replicas": len(first)}
    seen |= {"replaced": len(replicas() - {min(first)}), "codes": codes, "again": [ask(i) for i in range(10)]}
    print(json.dumps(seen))
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])

"""Beyond one machine: Ray Serve with two replicas, one of them killed; the manifest of docs/serve.md fits the service."""

import asyncio
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from served_models import Asked, classifier, picture, service_of

import convnext.serve
from convnext.cli.parsing import parse, with_task_options
from convnext.cli.serve import Serve
from convnext.errors import ConvNextError
from convnext.serve.names import named


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="needs the extra ray")
def test_two_replicas_answer_as_one_machine_does_and_a_killed_one_is_replaced(tmp_path):
    file = classifier(tmp_path / "m.safetensors")
    source = Path(convnext.serve.__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(source), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("ray_cluster.py")), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))  # among what Ray says
    seen = json.loads(line)

    async def asked() -> list:
        async with Asked(service_of({"m": file})) as client:
            return [await client.post("/predict", content=each) for each in [*map(picture, range(10)), b"x"]]

    *here, refused = asyncio.run(asked())
    assert seen["answers"] == seen["again"] == [[reply.status_code, reply.text] for reply in here]
    assert seen["refused"] == [422, refused.text]
    assert (seen["replicas"], seen["replaced"]) == (2, 2)
    assert seen["codes"].count(200) >= len(seen["codes"]) - 2, seen["codes"]


def test_a_wrong_option_is_told():
    with pytest.raises(ConvNextError, match="Did you mean 'device'"):
        convnext.serve.ray_app("runs/none", devise="cpu")


def test_the_manifest_of_the_docs_fits_the_service(models):
    page = (Path(__file__).parents[2] / "docs/serve.md").read_text()
    manifest = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    pod = manifest["spec"]["predictor"]
    (container,) = pod["containers"]
    assert container["args"][:2] == ["convnext", "serve"]
    arguments = parse(with_task_options(Serve, "predict_options"), container["args"][2:], "serve", "")
    assert list(named(arguments.models)) == ["pets"]
    assert pod["terminationGracePeriodSeconds"] > arguments.limits.drain
    probes = [container[probe]["httpGet"] for probe in ("readinessProbe", "livenessProbe")]
    ports = {container["ports"][0]["containerPort"], *(probe["port"] for probe in probes)}
    assert ports == {arguments.port}

    async def asked() -> list[int]:
        async with Asked(service_of({"pets": models["classifier"]})) as client:
            return [(await client.get(probe["path"])).status_code for probe in probes]

    assert asyncio.run(asked()) == [200, 200]
    command = json.loads(re.search(r"^CMD (.*)$", page, re.MULTILINE)[1])
    assert command == container["args"][: len(command)]

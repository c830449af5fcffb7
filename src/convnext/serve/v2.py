"""The Open Inference Protocol (version 2), with which clients of KServe and Triton speak.

Input `images`: BYTES (B,), a file of an image each, in base64 in JSON; or UINT8 (B, H, W, 3), RGB. Output `predictions`:
BYTES (B,), the JSON of `/predict` each; beside it, where the answer is an array of fixed shape, that as FP32, such as
`probabilities` (B, K). Source: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and
its binary extension, in which the bytes of a tensor follow the JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from base64 import b64decode
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from convnext import __version__
from convnext.files import to_json
from convnext.serve.answers import answered, facts, json_response
from convnext.serve.body import Body, Refused
from convnext.serve.model import Served, of_array, of_bytes
from convnext.serve.service import Service
from convnext.task.inputs import Input
from convnext.task.results import Failure, Prediction

HEADER_LENGTH = "inference-header-content-length"


class Protocol:
    """The routes under /v2."""

    def __init__(self, service: Service):
        self.service = service

    def routes(self) -> list[tuple[str, list[str], Any]]:
        """Path, methods and endpoint of each."""
        return [
            ("/v2", ["GET"], self.server),
            ("/v2/health/live", ["GET"], self.live),
            ("/v2/health/ready", ["GET"], self.ready),
            ("/v2/models/{name}", ["GET"], self.model),
            ("/v2/models/{name}/ready", ["GET"], self.model_ready),
            ("/v2/models/{name}/infer", ["POST"], self.infer),
        ]

    async def server(self, request: Request) -> Response:
        """Name and version of the server."""
        return answered({"name": "convnext", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return answered({"live": True})

    async def ready(self, request: Request) -> Response:
        """Requests are accepted."""
        return answered({"ready": self.service.ready}, 200 if self.service.ready else 503)

    async def model(self, request: Request) -> Response:
        """Inputs and outputs of a model."""
        served = self.service.model(request.path_params["name"])
        outputs = [{"name": "predictions", "datatype": "BYTES", "shape": [-1]}]
        return answered(
            {
                "name": served.name,
                "versions": [str(served.version.number)],
                "platform": "convnext",
                "inputs": [{"name": "images", "datatype": "BYTES", "shape": [-1]}],
                "outputs": outputs,
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """A model accepts requests."""
        served = self.service.model(request.path_params["name"])
        return answered({"name": served.name, "ready": self.service.ready}, 200 if self.service.ready else 503)

    async def infer(self, request: Request) -> Response:
        """Answer for every image of a request; a broken one fails the request, as the protocol has it."""
        began, service = time.monotonic(), self.service
        served = service.model(request.path_params["name"])
        version = served.version
        deadline = service.deadline(request.headers.get("x-deadline-seconds"))
        service.accept(served)
        given = version.options({})
        with Body(request.receive, request.headers, service.limits, service.bodies) as body:
            content = await body.read()
            parsed = await asyncio.to_thread(parse, content, request.headers.get(HEADER_LENGTH), served)
            asked, images = parsed

            def shown(answer: Prediction) -> tuple[str, dict[str, np.ndarray]]:
                return to_json(answer.to_dict()), answer.arrays()

            async def gone() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass

            answers = await service.answers(served, version, images, given, deadline, shown, gone)
        if broken := [each for each in answers if isinstance(each, Failure)]:
            raise Refused(422, broken[0].error)
        outputs: list[dict[str, Any]] = [
            {"name": "predictions", "datatype": "BYTES", "shape": [len(answers)], "data": [text for text, _ in answers]}
        ]
        for name in answers[0][1]:
            values = np.stack([arrays[name] for _, arrays in answers]).astype(np.float32)
            outputs.append(
                {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": values.ravel().tolist()}
            )
        reply = {"model_name": served.name, "model_version": str(version.number), "outputs": outputs}
        if isinstance(asked.get("id"), str):
            reply["id"] = asked["id"]
        return json_response(to_json(reply), 200, facts(served, version, began))


def parse(content: bytes, header_length: str | None, served: Served) -> tuple[dict[str, Any], list[Input]]:
    """The request's JSON and its images.

    Raises:
        Refused: it is none (400), or holds too many images (413).
    """
    end = len(content)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > len(content):
            raise Refused(400, f"{HEADER_LENGTH} is not the length of a JSON header in the body.")
        end = int(header_length)
    try:
        asked = json.loads(content[:end])
        tensors = [each for each in asked["inputs"] if each["name"] == "images"]
        (tensor,) = tensors
        kind, shape = tensor["datatype"], [int(side) for side in tensor["shape"]]
        binary = (tensor.get("parameters") or {}).get("binary_data_size")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused(
            400, 'Send {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [B], "data": [..]}]}.'
        ) from None
    limits = served.options.limits
    if not shape or not shape[0] >= 1:
        raise Refused(400, "The first side of the shape is the number of images.")
    if shape[0] > min(limits.max_files, limits.queue):
        raise Refused(413, f"The request holds more than {min(limits.max_files, limits.queue)} images.")
    try:
        if kind == "BYTES" and len(shape) == 1:
            files = byte_strings(content[end:]) if binary is not None else [b64decode(each) for each in tensor["data"]]
            if len(files) != shape[0]:
                raise ValueError
            return asked, [of_bytes(each, f"image {i}", limits.max_pixels) for i, each in enumerate(files, 1)]
        if kind == "UINT8" and len(shape) == 4 and shape[3] == 3 and min(shape) >= 1:
            if shape[1] * shape[2] > limits.max_pixels:
                raise Refused(422, f"The images have more than {limits.max_pixels:,} pixels.")
            if binary is not None:
                values = np.frombuffer(content, np.uint8, math.prod(shape), end)
            else:
                values = np.asarray(tensor["data"])
                if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
                    raise ValueError
            values = values.astype(np.uint8).reshape(shape)
            return asked, [of_array(each, f"image {i}") for i, each in enumerate(values, 1)]
    except (ValueError, KeyError, TypeError):
        raise Refused(400, f"The data of the input does not fit its type {kind!r:.20} and its shape.") from None
    raise Refused(400, "The input `images` is BYTES of shape (B) or UINT8 of shape (B, H, W, 3).")


def byte_strings(content: bytes) -> list[bytes]:
    """Byte strings in the binary form: each after its length, 4 bytes, little-endian; raises ValueError."""
    found, at = [], 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "little")
        if at + 4 + length > len(content):
            raise ValueError
        found.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return found

"""The routes: predictions, the page, metrics, reload; those of the Open Inference Protocol are in v2.py."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from convnext.console import clean
from convnext.errors import ConvNextError
from convnext.files import to_json
from convnext.serve.answers import answered, error, facts, json_response
from convnext.serve.body import Body, Disconnected, Refused, file_name, files_of, is_multipart
from convnext.serve.guard import LOOPBACK_NAMES, Guard
from convnext.serve.model import Served, of_bytes
from convnext.serve.openapi import document
from convnext.serve.page import page
from convnext.serve.service import Service
from convnext.serve.v2 import Protocol
from convnext.task.masks import FORMS, MaskForm
from convnext.task.results import Failure, Prediction

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(service: Service) -> ASGIApp:
    """The application of a service, ready for an ASGI server."""
    routes = [
        ("/", ["GET"], show_page),
        ("/predict", ["POST"], predict),
        ("/predict/{name}", ["POST"], predict),
        ("/models", ["GET"], models),
        ("/metrics", ["GET"], metrics),
        ("/openapi.json", ["GET"], openapi),
        *Protocol(service).routes(),
    ]
    if service.options.admin:
        routes.append(("/admin/reload", ["POST"], reload))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = Starlette(
        routes=[Route(path, told(path, endpoint), methods=methods) for path, methods, endpoint in routes],
        exception_handlers={HTTPException: http_error},
        lifespan=lifespan,
    )
    app.state.service = service
    return Guard(app, service)


def told(path: str, endpoint: Endpoint) -> Endpoint:
    """An endpoint whose refusals are answers, and whose route is in the metrics."""

    @functools.wraps(endpoint)
    async def wrapped(request: Request) -> Response:
        request.scope["convnext.route"] = path
        try:
            return await endpoint(request)
        except Refused as refused:
            return error(refused)
        except Disconnected:
            return Response(status_code=499)  # nobody receives it; the metrics count it
        except Exception as problem:
            print(f"convnext: {clean(f'{path}: {type(problem).__name__}: {problem}')}", file=sys.stderr, flush=True)
            return error(Refused(500, "The server failed on this request; its log says why."))

    return wrapped


def service_of(request: Request) -> Service:
    return request.app.state.service


async def http_error(request: Request, problem: Exception) -> Response:
    """No such route, or another method."""
    code = getattr(problem, "status_code", 500)
    message = {404: "There is no such page; /openapi.json lists what there is.", 405: "This page takes another method."}
    return error(Refused(code, message.get(code, "The request cannot be answered."), getattr(problem, "headers", None)))


async def predict(request: Request) -> Response:
    """Answer for the image that is the body, or for each file of a form."""
    began, service = time.monotonic(), service_of(request)
    served = service.model(request.path_params.get("name"))
    version = served.version
    given, form = options_of(request, served)
    deadline = service.deadline(request.headers.get("x-deadline-seconds"))
    service.accept(served)
    with Body(request.receive, request.headers, service.limits, service.bodies) as body:
        content = await body.read()
        content_type = request.headers.get("content-type", "")
        if several := is_multipart(content_type):
            most = min(service.limits.max_files, service.limits.queue)
            files = await asyncio.to_thread(files_of, content, content_type, most)
        else:
            files = [(file_name(unquote(request.headers.get("x-file-name", ""))) or "image", content)]
        if not files or not all(len(each) for _, each in files[:1]):
            raise Refused(422, "Send an image: its bytes as the body, or files in a form.")

        def shown(answer: Prediction) -> str:
            return to_json(answer.to_dict() if form is None else answer.dict_with_masks(form))

        images = [of_bytes(each, name, service.limits.max_pixels) for name, each in files]
        answers = await service.answers(served, version, images, given, deadline, shown, left(request))
    texts = [to_json(each.to_dict()) if isinstance(each, Failure) else each for each in answers]
    broken = all(isinstance(each, Failure) for each in answers)
    text = f"[{', '.join(texts)}]" if several else texts[0]
    return json_response(text, 422 if broken else 200, facts(served, version, began))


def left(request: Request) -> Callable[[], Awaitable[None]]:
    """A coroutine function that returns when the client of a request, whose body was read, has left."""

    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait


def options_of(request: Request, served: Served) -> tuple[Any, MaskForm | None]:
    """The options of a prediction and the form of its masks, from the query.

    Raises:
        Refused: an option that is not there, or has no such value (400).
    """
    spec = served.version.spec
    given: dict[str, Any] = {}
    form: MaskForm | None = None
    for key, value in request.query_params.multi_items():
        if key == "masks" and value in FORMS:
            form = cast(MaskForm, value)
        elif key == "masks":
            raise Refused(400, f"masks is one of {', '.join(FORMS)}.")
        elif key in spec.answer_options:
            given[key] = int(value) if value.isdecimal() and len(value) < 10 else -1
        else:
            known = ", ".join([*spec.answer_options, "masks"])
            raise Refused(400, f"There is no option {file_name(key)!r}; there are: {known}.")
    try:
        return served.version.options(given), form
    except ConvNextError as problem:
        raise Refused(400, str(problem)) from None


async def show_page(request: Request) -> Response:
    """The page for people."""
    text, policy = page()
    return Response(text, headers={"Content-Security-Policy": policy}, media_type="text/html; charset=utf-8")


async def models(request: Request) -> Response:
    """Names, classes and limits, for the page."""
    return answered([served.metadata() for served in service_of(request).models.values()])


async def metrics(request: Request) -> Response:
    """The numbers for Prometheus."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def openapi(request: Request) -> Response:
    """The description of the routes for programs."""
    return answered(document(service_of(request)))


async def reload(request: Request) -> Response:
    """Load the models' files again, from this machine only; the models before stay where that fails."""
    service = service_of(request)
    if request.client is None or request.client.host not in LOOPBACK_NAMES:
        raise Refused(403, "Reloading is for requests from this machine.")
    if service.reload_elsewhere:
        service.reload_elsewhere()
        return answered({"reloading": list(service.models)}, 202)
    versions = {}
    for name, served in service.models.items():
        try:
            versions[name] = (await asyncio.to_thread(served.reload)).number
        except ConvNextError as problem:
            print(f"convnext: {clean(f'{name} stays as it was: {problem}')}", file=sys.stderr, flush=True)
            raise Refused(
                409, f"The new file of {name} is not in use, and the model before stays; the server's log says why."
            ) from None
    return answered({"versions": versions})

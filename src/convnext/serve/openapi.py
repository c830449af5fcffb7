"""The description of the routes in OpenAPI 3.1, as `/openapi.json` gives it."""

from __future__ import annotations

from typing import Any

from convnext import __version__
from convnext.serve.service import Service
from convnext.task.masks import FORMS

ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def document(service: Service) -> dict[str, Any]:
    """The routes of a service with parameters, bodies and codes."""
    names, most = list(service.models), min(service.limits.max_files, service.limits.queue)
    extra = sorted({name for served in service.models.values() for name in served.version.spec.answer_options})
    query = [
        *(
            {"name": each, "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999}}
            for each in extra
        ),
        {"name": "masks", "in": "query", "schema": {"type": "string", "enum": list(FORMS)}},
        {"name": "X-Deadline-Seconds", "in": "header", "schema": {"type": "number", "minimum": 1}},
        {"name": "X-File-Name", "in": "header", "schema": {"type": "string"}},
    ]
    named = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": names}}
    image = {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
        },
    }
    answer = {"oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}
    refusals = {"400": "an option or a form that cannot be read", "408": "too slow", "413": "too large, too many files"}
    refusals |= {
        "415": "compressed",
        "422": "no image can be read",
        "500": "the model failed",
        "503": "full; Retry-After says when",
    }
    refusals |= {"504": "the deadline passed"}
    predict = {"requestBody": image, "responses": replies(answer, refusals)}
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape", "data"],
        "properties": {
            "name": {"const": "images"},
            "datatype": {"const": "BYTES"},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": most},
                "minItems": 1,
                "maxItems": 1,
            },
            "data": {
                "type": "array",
                "items": {"type": "string", "contentEncoding": "base64"},
                "minItems": 1,
                "maxItems": most,
            },
        },
    }
    infer = {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["inputs"],
                        "properties": {
                            "id": {"type": "string"},
                            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
                        },
                    }
                }
            },
        },
        "parameters": [named],
        "responses": replies({"type": "object"}, refusals),
    }
    plain = {"type": "object"}
    paths: dict[str, Any] = {
        "/predict": {
            "post": {"summary": "The answer for an image, by the first model", "parameters": query, **predict}
        },
        "/predict/{name}": {"post": {"summary": "The answer for an image", "parameters": [named, *query], **predict}},
        "/models": {
            "get": {"summary": "Names, classes, limits", "responses": replies({"type": "array", "items": plain})}
        },
        "/v2": {"get": {"summary": "The server", "responses": replies(plain)}},
        "/v2/health/live": {"get": {"summary": "The process answers", "responses": replies(plain)}},
        "/v2/health/ready": {"get": {"summary": "Requests are accepted", "responses": replies(plain, {}, plain)}},
        "/v2/models/{name}": {
            "get": {"summary": "Inputs and outputs", "parameters": [named], "responses": replies(plain)}
        },
        "/v2/models/{name}/ready": {
            "get": {"summary": "It accepts requests", "parameters": [named], "responses": replies(plain, {}, plain)}
        },
        "/v2/models/{name}/infer": {"post": {"summary": "Answers in the Open Inference Protocol", **infer}},
        "/metrics": {
            "get": {
                "summary": "Numbers for Prometheus",
                "responses": {
                    "200": {"description": "numbers", "content": {"text/plain": {"schema": {"type": "string"}}}}
                },
            }
        },
    }
    if service.options.token:
        for path, methods in paths.items():
            for each in methods.values():
                each["security"] = [] if path.startswith("/v2/health") else [{"token": []}]
                each["responses"]["401"] = reply("no token, or a wrong one", ERROR)
    return {
        "openapi": "3.1.0",
        "info": {"title": "convnext serve", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def reply(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """One response."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def replies(
    schema: dict[str, Any], refusals: dict[str, str] | None = None, unready: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All responses of a route: its answer, its refusals, and those of every route."""
    found = {
        "200": reply("the answer", schema),
        "404": reply("no such model", ERROR),
        "403": reply("another site's", ERROR),
    }
    found |= {"421": reply("another name than this machine's", ERROR)}
    found |= {code: reply(text, {"anyOf": [ERROR, ERROR_LIST]}) for code, text in (refusals or {}).items()}
    if unready:
        found["503"] = reply("not ready", unready)
    return found


ERROR_LIST = {"type": "array", "items": ERROR}

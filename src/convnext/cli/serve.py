"""`convnext serve MODEL ...`: a trained model as an HTTP service with a page."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convnext import tasks
from convnext.cli.parsing import Precision, parse, require_model, with_task_options
from convnext.console import stderr, stdout
from convnext.errors import ConvNextError
from convnext.recipes.ranges import SIDE, ranged
from convnext.serve.names import named
from convnext.serve.options import Limits, Options
from convnext.task.spec import NoOptions

TOKEN = "CONVNEXT_TOKEN"
DESCRIPTION = """Answer predictions over HTTP, with a page to try the model at the same address.

    convnext serve runs/quickstart
    convnext serve pets=runs/pets street=runs/small-detect/best.onnx --port 9000
    curl --data-binary @cat.jpg http://127.0.0.1:8000/predict
    curl -F images=@cat.jpg -F images=@dog.jpg http://127.0.0.1:8000/predict/pets

Images of many requests go through the model together. It listens on this machine alone unless --host says otherwise.
SIGTERM and Ctrl-C finish what was accepted; SIGHUP loads the models' files again."""


@dataclass(frozen=True)
class Serve:
    """Options of `serve`."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Run folders, checkpoints, exported files or names of the catalog; NAME=MODEL gives it the name of /predict/NAME."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for every network."""
    port: int = ranged(8000, at_least=0, at_most=65535)
    """0: any that is free."""
    workers: int = ranged(1, at_least=1, at_most=256)
    """Processes, each with its own copy of the models; one that dies is replaced."""
    token_file: Path | None = None
    """File with the bearer token that requests must show; or the environment variable CONVNEXT_TOKEN."""
    admin: bool = False
    """POST /admin/reload from this machine loads the models' files again, as SIGHUP does."""
    weights: Literal["best", "raw", "ema"] = "best"
    """Weights of a run."""
    image_size: int | None = ranged(None, **SIDE)
    """Side in pixels, if not the checkpoint's."""
    device: str = "auto"
    """cuda, mps, cpu, or auto: the first of them that is there."""
    precision: Precision = "auto"
    """Precision of the arithmetic; auto: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU, where
    bf16 can be faster: docs/speed.md."""
    trust: bool = False
    """Open exported files of formats that can run code of whoever made them."""
    limits: Annotated[Limits, tyro.conf.OmitArgPrefixes] = field(default_factory=Limits)


def run(argv: list[str]) -> int:
    # Threads of a batch that wait for each other spin for some tenths of a millisecond, until the network's next loop, and then
    # sleep: longer, they take the cores that decode the next images. OpenMP reads it when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    require_model(argv, "serve")
    arguments: Any = parse(with_task_options(Serve, "predict_options"), argv, "serve", DESCRIPTION)

    from convnext.extras import require
    from convnext.trained import check_name

    models = named(arguments.models)
    for model in models.values():
        check_name(model)
    for module in ("starlette", "uvicorn", "httptools", "python_multipart", "prometheus_client"):
        require(module, "serve")

    from convnext.serve.lifecycle import serve
    from convnext.serve.listening import bind, url_of
    from convnext.serve.workers import Workers

    token = read_token(arguments.token_file)
    bound = bind(arguments.host, arguments.port)
    loopback = bound.getsockname()[0] in ("127.0.0.1", "::1")
    chosen = {
        name: getattr(arguments, name)
        for name in (
            "host",
            "port",
            "workers",
            "admin",
            "weights",
            "image_size",
            "device",
            "precision",
            "trust",
            "limits",
        )
    }
    given = {spec.name: dict(vars(getattr(arguments, spec.name, NoOptions()))) for spec in tasks.specs()}
    options = Options(models, given, token=token, loopback=loopback, **chosen)
    out, err = stdout(), stderr()
    if not loopback and not token:
        err.print(f"Anybody who reaches {url_of(bound)} can use it: set {TOKEN} to ask for a token.", style="yellow")

    def started(*_: object) -> None:
        for name in models:
            out.print(f"{name}: {url_of(bound)}/predict/{name}")
        out.print(f"Serving at {url_of(bound)} (page, /predict, /v2, /metrics). Ctrl-C ends.")
        out.file.flush()

    with bound:
        return Workers(options, bound).run(started) if options.workers > 1 else serve(options, bound, started)


def read_token(file: Path | None) -> str | None:
    """The bearer token; raises ConvNextError for a file without one."""
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConvNextError(f"The token cannot be read from {file}: {error}.") from None
    if len(token) < 16 or not token.isascii() or not token.isprintable():
        raise ConvNextError(f"{file} must hold one token of at least 16 printable ASCII characters.")
    return token

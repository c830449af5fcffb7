"""`convnext VERB ...`: the list of verbs, and what happens to errors. Imports nothing heavy: `--help` answers at once."""

import os
import shutil
import sys
import textwrap
import warnings
from functools import partial
from importlib import import_module
from io import TextIOWrapper

from convnext import __version__
from convnext.errors import ConvNextError, nearest

VERBS = {
    "train": "train or fine-tune a model by a recipe: classifier, detector, segmenter; continue a run that was stopped",
    "evaluate": "accuracy, AP or mIoU of a run, a checkpoint or a released model on labelled images",
    "predict": "classify images, find objects in them, or label their pixels: files, folders or globs",
    "embed": "vectors of images for search, clustering and classifiers of your own",
    "robustness": "accuracy on harder and corrupted images: ImageNet-A, -R, -Sketch, -C, -C-bar, or your own images",
    "benchmark": "speed and peak memory, beside models of timm, torchvision and transformers, in turn in one run",
    "info": "models, recipes and checkpoints: what there is, what is inside",
    "data": "look at a dataset before training on it (`data check`); corrupted copies; shards; how fast it loads",
    "convert": "rewrite a checkpoint for another library",
    "export": "write a model as ONNX, OpenVINO, torch.export or AOTInductor, compared with PyTorch on real images",
    "serve": "answer predictions over HTTP, with a page to try the model: batches, limits, metrics",
    "hub": "share a trained model on the Hugging Face Hub, or fetch one: `hub push`, `hub pull`",
    "report": "draw a run's curves, and the paper's figures beside your runs",
    "completion": "print a script that completes commands in bash, zsh or fish",
}

HELP = f"""convnext {__version__}: train, evaluate and deploy ConvNeXt image models.

usage: convnext VERB [arguments]

{chr(10).join(f"  {verb:10} {text}" for verb, text in VERBS.items())}

examples:
  convnext train                                         a ConvNeXt learns handwritten digits in a minute
  convnext train small/finetune --data photos --model.weights convnext_tiny.in22k
  convnext train table5/tiny --data imagenet             the paper's ConvNeXt-T
  convnext predict runs/small-finetune holiday/*.jpg
  convnext evaluate runs/small-finetune

`convnext VERB --help` explains a verb. Exit codes: 0 done, 1 problems were found, 2 a mistake in the input,
130 and 143 stopped by Ctrl-C and SIGTERM with the state saved.
"""


def main() -> None:
    """The entry point of the `convnext` command."""
    if sys.stderr is None:  # closed by whoever started it, as by 2>&-
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        sys.stderr.write(
            "convnext: standard output is closed, so nothing could be shown; send it to /dev/null instead.\n"
        )
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; errors that are meant for people are printed without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # words of the command need not be UTF-8
    warnings.filterwarnings("ignore", module="PIL")  # about files that we report ourselves
    warnings.filterwarnings("ignore", "Grad strides do not match")  # DDP, of sides of length 1
    try:
        code = _answered(argv)
        sys.stdout.flush()  # here, so that a full disk is told
        return code
    except ConvNextError as error:
        if os.environ.get("CONVNEXT_DEBUG"):
            raise
        return _told(str(error))
    except KeyboardInterrupt:
        if loader := sys.modules.get("convnext.data.loader"):
            loader.kill_loaders()
        print("convnext: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `convnext info | head`
        _discard_output()
        return 0
    except OSError as error:
        if os.environ.get("CONVNEXT_DEBUG") or (error.filename is None and error.errno is None):
            raise
        return _told(f"{error}. Check the path, its permissions and the free space.")


def _answered(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb = argv[0]
    if verb not in VERBS:
        raise ConvNextError(f"There is no verb {verb!r}.{nearest(verb, VERBS)} `convnext --help` lists them.")
    return import_module(f"convnext.cli.{verb}").run(argv[1:]) or 0


def _discard_output() -> None:
    """Forget output that could not be written: Python would try again at its end, which would be a second error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(message: str) -> int:
    from convnext.console import clean

    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
    text = f"convnext: {clean(message)}"
    if sys.stderr.isatty():  # which would break its lines within words
        width = shutil.get_terminal_size().columns
        fill = partial(textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(map(fill, text.splitlines()))
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()

"""`convnext export CHECKPOINT --format F`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from convnext.cli.parsing import Model, parse
from convnext.console import print_table, progress_bar, stderr, stdout, table
from convnext.export.options import ExportOptions

DESCRIPTION = """Write a model as a file that runs without this package, and compare it with PyTorch before it is handed over.

    convnext export runs/small-finetune --format onnx
    convnext export model.safetensors --format openvino --precision int8 --calibration photos
    convnext export convnext_tiny.in1k --format torch-export --dynamic batch,size --images holiday/*.jpg
    convnext export runs/small-finetune --format aot-inductor --out model.aoti.pt2
    convnext export runs/small-detect --format onnx --images streets
    convnext export runs/small-finetune --format convnext-int8

    format        file          precisions              detectors         needs
    onnx          .onnx         fp32, fp16, int8        fp32, fp16        convnext[export]
    openvino      .xml + .bin   fp32, fp16, bf16, int8  fp32, fp16, bf16  convnext[export]
    torch-export  .pt2          fp32, fp16, bf16        fp32              --trust to open
    aot-inductor  .aoti.pt2     fp32, fp16, bf16        none              a C++ compiler; --trust to open
    convnext-int8 .int8.safetensors  int8               int8              this package to run, on a CPU

fp16 in onnx and openvino halves the file: weights are stored in fp16, and a CPU computes in fp32. bf16 in openvino keeps
the file and computes in bf16. In the other two, weights and arithmetic are of that type. int8 (convnext[int8]) measures
ranges on the images of --calibration, and leaves the layers that disturb the result most in fp32 until the agreement is
there. convnext-int8 is the fastest form on a CPU with AVX-512 VNNI or AMX, and a third of the checkpoint's size; PyTorch runs it,
in bf16 or fp32 where the processor cannot, so it needs this package and nothing else.

Every file is run on real images beside the model: those of --images, else of --calibration, else the run's held-out ones,
else drawn ones. Beyond the tolerance (fp32: 1e-4 and the same top-1 everywhere; else 99 % of top-1) nothing is written.
Of a detector both must find the same objects (fp32: 99.5 % of them, scores within 1e-3; else 90 %).

The file holds its task, classes and preprocessing: `convnext predict FILE images..` and `evaluate` take it as they take a
checkpoint. Files of PyTorch's own two formats can run code when they are opened, so `predict` and `evaluate` open them
only with --trust."""


@dataclass(frozen=True)
class Arguments:
    """Options of `export`."""

    checkpoint: Model
    """A run's folder, a checkpoint file, or a name of the catalog."""
    options: Annotated[ExportOptions, tyro.conf.arg(name="")] = field(default_factory=ExportOptions)
    weights: Literal["best", "raw", "ema"] = "best"
    """Weights of a run."""


def run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, "export", DESCRIPTION)
    arguments.options.free_axes()

    from convnext.export import formats
    from convnext.trained import check_name, load

    check_name(arguments.checkpoint)
    formats.choose(arguments.options.format, arguments.options.precision)

    from convnext.export.run import export_opened

    model = load(arguments.checkpoint, device="cpu", precision="auto", weights=arguments.weights, trust=True)
    err, out = stderr(), stdout()
    with progress_bar("comparing", console=err) as progress:
        report = export_opened(
            arguments.checkpoint, model.opened, arguments.options, lambda line: err.print(line, style="dim"), progress
        )
    print_table(out, table(("", ""), report.rows(), left=2))
    trust = " --trust" if formats.FORMATS[report.metadata.format].runs_code else ""
    out.print(
        f"Use it: convnext predict {report.file} IMAGES..{trust}   convnext evaluate {report.file} --data FOLDER{trust}"
    )
    return 0

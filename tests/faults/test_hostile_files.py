"""Files from anybody: checkpoints, metadata, exported files, images. Nothing runs, nothing crashes, one sentence each."""

import json
import os
import pickle
import random
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from scenario import is_full, scenario, sizes

from convnext import models
from convnext.cli.main import run
from convnext.errors import ConvNextError
from convnext.task.exported import KEY
from convnext.trained import load
from convnext.weights import files
from convnext.weights.digest import digest
from convnext.weights.load import load_model

MODEL = {"name": "convnext_atto", "num_classes": 3}
PREPROCESS = {"size": 32, "crop_ratio": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
STATED = {
    "model": MODEL,
    "task": "classification",
    "classes": ["a", "b", "c"],
    "preprocess": PREPROCESS,
    "metrics": {"top1": 1.0},
}
EXPORTED = {
    "task": "classification",
    "model": "convnext_atto",
    "format": "onnx",
    "precision": "fp32",
    "classes": ["a", "b", "c"],
    "preprocess": PREPROCESS,
    "batch": None,
    "size": [32, 32],
    "smallest": 1,
    "in_chans": 3,
    "names": None,
    "inputs": ["images"],
    "outputs": ["logits"],
    "pads": False,
    "kept": [],
    "data": {},
    "versions": {},
}
VALUES = (
    None,
    True,
    -1,
    0,
    10**6,
    10**12,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../etc/passwd",
    "os.system",
    "\0\x1b[31m",
    "a" * 20_000,
    [],
    {},
    [[]],
    ["a"] * 5,
    [None],
    {"a": {}},
    "__import__('os')",
    -0.5,
    [1e400] * 3,
    [0] * 3,
)


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def places(value, path=()):
    """The paths of everything in nested JSON, inner values too."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


def changed(stated: dict, chance: random.Random) -> dict:
    """A copy with one value replaced, left out, or one key more."""
    copy = json.loads(json.dumps(stated))
    *outer, key = chance.choice(list(places(stated)))
    inner = copy
    for name in outer:
        inner = inner[name]
    kind = chance.randrange(8)
    if kind == 0:
        del inner[key]
    elif kind == 1:
        inner[chance.choice(("__class__", "x", "size", "split", "state", "step"))] = chance.choice(VALUES)
    else:
        inner[key] = chance.choice(VALUES)
    return copy


def refused_or_fine(work, trace: Path, seconds: float = 20) -> None:
    """`work` succeeds or raises ConvNextError with a short sentence, in time, and nothing has run."""
    began = time.monotonic()
    try:
        work()
    except ConvNextError as error:
        assert 10 < len(str(error)) < 1500  # noqa: PT017
    assert time.monotonic() - began < seconds
    assert not trace.exists()


@sizes(8, 150)
def test_hostile_metadata(tmp_path, request, tried):
    """Loading, and a prediction where it loads."""
    with scenario(
        "hostile metadata",
        "weights whose metadata holds other types, sizes, names, words for code; loaded and, where they load, used",
        is_full(request),
    ) as now:
        tensors, chance = models.build(**MODEL).state_dict(), random.Random(0)
        picture, path = Image.new("RGB", (40, 30)), tmp_path / "x.safetensors"
        for number in range(tried):
            text = json.dumps(changed(STATED, chance))
            files.write_safetensors(path, tensors, {"format": "pt", "convnext": text, "sha256": digest(tensors, text)})

            def use() -> None:
                model = load(path, device="cpu")
                model.predict(picture).to_dict()
                assert model.opened.data_recipe is None or model.opened.data_recipe.task

            with now.case(f"{number} {text[:300]}"):
                refused_or_fine(use, tmp_path / "trace")


def hostile_checkpoints(folder: Path, trace: Path) -> list[Path]:
    """Pickles that run code in every form that `torch.load` knows, bombs, headers that lie, tensors that are none."""
    tensors = models.build(**MODEL).state_dict()
    made: list[Path] = []

    def path(ending: str) -> Path:
        made.append(folder / f"{len(made)}{ending}")
        return made[-1]

    payload = Payload(trace)
    holders = [
        payload,
        {"model": payload},
        {**tensors, "x": payload},
        {"state_dict": tensors, "args": payload},
        [payload],
        {"epoch": payload},
    ]
    for holder in holders:
        for new in (True, False):
            torch.save(holder, path(".pth"), _use_new_zipfile_serialization=new)
        path(".pt").write_bytes(pickle.dumps(holder))
    for text in (
        b"cos\nsystem\n(S'mkdir %b'\ntR." % str(trace).encode(),
        b"\x80\x04cbuiltins\neval\n",
        b"",
        b"\0" * 5000,
        b"PK\3\4",
        b"[]",
    ):
        path(".pth").write_bytes(text)
        path(".safetensors").write_bytes(text)
    for header in (
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2,
        b"[" * 100_000,
        b'{"__metadata__":{"convnext":5}}',
        b"\xff\xfe",
    ):
        path(".safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    path(".safetensors").write_bytes(struct.pack("<Q", 1 << 63) + b"{}")
    for number in range(4):  # archives: of zeros, of many entries, with climbing names, encrypted
        with zipfile.ZipFile(path(".pt"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", pickle.dumps(payload) if number else bytes(50 << 20))
            for entry in range(3000 if number == 1 else 1):
                archive.writestr(f"../../{entry}" if number == 2 else f"x/data/{entry}", bytes(8))
    for odd in (
        {"a": torch.eye(3).to_sparse()},
        {"a": torch.zeros(1).expand(1 << 40)},
        {"a": 5},
        {5: torch.ones(2)},
        {"a": torch.ones(2, dtype=torch.complex64)},
        {"stages.0.0.dwconv.weight": torch.ones(1)},
        {"model": {"model": {"model": {}}}},
    ):
        torch.save(odd, path(".pth"))
    return made


@sizes(15, 100)
def test_hostile_checkpoints(tmp_path, request, tried):
    with scenario(
        "hostile checkpoints",
        "pickles that run code, compressed bombs, headers that lie, tensors that are none: 0 executions, one sentence each",
        is_full(request),
    ) as now:
        trace = tmp_path / "trace"
        made = hostile_checkpoints(tmp_path, trace)
        for path in made[:: max(1, len(made) // tried)]:
            with now.case(path.name):
                began = time.monotonic()
                with pytest.raises(ConvNextError):
                    load_model(path)
                assert time.monotonic() - began < 20
                assert not trace.exists()


@sizes(12, 120)
def test_hostile_exported_files(tmp_path, request, tried):
    """Archives with code in every place that PyTorch's loader may look, and graphs with any metadata."""
    onnx = pytest.importorskip("onnx")
    with scenario(
        "hostile exported files",
        "`.pt2` archives that run code and ONNX files with any metadata, by `predict` without --trust: 0 executions",
        is_full(request),
    ) as now:
        trace, picture, chance = tmp_path / "trace", tmp_path / "p.png", random.Random(2)
        Image.new("RGB", (32, 32)).save(picture)
        x = onnx.helper.make_tensor_value_info("images", 1, [None, 3, 32, 32])
        y = onnx.helper.make_tensor_value_info("logits", 1, [None, 3])
        nodes = [onnx.helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0)]
        graph = onnx.helper.make_model(
            onnx.helper.make_graph(nodes, "g", [x], [y]), opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
        )
        for number in range(tried):
            code, path = number % 3 == 0, tmp_path / ("x.pt2" if number % 3 == 0 else "x.onnx")
            stated = EXPORTED | ({"format": chance.choice(("torch-export", "aot-inductor", "onnx"))} if code else {})
            text = json.dumps(stated if number < 6 else changed(stated, chance))
            if code:
                with zipfile.ZipFile(path, "w") as archive:
                    archive.writestr(f"x/extra/{KEY}.json", text)
                    for name in (
                        "data/weights/model.pt",
                        "data/sample_inputs/model.pt",
                        "data.pkl",
                        "data/constants/c.pt",
                        "models/model.json",
                    ):
                        archive.writestr(f"x/{name}", pickle.dumps(Payload(trace)))
            else:
                del graph.metadata_props[:]
                onnx.helper.set_model_props(graph, {KEY: text})
                onnx.save(graph, path)
            with now.case(f"{path.name} {text[:300]}"):
                assert run(["predict", str(path), str(picture)]) in ((2,) if code else (0, 2))
                assert not trace.exists()

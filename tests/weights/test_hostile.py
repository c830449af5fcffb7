"""Damaged and hostile files: each is refused in one sentence, nothing runs, and nothing takes more memory than the file."""

import json
import random
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import suppress

import pytest
import torch

from convnext import models
from convnext.cli.main import run
from convnext.errors import ConvNextError
from convnext.trained import load
from convnext.weights import files, metadata
from convnext.weights.digest import digest
from convnext.weights.load import load_model, read_checkpoint
from convnext.weights.save import save_weights
from pictures import draw_classes

PREPROCESS = {"size": 32, "crop_ratio": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
MODEL = {"name": "convnext_atto", "num_classes": 3}


def write(path, tensors, stated):
    """A file of ours with any metadata, its digest right."""
    text = json.dumps(stated)
    files.write_safetensors(path, tensors, {"format": "pt", "convnext": text, "sha256": digest(tensors, text)})
    return path


@pytest.fixture(scope="module")
def tensors():
    return models.build("convnext_atto", num_classes=3).state_dict()


# -- metadata


@pytest.mark.parametrize(
    ("stated", "place"),
    [
        ([], "no JSON object"),
        ({"model": "convnext_atto"}, "model is 'convnext_atto'"),
        ({"model": {}}, "model.name"),
        ({"model": {**MODEL, "name": "os; import"}}, "model.name"),
        ({"model": {**MODEL, "num_classes": 10**9}}, "model.num_classes"),
        ({"model": {**MODEL, "num_classes": "3"}}, "model.num_classes"),
        ({"model": {**MODEL, "drop_path_rate": float("nan")}}, "model.drop_path_rate"),
        ({"model": {**MODEL, "width_mult": 1e6}}, "model.width_mult"),
        ({"model": MODEL, "preprocess": {**PREPROCESS, "size": 30_000}}, "preprocess.size is 30000"),
        ({"model": MODEL, "preprocess": {**PREPROCESS, "size": 0}}, "preprocess.size"),
        ({"model": MODEL, "preprocess": {**PREPROCESS, "size": True}}, "preprocess.size"),
        ({"model": MODEL, "preprocess": {**PREPROCESS, "std": [0.0] * 3}}, "preprocess.std"),
        ({"model": MODEL, "preprocess": {**PREPROCESS, "mean": [float("inf")] * 3}}, "preprocess.mean"),
        ({"model": MODEL, "preprocess": {**PREPROCESS, "interpolation": "magic"}}, "preprocess.interpolation"),
        ({"model": MODEL, "preprocess": []}, "preprocess"),
        ({"model": MODEL, "classes": "abc"}, "classes"),
        ({"model": MODEL, "classes": [1, 2, 3]}, "classes.0"),
        ({"model": MODEL, "classes": ["a", "b", "c" * 100_000]}, "classes.2"),
        ({"model": MODEL, "metrics": {"top1": "high"}}, "metrics.top1"),
        ({"model": MODEL, "task": "os.path; x"}, "task"),
    ],
)
def test_metadata_of_other_types_and_sizes(stated, place, tensors, tmp_path):
    path = write(tmp_path / "x.safetensors", tensors, stated)
    with pytest.raises(ConvNextError, match=f"The metadata in .*{place}") as caught:
        load_model(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"model": ' + "[" * 5000, "nonsense", "NaN"])
def test_metadata_that_is_no_json(text, tensors, tmp_path):
    files.write_safetensors(
        tmp_path / "x", tensors, {"format": "pt", "convnext": text, "sha256": digest(tensors, text)}
    )
    with pytest.raises(ConvNextError, match="The metadata in .* cannot be used"):
        read_checkpoint(tmp_path / "x")


@pytest.mark.parametrize("key", ["classes", "names"])
def test_too_few_names_of_classes(key, tensors, tmp_path):
    path = write(tmp_path / "x", tensors, {"model": MODEL, key: ["a", "b"]})
    with pytest.raises(ConvNextError, match=rf"has 3 outputs and 2 names of classes in its metadata \({key}\)"):
        load_model(path)


def test_options_that_no_model_has_and_names_of_no_model(tensors, tmp_path):
    for model in ({**MODEL, "__class__": 1}, {"name": "convnext_huge"}, {**MODEL, "layer_scale_init_value": 0.0}):
        with pytest.raises(ConvNextError):
            load_model(write(tmp_path / "x", tensors, {"model": model}))


def test_a_file_cannot_ask_for_more_memory_than_its_tensors(tensors, tmp_path, monkeypatch):
    path = write(tmp_path / "x", tensors, {"model": {"name": "convnext_xlarge", "num_classes": 100_000}})
    devices = []
    build = models.build

    def watched(*args, **options):
        devices.append(torch.get_default_device().type)
        return build(*args, **options)

    with pytest.raises(ConvNextError, match="another shape|does not fit"):
        load_model(path, build=watched)
    assert devices == ["meta"]


def test_unknown_keys_are_kept_and_never_interpreted(tensors, tmp_path):
    stated = {"model": MODEL, "classes": list("abc"), "preprocess": PREPROCESS, "note": {"any": ["thing", None]}}
    assert load_model(write(tmp_path / "x", tensors, stated))[1].metadata == stated


def test_what_could_not_be_read_is_not_written(tensors, tmp_path):
    with pytest.raises(ConvNextError, match="preprocess.size"):
        save_weights(tensors, tmp_path / "x", metadata={"preprocess": {"size": 100_000}})
    assert not (tmp_path / "x").exists()
    save_weights(tensors, tmp_path / "x", metadata={"metrics": {"top1": float("nan")}})
    assert read_checkpoint(tmp_path / "x").metadata["metrics"] == {"top1": None}


# -- the digest


def test_every_flipped_byte_is_noticed(tmp_path):
    small = {name: torch.randn(shape) for name, shape in {"stem.weight": (4, 3, 2, 2), "head.weight": (3, 4)}.items()}
    path = save_weights(small, tmp_path / "x", metadata={"classes": ["a", "b", "c"]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(ConvNextError):
            files.read(path)


def test_flips_in_a_whole_model(tensors, tmp_path):
    path = save_weights(tensors, tmp_path / "x", metadata={"model": MODEL})
    whole, chance = bytearray(path.read_bytes()), random.Random(0)
    for _ in range(10):
        place = chance.randrange(len(whole))
        whole[place] ^= 0x10
        path.write_bytes(whole)
        with pytest.raises(ConvNextError, match="cannot be read: it is damaged"):
            read_checkpoint(path)
        whole[place] ^= 0x10
    whole[-1] ^= 0x10
    path.write_bytes(whole)
    assert read_checkpoint(path, verify=False).tensors.keys() == tensors.keys()


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_person_may_leave_the_digest_out(verb, tensors, tmp_path, capsys):
    preprocess = {**PREPROCESS, "interpolation": "bicubic"}
    path = save_weights(
        tensors, tmp_path / "x.safetensors", metadata={"model": MODEL, "preprocess": preprocess, "classes": list("abc")}
    )
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    draw_classes(tmp_path / "photos", {"a": 1, "b": 1, "c": 1})
    argv = [verb, str(path), *(["--data"] if verb == "evaluate" else []), str(tmp_path / "photos")]
    assert run(argv) == 2
    assert "differ from the digest" in capsys.readouterr().err
    assert run([*argv, "--no-verify"]) == 0
    with pytest.raises(ConvNextError, match="differ from the digest"):
        load(path)
    assert load(path, verify=False).classes == ["a", "b", "c"]


def test_files_from_before_the_digest_still_load(tensors, tmp_path):
    files.write_safetensors(tmp_path / "x", tensors, {"format": "pt", "convnext": json.dumps({"model": MODEL})})
    assert load_model(tmp_path / "x")[1].metadata == {"model": MODEL}


def test_equal_models_write_equal_files(tensors, tmp_path):
    facts = {"classes": list("abc"), "preprocess": PREPROCESS}
    one = save_weights(tensors, tmp_path / "one", metadata=facts).read_bytes()
    other = save_weights(dict(reversed(tensors.items())), tmp_path / "other", metadata=dict(reversed(facts.items())))
    assert one == other.read_bytes()


@pytest.mark.parametrize("dtype", files.DTYPES, ids=str)
def test_the_library_reads_every_type_that_is_written(dtype, tmp_path):
    from safetensors.torch import load_file

    values = {
        "odd": torch.arange(5).to(dtype),
        "scalar": torch.ones((), dtype=dtype),
        "wide": torch.ones(3, 2).double(),
    }
    values["strided"] = torch.arange(12).reshape(3, 4).to(dtype).t()
    values["empty"] = torch.ones(0, 3, dtype=dtype)
    files.write_safetensors(tmp_path / "x", values, {"format": "pt"})
    again = load_file(tmp_path / "x")
    assert again.keys() == values.keys()
    assert all(again[name].dtype == t.dtype and torch.equal(again[name], t) for name, t in values.items())


# -- sizes are known before anything is read


def test_a_compressed_file_is_refused_by_its_directory(tmp_path):
    torch.save({"head.weight": torch.zeros(1 << 22)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as given,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for entry in given.infolist():
            made.writestr(entry.filename, given.read(entry))
    assert (tmp_path / "y.pt").stat().st_size < 100_000
    with pytest.raises(ConvNextError, match="compressed to expand to"):
        read_checkpoint(tmp_path / "y.pt")


def test_a_hundred_thousand_tensors(tmp_path):
    layout = {
        f"stages.0.{i}.dwconv.weight": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)
    }
    text = json.dumps(layout).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text)
    start = time.perf_counter()
    with pytest.raises(ConvNextError, match="holds 100,000 tensors"):
        read_checkpoint(tmp_path / "x")
    assert time.perf_counter() - start < 3
    (tmp_path / "y").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(ConvNextError, match="its header claims"):
        read_checkpoint(tmp_path / "y")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 40),
        torch.eye(3).to_sparse(),
        torch.empty(3, 3, device="meta"),
    ],
    ids=["expanded", "sparse", "meta"],
)
def test_tensors_that_no_model_has(tensor, tmp_path):
    torch.save({"stages.0.0.dwconv.weight": tensor}, tmp_path / "x.pt")
    with pytest.raises(ConvNextError, match="no ordinary tensor|damaged|more than tensors"):
        read_checkpoint(tmp_path / "x.pt")


def test_random_damage_to_a_pickle_is_one_sentence(tensors, tmp_path):
    small, chance = {name: t for name, t in tensors.items() if t.numel() < 500}, random.Random(1)
    torch.save(small, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x.pt").read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(len(whole) // 4)] = chance.randrange(256)
        (tmp_path / "x.pt").write_bytes(damaged)
        with suppress(ConvNextError):  # any other error fails the test
            read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "values",
    [
        {"size": 30_000, "image_mean": [0.5], "image_std": [0.5]},
        {"size": {}, "image_mean": [0.5], "image_std": [0.5]},
        {"size": 224},
        {"size": 224, "image_mean": "x", "image_std": [0.5]},
        {"size": 224, "image_mean": [0.5], "image_std": [0.5], "resample": 99},
        {"size": {"height": 3, "width": 4}, "image_mean": [0.5], "image_std": [0.5], "image_processor_type": "ViTImageProcessor"},
    ],
)  # fmt: skip
def test_hostile_settings_of_transformers(values, tensors, tmp_path):
    save_weights(tensors, tmp_path, "transformers")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(ConvNextError, match=r"preprocessor_config\.json"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text('{"id2label": {"x": 1}}')
    with pytest.raises(ConvNextError, match="id2label"):
        read_checkpoint(tmp_path)


def test_every_option_of_every_family_is_in_the_schema():
    """So that a bound exists for each number that decides how much memory a model takes."""
    from inspect import signature

    from convnext.detection import detector
    from convnext.segmentation import segmenter

    options = {option for name in models.names() for option in models.options(name)}
    for build in (detector.build, segmenter.build):
        options |= {p.name for p in signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert options <= metadata.Model.model_fields.keys()


def test_planning_a_model_costs_no_import(tensors, tmp_path):
    """The plan on the meta device must not load the compiler, which takes seconds."""
    path = save_weights(tensors, tmp_path / "x", metadata={"model": MODEL})
    code = f"""import sys; from convnext.weights.load import load_model
load_model({str(path)!r})
sys.exit('torch._dynamo' in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

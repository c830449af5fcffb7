"""Images: damaged, enormous, turned by EXIF, and the same answer for one image on every way into a model."""

import io
import json
import random
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import command, survived
from scenario import is_full, scenario, sizes

from convnext.cli import main
from convnext.data.images import MAX_PIXELS, ImageError, decode
from damaged import mutated
from pictures import SCRATCH, draw_classes

MB = 1 << 20
TURNS = {
    # the orientation that a file states -> what has to be done to the upright picture so that it is stored like this
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
WITH_EXIF = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif"}


class Cost:
    """What a block took: seconds of processor time, and the most memory that it held beyond what was there before."""

    seconds = 0.0
    memory = 0


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


@contextmanager
def measured() -> Iterator[Cost]:
    cost, before, began = Cost(), _status("VmRSS"), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    try:
        yield cost
    finally:
        cost.seconds, cost.memory = time.process_time() - began, _status("VmHWM") - before


@sizes(100, 10_000)
def test_mutated_images(request, tried):
    what = "damaged pictures in seven formats: decoded or refused in one sentence, each within 2 s of processor time and 512 MB"
    with scenario("mutated images", what, is_full(request)) as now:
        chance, slowest, largest, decoded = random.Random(3), 0.0, 0, 0
        for number in range(tried):
            data = mutated(chance)
            with now.case(str(number)):
                with measured() as cost:
                    try:
                        assert decode(data).mode == "RGB"
                        decoded += 1
                    except ImageError as error:
                        assert 5 < len(str(error)) < 1000  # noqa: PT017
                slowest, largest = max(slowest, cost.seconds), max(largest, cost.memory)
                assert cost.seconds < 2
                assert cost.memory < 512 * MB
        now.note = f"{decoded:,} decoded; at most {slowest:.2f} s and {largest / MB:.0f} MB"


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims these sides, with a correct checksum."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"


def claiming(form: str, width: int, height: int) -> bytes:
    """A small file of a format whose header claims these sides."""
    if form == "PNG":
        return png_header(width, height)
    if form == "PPM":
        return b"P6 %d %d 255\n" % (width, height)
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, form)
    data = bytearray(stream.getvalue())
    if form == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif form == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif form == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    elif form == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = data.index(struct.pack("<HHII", tag, 4, 1, 16)) if struct.pack("<HHII", tag, 4, 1, 16) in data else -1
            if at < 0:
                at = data.index(struct.pack("<HHI", tag, 3, 1))
                data[at + 2 : at + 4] = struct.pack("<H", 4)
            data[at + 8 : at + 12] = struct.pack("<I", value)
    elif form == "JPEG2000":
        at = data.index(b"ihdr")
        data[at + 4 : at + 12] = struct.pack(">II", height, width)
    return bytes(data)


SIDES = ((30_000, 30_000), (65_535, 65_535), (9_460, 9_460), (60_000, 1_500))


@sizes(7, 28)
def test_bombs_are_refused_from_the_header(request, tried):
    what = (
        "small files of seven formats that claim 89 to 4,295 million pixels: refused within 0.2 s and 16 MB, undecoded"
    )
    with scenario("bombs", what, is_full(request)) as now:
        cases = [(form, *sides) for sides in SIDES for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")]
        for form, width, height in cases[:tried]:
            with now.case(f"{form} {width} x {height}"):
                data = claiming(form, width, height)
                with measured() as cost, pytest.raises(ImageError, match="more than the limit|limit of pixels"):
                    decode(data)
                assert cost.seconds < 0.2
                assert cost.memory < 16 * MB


@sizes(0, 12)
def test_the_largest_images_that_are_allowed(tmp_path, request, tried):
    """What they cost is written down; the bound is a multiple of their pixels, not of anything else in the file."""
    side = int(MAX_PIXELS**0.5)
    what = f"{side} x {side} pixels, the most that is allowed, in four formats and three modes: within 10 s and 20 bytes a pixel"
    with scenario("largest images", what, is_full(request)) as now:
        costs = []
        cases = [(form, mode) for form in ("PNG", "JPEG", "GIF", "TIFF") for mode in ("RGB", "L", "P")]
        for form, mode in cases[:tried]:
            path = tmp_path / f"{form}{mode}"
            picture = Image.new(mode if form != "JPEG" or mode != "P" else "CMYK", (side, side))
            picture.save(path, form, **({"compression": "tiff_lzw"} if form == "TIFF" else {}))
            del picture
            with now.case(f"{form} {mode}"):
                with measured() as cost:
                    assert decode(path).size == (side, side)
                costs.append((cost.seconds, cost.memory, f"{form} {mode}"))
                assert cost.seconds < 10
                assert cost.memory < 20 * side * side
            path.unlink()
        slowest, largest = max(costs), max(costs, key=lambda each: each[1])
        now.note = f"at most {slowest[0]:.1f} s ({slowest[2]}) and {largest[1] / MB:.0f} MB ({largest[2]})"


def turned_file(path: Path, upright: Image.Image, orientation: int) -> Path:
    """A file that stores a picture turned, and says so."""
    turn = TURNS[orientation]
    stored, exif = upright if turn is None else upright.transpose(turn), Image.Exif()
    exif[0x0112] = orientation
    lossless = {
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
        "JPEG": {"quality": 100, "subsampling": 0},
    }
    form = next(form for form, ending in WITH_EXIF.items() if ending == path.suffix)
    stored.save(path, form, exif=exif.tobytes() if form != "TIFF" else exif, **lossless.get(form, {}))
    return path


def ways(root: Path, label: Path | None = None) -> dict[str, Callable[[], Image.Image]]:
    """The image of root/CLASS/ as training, evaluation and prediction read it."""
    from convnext.classification.open import open_dataset, open_for_evaluation
    from convnext.task.inputs import inputs_of

    train, held_out = open_dataset(str(root), 0.5, 0)
    file = next(path for path in (root / "val" / "a").iterdir())
    return {
        "train": lambda: train.image(0),
        "held out": lambda: held_out.image(0),
        "evaluate": lambda: open_for_evaluation(str(root / "val"), None, 0.5, 0).image(0),
        "predict": lambda: inputs_of(str(file))[0][0].image(),
    }


@sizes(5, 40)
def test_orientations(tmp_path, request, tried):
    what = (
        "EXIF orientations 1 to 8 in JPEG, PNG, WebP, TIFF and AVIF: training, held-out images, evaluate and predict see the same "
        "upright pixels"
    )
    with scenario("EXIF orientation", what, is_full(request)) as now:
        values = np.linspace(0, 255, 24 * 16 * 3).reshape(16, 24, 3)
        values[:6, :5] = (255, 0, 0)  # a corner that no turn leaves where it is
        upright = Image.fromarray(values.astype(np.uint8))
        cases = [(form, orientation) for orientation in (6, 1, 2, 3, 4, 5, 7, 8) for form in WITH_EXIF]
        for form, orientation in cases[:tried]:
            with now.case(f"{form} {orientation}"):
                root = tmp_path / f"{form}{orientation}"
                for part in ("train", "val"):
                    for name in ("a", "b"):
                        (root / part / name).mkdir(parents=True)
                        turned_file(root / part / name / f"x{WITH_EXIF[form]}", upright, orientation)
                for way, image in ways(root).items():
                    pixels = np.asarray(image()).astype(int)
                    assert pixels.shape == (16, 24, 3), way
                    assert np.abs(pixels - values.astype(np.uint8)).mean() < 6, way
                    assert np.array_equal(pixels, np.asarray(decode(root / "val" / "a" / f"x{WITH_EXIF[form]}"))), way


@sizes(0, 1000)
def test_one_answer_on_every_way(tmp_path, request, tried, capsys):
    """The last evaluation of a training, `evaluate`, `predict`, and `predict` with the exported file."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    what = (
        "1,000 held-out images: the accuracy of the training's last evaluation, of evaluate, and of the answers of predict are one "
        "number, and the exported file gives the same answers, probabilities within 1e-4"
    )
    with scenario("one answer", what, is_full(request)) as now:
        draw_classes(tmp_path / "photos" / "train", {"across": 60, "down": 60})
        draw_classes(tmp_path / "photos" / "val", {"across": tried // 2, "down": tried // 2})
        for path in list((tmp_path / "photos" / "val").rglob("*.png")):
            if int(path.stem) % 3:  # other formats and sizes
                picture = Image.open(path)
                picture = picture.resize((20 + int(path.stem) % 17, 16 + int(path.stem) % 11))
                picture.save(path.with_suffix(".jpg" if int(path.stem) % 3 == 1 else ".webp"), quality=90)
                path.unlink()
        run, exported = tmp_path / "run", tmp_path / "m.onnx"
        argv = ["train", "small/scratch", *SCRATCH, "--epochs", "8", "--data", tmp_path / "photos", "--out", run]
        survived(command(argv, tmp_path / "output"), 0)
        best = json.loads((run / "summary.json").read_text())["best"]["score"]
        survived(command(["evaluate", run, "--out", tmp_path / "e"], tmp_path / "output"), 0)
        evaluated = json.loads((tmp_path / "e" / "evaluation.json").read_text())["results"]["best"]["top1"]
        survived(command(["export", run, "--format", "onnx", "--out", exported], tmp_path / "output"), 0)
        capsys.readouterr()
        answers = []
        for model in (run, exported):
            assert main.run(["predict", str(model), str(tmp_path / "photos" / "val"), "--json", "--top-k", "2"]) == 0
            lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            answers.append(
                {line["file"]: {each["class"]: each["probability"] for each in line["predictions"]} for line in lines}
            )
        with now.case("evaluate"):
            assert evaluated == pytest.approx(best, abs=1e-9)
        right = sum(max(top, key=lambda name: top[name]) == Path(file).parent.name for file, top in answers[0].items())
        with now.case("predict"):
            assert 100 * right / tried == pytest.approx(best, abs=1e-9)
        for file, top in answers[0].items():
            with now.case(file):
                other = answers[1][file]
                assert max(abs(top[name] - other[name]) for name in top) < 1e-4
        now.note = f"top-1 {best:.2f} % on every way"

"""`convnext predict` on frames of a video, on web addresses and on a folder in which images arrive."""

import json
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from PIL import Image

import convnext
from convnext.cli.main import run


@pytest.fixture
def clip(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(10):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32), (i * 20, 0, 0)))))
        container.mux(stream.encode())
    return path


def test_frames_have_their_times_in_json_names_and_files(trained, clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["predict", str(trained), str(clip), "--json", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [f"{clip}@{t}.000s" for t in (0, 1, 2)]
    assert [line["seconds"] for line in lines] == [0.0, 1.0, 2.0]
    assert sorted(path.name for path in out.iterdir()) == [f"clip@{t}.000s.jpg" for t in (0, 1, 2)]
    assert run(["predict", str(trained), str(clip), "--every", "0"]) == 0
    assert "clip.mp4@2.250s" in capsys.readouterr().out
    assert run(["predict", str(trained), str(clip), "--every", "-1"]) == 2
    assert "--every is -1" in capsys.readouterr().err


def test_frames_in_python(trained, clip):
    model = convnext.load(trained)
    answers = model.predict(clip, stream=True, every=0.5)
    assert [answer.source.seconds for answer in answers] == [0, 0.5, 1.0, 1.5, 2.0]
    assert len(model.predict(clip, every=0)) == 10
    assert model.predict([clip, Image.new("RGB", (8, 8))])[-1].source.seconds is None


def test_without_the_extra_the_command_that_installs_it(trained, clip, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(["predict", str(trained), str(clip)]) == 2
    assert "--extra video" in capsys.readouterr().err


def test_an_address_that_does_not_answer_is_one_image_without_an_answer(trained, tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert run(["predict", str(trained), "http://127.0.0.1:1/a.png", str(tmp_path / "a.png"), "--json"]) == 2
    failed, answered = map(json.loads, capsys.readouterr().out.splitlines())
    assert failed["file"] == "http://127.0.0.1:1/a.png"
    assert "check the address" in failed["error"]
    assert "predictions" in answered


def test_watching_answers_what_arrives_and_ends_with_ctrl_c(trained, tmp_path, capsys, monkeypatch):
    from convnext.cli import predict

    folder, out = tmp_path / "incoming", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "old.png")
    looked = threading.Event()  # what was there already is known

    def pause(seconds: float) -> None:
        looked.set()
        time.sleep(seconds / 50)

    monkeypatch.setattr(predict, "time", SimpleNamespace(sleep=pause))

    def arrive() -> None:
        whole = (folder / "old.png").read_bytes()
        looked.wait(20)
        (folder / "half.png").write_bytes(whole[:40])
        wait(lambda: "half.png" in said[-1])
        (folder / "half.png").write_bytes(whole)
        wait((out / "half-2.jpg").exists)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def wait(there) -> None:
        until = time.monotonic() + 20
        while not there() and time.monotonic() < until:
            time.sleep(0.01)

    said = [""]
    monkeypatch.setattr(predict, "print", lambda text, **options: said.append(text), raising=False)
    writer = threading.Thread(target=arrive)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without one
    try:
        writer.start()
        code = run(["predict", str(trained), "--watch", str(folder), "--json", "--out", str(out)])
    finally:
        writer.join()
        signal.signal(signal.SIGINT, before)
    assert code == 0
    answers = [json.loads(line) for line in said[1:]]
    assert [os.path.basename(answer["file"]) for answer in answers] == ["half.png", "half.png"]
    assert "truncated" in answers[0]["error"]
    assert "predictions" in answers[1]
    assert "Ctrl-C ends" in capsys.readouterr().err


def test_watching_needs_a_folder(trained, tmp_path, capsys):
    assert run(["predict", str(trained), "--watch", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err

"""Frames of videos by their times, in any order, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.data.images import ImageError
from convnext.data.video import open_video
from convnext.errors import ConvNextError

av = pytest.importorskip("av")


def write_video(path, codec="mpeg4", rate=10, frames=30, size=(64, 48)):
    """Frame i has i + 1 red columns at its left, the rest is dark; a key frame every 12."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = 12
        for i in range(frames):
            picture = np.full((size[1], size[0], 3), 20, np.uint8)
            picture[:, : i + 1] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def number(image: Image.Image) -> int:
    """Which frame this is, give or take what compression does."""
    values = np.asarray(image).astype(int)
    return int((values[24, :, 0] - values[24, :, 1] > 110).sum()) - 1


@pytest.mark.parametrize(
    ("codec", "name", "rate"),
    [("mpeg4", "a.mp4", 10), ("mpeg4", "a.avi", 10), ("mpeg4", "a.mkv", 10), ("mpeg2video", "a.mpg", 25)],
)
def test_frames_in_any_order(tmp_path, codec, name, rate):
    video = open_video(write_video(tmp_path / name, codec, rate))
    assert len(video.stamps) == 30
    assert [video.seconds(i) for i in (0, 1, 29)] == pytest.approx([0, 1 / rate, 29 / rate], abs=1e-3)
    for i in (0, 1, 2, 20, 5, 6, 5, 29, 17, 0):
        assert abs(number(video.frame(i)) - i) <= 1, i


def test_frames_at_even_distances(tmp_path):
    video = open_video(write_video(tmp_path / "a.mp4"))
    assert video.every(0) == list(range(30))
    assert video.every(1.0) == [0, 10, 20]
    assert video.every(0.25) == [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28]
    assert video.every(0.01) == list(range(30)), "none twice"
    assert video.every(100) == [0]
    assert [number(video.frame(i)) for i in video.every(1.0)] == pytest.approx([0, 10, 20], abs=1)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files")
def test_a_video_is_closed_after_its_last_frame_and_can_be_asked_again(tmp_path):
    def opened() -> int:
        return sum(
            os.path.realpath(each) == os.path.realpath(tmp_path / "a.mp4") for each in Path("/proc/self/fd").iterdir()
        )

    video = open_video(write_video(tmp_path / "a.mp4"))
    assert opened() == 0
    chosen = video.every(1.0)
    video.frame(chosen[0])
    assert opened() == 1
    for i in (*chosen, chosen[-1], chosen[0], chosen[-1]):
        assert abs(number(video.frame(i)) - i) <= 1
    assert opened() == 0


def test_a_video_that_was_held_upright_is_shown_upright(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, frames=3)
    content = path.read_bytes()
    one, none, last = b"\x00\x01\x00\x00", b"\x00" * 4, b"\x40\x00\x00\x00"
    straight = one + none * 3 + one + none * 3 + last
    clockwise = none + one + none + b"\xff\xff\x00\x00" + none * 4 + last
    track = content.index(b"tkhd")
    at = content.index(straight, track)
    path.write_bytes(content[:at] + clockwise + content[at + len(clockwise) :])
    image = open_video(path).frame(0)
    assert image.size == (48, 64)
    red = np.asarray(image).astype(int)[..., 0] - np.asarray(image).astype(int)[..., 1]
    assert red[:2].mean() > red[-2:].mean() + 50, "the left side is above now"


def test_what_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.mp4", "PNG")
    (tmp_path / "list.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n")
    write_video(tmp_path / "a.mp4", frames=3)
    for name in ("text", "empty", "picture", "list", "concat", "missing"):
        with pytest.raises(ConvNextError, match=f"Cannot read the video '.*{name}.mp4'"):
            open_video(tmp_path / f"{name}.mp4")


def test_a_video_that_ends_early_gives_what_it_has(tmp_path):
    path = tmp_path / "a.avi"
    write_video(path)
    path.write_bytes(path.read_bytes()[:-1500])
    video = open_video(path)
    assert 3 < len(video.stamps) < 30
    assert number(video.frame(2)) in (1, 2, 3)


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path)
    video = open_video(path)
    path.unlink()
    with pytest.raises(ImageError, match=r"Cannot read the frame at 1\.000 s of '.*a\.mp4'"):
        video.frame(10)


def test_too_many_pixels_or_frames(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr("convnext.data.video.MOST_FRAMES", 10)
    with pytest.raises(ConvNextError, match="more than 10 frames"):
        open_video(path)
    monkeypatch.setattr("convnext.data.video.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ConvNextError, match="64 x 48 pixels"):
        open_video(path)

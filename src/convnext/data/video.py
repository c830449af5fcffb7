"""Frames of a video file at even distances in time, decoded one at a time by FFmpeg (the extra `video`)."""

from __future__ import annotations

import os
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from convnext.data.find import VIDEO_EXTENSIONS
from convnext.data.images import MAX_PIXELS, ImageError
from convnext.errors import ConvNextError
from convnext.extras import require

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,ogg,asf"
"""Containers that are opened, by FFmpeg's names: no playlist and no list of files, which would open others."""
MOST_FRAMES = 1_000_000
"""Frames of a file that are listed: nine hours at 30 a second."""


@dataclass
class Video:
    """An opened video: the time stamps of its frames, and each frame when it is asked for.

    Frames in rising order are decoded once each; a step back, or a long one forward, begins at the key frame before. The file
    is open from the first frame that is asked for to the last of those that `every` chose.

    Attributes:
        path: the file.
        stamps: presentation times of all frames in units of `unit` seconds, rising, the first at `start`.
    """

    path: str
    stamps: list[int]
    unit: float
    start: int
    _frames: Any = field(default=None, repr=False)
    _container: Any = field(default=None, repr=False)
    _last: tuple[int, Any] | None = field(default=None, repr=False)
    _final: int = -1

    def every(self, seconds: float) -> list[int]:
        """Indices of the first frame at or after each multiple of so many seconds; all frames for 0."""
        chosen, k = list(range(len(self.stamps))) if seconds <= 0 else [], 0
        while seconds > 0 and (i := bisect_left(self.stamps, self.start + round(k * seconds / self.unit))) < len(
            self.stamps
        ):
            chosen.append(i)
            k = max(k + 1, int((self.stamps[i] - self.start) * self.unit / seconds + 1e-9) + 1)
        self._final = chosen[-1]
        return chosen

    def seconds(self, i: int) -> float:
        """Time of frame i after the first."""
        return (self.stamps[i] - self.start) * self.unit

    def frame(self, i: int) -> Image.Image:
        """Frame i upright in mode RGB.

        Raises:
            ImageError: it cannot be decoded.
        """
        import av

        wanted = self.stamps[i]
        try:
            if self._last is None or self._last[0] != wanted:
                self._last = wanted, self._reach(wanted)
            picture = _picture(self._last[1])
            if i == self._final:
                self._close()
            return picture
        except (ImageError, av.FFmpegError, OSError, ValueError, MemoryError, StopIteration) as error:
            self._close()
            raise ImageError(
                f"Cannot read the frame at {self.seconds(i):.3f} s of {self.path!r}: {str(error) or 'there is none'}."
            ) from None

    def _close(self) -> None:
        self._frames = self._last = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _reach(self, wanted: int) -> Any:
        near = self._last is not None and 0 < (wanted - self._last[0]) * self.unit <= 10
        if not (near and self._frames):
            self._container = self._container or _open(self.path)
            self._container.seek(wanted, stream=self._container.streams.video[0])
            self._frames = self._container.decode(video=0)
        frame = self._next_from(wanted)
        if frame.pts != wanted and not near:  # some containers seek behind the frame: all of it, then
            self._close()
            self._container = _open(self.path)
            self._frames = self._container.decode(video=0)
            frame = self._next_from(wanted)
        return frame

    def _next_from(self, wanted: int) -> Any:
        return next(frame for frame in self._frames if frame.pts is not None and frame.pts >= wanted)


def open_video(path: str | os.PathLike) -> Video:
    """List the frames of a video file; none is decoded yet.

    Raises:
        ConvNextError: the extra is missing, no such file, none of `FORMATS`, no pictures or no times in it, or too large.
    """
    av, path = require("av", "video"), os.fspath(path)
    stamps: list[int] = []
    try:
        with _open(path) as container:
            if not container.streams.video:
                raise ConvNextError("it has sound alone")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise ConvNextError(
                    f"its {stream.width} x {stream.height} pixels are more than the limit of {MAX_PIXELS:,}"
                )
            for packet in container.demux(stream):
                if packet.pts is not None and not packet.is_discard:
                    stamps.append(packet.pts)
                    if len(stamps) > MOST_FRAMES:
                        raise ConvNextError(f"it has more than {MOST_FRAMES:,} frames; cut it into parts")
            unit = float(stream.time_base or 0)
        if not stamps or not unit:
            raise ConvNextError("it has no frames with a time stamp; convert it, as by `ffmpeg -i FILE new.mp4`")
    except (ConvNextError, av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConvNextError(
            f"Cannot read the video {path!r}: {reason}. Videos are {', '.join(sorted(VIDEO_EXTENSIONS))}."
        ) from None
    stamps = sorted(set(stamps))
    return Video(path, stamps, unit, stamps[0])


def _open(path: str) -> Any:
    import av

    # FFmpeg takes names for addresses of many kinds, and some files name others: only this file, as one of these formats
    return av.open(f"file:{os.path.abspath(path)}", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})


def _picture(frame: Any) -> Image.Image:
    if frame.width * frame.height > MAX_PIXELS:
        raise ImageError(f"its {frame.width} x {frame.height} pixels are more than the limit of {MAX_PIXELS:,}")
    image = frame.to_image()
    turn = round(frame.rotation / 90) % 4 if frame.rotation else 0
    return (
        image.transpose((Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)[turn - 1])
        if turn
        else image
    )

"""Videos, frame by frame, through PyAV (the extra ``video``); the only file that imports it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from privface.errors import ImageError, ImageTooLargeError, MissingExtraError

FrameProtector: TypeAlias = Callable[
    [Sequence[NDArray[np.uint8]]], list[tuple[NDArray[np.uint8] | None, int]]
]
"""Frames in, for each its protected version (``None`` where there is none) and its number of faces out."""

MAX_VIDEO_BYTES = 2**31
"""Larger files are not read: a video is held in memory."""

_RATE_FACTOR = "18"
"""Quality of the encoder, from 0 (lossless) to 51."""

_CONTAINERS = {".m4v": "mp4", ".mkv": "matroska"}
"""Names of containers that are not their suffix."""


@dataclass(frozen=True)
class ProtectedVideo:
    """A video after protection.

    Attributes:
        data: The file.
        frames: Frames in it.
        blank: Frames that are black because no face was found in them or a face could not be protected.
        faces: Faces found, over all frames.
        width: Pixels.
        height: Pixels.
    """

    data: bytes
    frames: int
    blank: int
    faces: int
    width: int
    height: int


def require_av() -> Any:
    """PyAV.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import av  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            "Videos need PyAV, which is not installed.",
            hint="Install the extra: pip install 'privface[video]'.",
        ) from error
    return av


def protect_video(
    data: bytes,
    suffix: str,
    protect: FrameProtector,
    *,
    at_once: int,
    max_pixels: int,
    sound: bool = True,
) -> ProtectedVideo:
    """Protect a video: every frame decoded, protected and encoded again; sound copied as it is.

    A frame without a protected version becomes black: a detector that overlooks a face in one frame of a
    person on screen would otherwise give away what the others hide. No metadata, subtitle or attachment is kept.

    Args:
        data: The file.
        suffix: Its suffix, which names the container; H.264 is written, VP9 into ``.webm``.
        protect: Protects some frames at a time.
        at_once: Frames that ``protect`` is given.
        max_pixels: Larger frames are refused.
        sound: Copy the first audio stream. A voice tells gender, too.

    Raises:
        ImageTooLargeError: If its frames are larger.
        ImageError: If it is damaged or has no picture.
        MissingExtraError: If PyAV is not installed.
    """
    av = require_av()
    sink, container = io.BytesIO(), _CONTAINERS.get(suffix, suffix[1:])
    try:
        with (
            av.open(io.BytesIO(data), mode="r") as source,
            av.open(sink, mode="w", format=container, options={"fflags": "+bitexact"}) as target,
        ):
            if not source.streams.video:
                raise ImageError("the file has no picture.")
            heard = source.streams.audio[0] if sound and source.streams.audio else None
            writer = _Writer(av, target, source.streams.video[0], heard, webm=suffix == ".webm")
            for times, pictures in _pictures(source, writer, heard, at_once=at_once, max_pixels=max_pixels):
                writer.write(times, pictures, protect(pictures))
            writer.finish()
    except (av.error.FFmpegError, ValueError) as error:
        raise ImageError(f"damaged video ({error}).") from error
    return ProtectedVideo(
        sink.getvalue(), writer.frames, writer.blank, writer.faces, writer.width, writer.height
    )


def _pictures(
    source: Any, writer: _Writer, heard: Any, *, at_once: int, max_pixels: int
) -> Iterator[tuple[list[int | None], list[NDArray[np.uint8]]]]:
    """Upright frames with their times, some at a time; packets of sound go to the writer on the way."""
    times: list[int | None] = []
    pictures: list[NDArray[np.uint8]] = []
    for packet in source.demux([stream for stream in (source.streams.video[0], heard) if stream is not None]):
        if heard is not None and packet.stream.index == heard.index:
            writer.sound(packet)
            continue
        for frame in packet.decode():
            if frame.width * frame.height > max_pixels:
                raise ImageTooLargeError(
                    f"frames of {frame.width} x {frame.height} pixels, the limit is {max_pixels:,}."
                )
            pixels = frame.to_ndarray(format="rgb24")
            times.append(frame.pts)
            pictures.append(np.rot90(pixels, round(frame.rotation / 90)))  # phones film sideways and say so
            if len(pictures) == at_once:
                yield times, pictures
                times, pictures = [], []
    if pictures:
        yield times, pictures


class _Writer:
    """The video that is written, sound as it is; its size is that of the first frame, cut to even sides."""

    def __init__(self, av: Any, target: Any, shown: Any, heard: Any, *, webm: bool) -> None:
        self._av, self._target, self._time_base = av, target, shown.time_base
        options = {"crf": _RATE_FACTOR, "threads": "1", "flags": "+bitexact", **({"b": "0"} if webm else {})}
        self._stream = target.add_stream(
            "libvpx-vp9" if webm else "libx264", rate=shown.average_rate or Fraction(25), options=options
        )
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = shown.time_base
        self._copied = None if heard is None else target.add_stream_from_template(heard)
        self._early: list[Any] = []
        self._last = -1
        self.frames = self.blank = self.faces = self.width = self.height = 0

    def sound(self, packet: Any) -> None:
        """A packet of the sound, held back until the first frame has told the size."""
        if packet.dts is None:
            return
        packet.stream = self._copied
        if self.frames:
            self._target.mux(packet)
        else:
            self._early.append(packet)

    def write(
        self,
        times: Sequence[int | None],
        pictures: Sequence[NDArray[np.uint8]],
        answers: Sequence[tuple[NDArray[np.uint8] | None, int]],
    ) -> None:
        """Encode frames that have been protected; black where they have not."""
        for time, pixels, (answer, count) in zip(times, pictures, answers, strict=True):
            if not self.frames:
                # 4:2:0 halves colours
                self.height, self.width = (side - side % 2 for side in pixels.shape[:2])
                if min(self.height, self.width) < 2:
                    raise ImageError(f"frames of {pixels.shape[1]} x {pixels.shape[0]} pixels.")
                self._stream.height, self._stream.width = self.height, self.width
            shown = np.zeros((self.height, self.width, 3), np.uint8)
            if answer is not None:
                part = answer[: self.height, : self.width]
                shown[: part.shape[0], : part.shape[1]] = part
            frame = self._av.VideoFrame.from_ndarray(shown, format="rgb24")
            self._last = max(self._last + 1, -1 if time is None else time)  # times must rise
            frame.pts, frame.time_base = self._last, self._time_base
            self.frames += 1
            self.blank += answer is None
            self.faces += count
            self._target.mux(self._stream.encode(frame))
            for packet in self._early:
                self._target.mux(packet)
            self._early = []

    def finish(self) -> None:
        """Encode what waits.

        Raises:
            ImageError: If there was no frame.
        """
        if not self.frames:
            raise ImageError("the file has no picture that can be decoded.")
        self._target.mux(self._stream.encode(None))

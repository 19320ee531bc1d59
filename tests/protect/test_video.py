"""Videos: every face of every frame, nothing of a frame without one, sound as asked, no metadata."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privface.errors import ConfigError, MissingExtraError
from privface.protect import GaussianBlur, read_manifest
from privface.protect.video import protect_video, require_av
from privface.protect.work import PASTED
from tests.protect.conftest import FACE, Finder, rows

av = pytest.importorskip("av", reason="the extra [video] is not installed")

BOX = (slice(10, 40), slice(5, 35))


@pytest.fixture
def bright():
    """Finds a face in every frame that is brighter than dark."""
    return Finder(lambda image: [FACE] if image.mean() > 60 else [])


@pytest.fixture
def film(protect, bright):
    """A job over videos."""
    blur = GaussianBlur(sigma=6.0, size=32)
    return partial(protect, protector=blur, detector=bright, videos=True, paste=True)


def frame(number: int) -> NDArray[np.uint8]:
    """Stripes on grey; the third frame is dark."""
    pixels = np.full((65, 97, 3), 130, np.uint8)
    pixels[:, ::8] = 220
    return np.full_like(pixels, 20) if number == 2 else pixels


def write(path: Path, *, frames: int = 6, sound: bool = True) -> None:
    codec, voice = {".webm": ("libvpx-vp9", "libopus"), ".avi": ("mpeg4", "mp3")}.get(
        path.suffix, ("libx264", "aac")
    )
    with av.open(str(path), "w") as target:
        target.metadata["title"] = target.metadata["comment"] = "SECRET"
        shown = target.add_stream(codec, rate=10)
        shown.width, shown.height, shown.pix_fmt = 96, 64, "yuv420p"
        heard = target.add_stream(voice, rate=48000, layout="mono") if sound else None
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame(number)[:64, :96]), format="rgb24"
            )
            target.mux(shown.encode(picture))
        target.mux(shown.encode(None))
        if heard is not None:
            for part in range(5):
                tone = np.sin(np.arange(4800) * 0.05, dtype=np.float32)[None] * 0.3
                block = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                block.rate, block.pts = 48000, part * 4800
                target.mux(heard.encode(block))
            target.mux(heard.encode(None))


def read(path: Path) -> tuple[list[NDArray[np.uint8]], int]:
    """Frames, and packets of sound."""
    with av.open(str(path)) as source:
        frames = [f.to_ndarray(format="rgb24") for f in source.decode(video=0)]
    with av.open(str(path)) as source:
        packets = sum(p.size > 0 for p in source.demux(audio=0)) if source.streams.audio else 0
    return frames, packets


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm", ".avi"])
def test_faces_are_blurred_gaps_are_black_and_the_rest_stays(tmp_path, film, suffix):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / f"film{suffix}"
    write(source)
    row = read_manifest(film(tmp_path / "in").manifest)[0]
    assert (row.status, row.faces, row.width, row.height) == ("ok", 5, 96, 64)
    assert row.reason == f"1 of 6 frames have no protected face and are black; {PASTED}"
    before, sound_before = read(source)
    after, sound_after = read(tmp_path / "out" / f"film{suffix}")
    assert len(after) == len(before) == 6
    assert sound_after == sound_before > 0
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        if number == 2:
            assert other.max() < 8
            continue
        assert other[BOX].std() < 0.6 * one[BOX].std()
        np.testing.assert_allclose(other[:, 50:].mean(), one[:, 50:].mean(), atol=6)
    assert b"SECRET" not in (tmp_path / "out" / f"film{suffix}").read_bytes()


def test_same_bytes_again_reused_and_without_sound(tmp_path, film):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "film.mp4")
    for out in ("one", "two"):
        film(tmp_path / "in", out)
    one, two = ((tmp_path / out / "film.mp4").read_bytes() for out in ("one", "two"))
    assert one == two
    assert film(tmp_path / "in", "one").reused == 1
    film(tmp_path / "in", "silent", sound=False)
    assert read(tmp_path / "silent" / "film.mp4")[1] == 0


def test_videos_that_cannot_be_protected(tmp_path, film):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "whole.mp4")
    whole = (folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mkv").write_bytes(b"no film" * 100)
    (folder / "empty.webm").write_bytes(b"")
    with av.open(str(folder / "sound.mkv"), "w") as target:
        heard = target.add_stream("aac", rate=48000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        tone.rate = 48000
        target.mux(heard.encode(tone))
        target.mux(heard.encode(None))
    found = rows(film(folder, detector=Finder(lambda _: [])))
    assert found["whole.mp4"].status == "no_face"
    assert "in any of 6 frames" in str(found["whole.mp4"].reason)
    assert {found[name].status for name in ("cut.mp4", "text.mkv", "empty.webm", "sound.mkv")} == {
        "unreadable"
    }
    assert "no picture" in str(found["sound.mkv"].reason)
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix in {".mp4", ".mkv", ".webm"}]
    assert rows(film(folder, "small", max_pixels=1000))["whole.mp4"].status == "too_large"


def test_a_film_held_upright_is_seen_upright(tmp_path, film, bright):
    """Phones store a film sideways with a note to turn it; the note goes, so the frames must be turned."""
    (tmp_path / "in").mkdir()
    write(tmp_path / "plain.mp4", sound=False)
    with (
        av.open(str(tmp_path / "plain.mp4")) as source,
        av.open(str(tmp_path / "in" / "turned.mp4"), "w") as target,
    ):
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    data = bytearray((tmp_path / "in" / "turned.mp4").read_bytes())
    header = (
        data.index(b"tkhd") + 4 + 40
    )  # ISO/IEC 14496-12: the track's matrix, after version, times, id and volume
    quarter = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[header : header + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in quarter)
    (tmp_path / "in" / "turned.mp4").write_bytes(data)
    row = read_manifest(film(tmp_path / "in").manifest)[0]
    assert (row.status, row.width, row.height) == ("ok", 64, 96)
    assert {shape for batch in bright.batches for shape in batch} == {(96, 64, 3)}


def test_videos_need_pasting_a_detector_and_the_extra(tmp_path, film, monkeypatch):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "film.mp4")
    with pytest.raises(ConfigError, match="A video needs its faces") as caught:
        film(tmp_path / "in", paste=False)
    assert "--paste" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="need a detector"):
        film(tmp_path / "in", detector=None)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match="PyAV"):
        require_av()


def test_frames_come_some_at_a_time_and_keep_their_times(tmp_path):
    write(tmp_path / "film.mp4")
    data = (tmp_path / "film.mp4").read_bytes()
    batches: list[int] = []

    def blank(pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[NDArray[np.uint8] | None, int]]:
        batches.append(len(pictures))
        return [(picture, 1) for picture in pictures]

    made = protect_video(data, ".mp4", blank, at_once=4, max_pixels=10_000)
    assert batches == [4, 2]
    assert (made.frames, made.blank, made.faces) == (6, 0, 6)
    with av.open(io.BytesIO(made.data)) as source:
        times = [f.time for f in source.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(6) / 10, atol=1e-3)

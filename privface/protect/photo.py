"""One photo: bytes in, protected faces out, without a folder, a journal and a manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from privface.errors import ProtectError
from privface.faces.detect import FaceDetector, MTCNNDetector
from privface.options import DEFAULT_OPTIONS, ProtectOptions
from privface.protect.inputs import InputFile, Source, with_format, within
from privface.protect.output import Output
from privface.protect.protector import ImageProtector
from privface.protect.work import Worker


def protect_photo(
    data: bytes,
    protector: ImageProtector,
    options: ProtectOptions = DEFAULT_OPTIONS,
    *,
    name: str = "photo.png",
    detector: FaceDetector | None = None,
) -> list[bytes]:
    """Protect one photo in memory: the bytes that a job over a folder with this photo alone writes.

    Args:
        data: The photo's file, in any format that is read.
        protector: Model or baseline.
        options: How; what concerns folders means nothing here.
        name: Its suffix is the format that is written, if ``options`` name none. A protector that needs labels asks for
            this name.
        detector: Finds faces; MTCNN by default.

    Returns:
        A file for each face, the central one first, or one file with ``paste``.

    Raises:
        ConfigError: If the format is not written.
        ProtectError: If there is nothing that may be written: the photo is damaged, too large or shows no face.
    """
    (item,) = with_format([InputFile(name, name, name)], options.image_format)
    detector = None if options.faces == "aligned" else detector or MTCNNDetector()
    kept = _Kept()
    worker = Worker(_OnePhoto(data), kept, protector, replace(options, batch_size=1), detector)
    (done,) = worker.compute([worker.load(item)])
    row = worker.finish(done).row
    if row.status != "ok":
        raise ProtectError(f"{name}: {row.reason or row.status}.", hint="Give another photo.")
    return kept.files


class _OnePhoto(Source):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def items(self) -> list[InputFile]:
        return []  # the caller has the one there is

    def read(self, item: InputFile, *, limit: int) -> bytes:
        return within(self._data, limit, item.key)


class _Kept(Output):
    """What is written stays in memory, in order."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.files: list[bytes] = []

    def place(self, item: InputFile) -> str:
        return item.output

    def write(self, item: InputFile, data: bytes) -> None:
        self.files.append(data)

    def digest(self, item: InputFile) -> str | None:
        return None

    def settle(self, item: InputFile, *, written: int, before: int) -> None:
        pass

    def clear(self, paths: Iterable[str]) -> None:
        pass

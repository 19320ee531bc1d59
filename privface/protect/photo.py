"""One photo: bytes in, protected faces out, without a folder, a journal and a manifest."""

from __future__ import annotations

from dataclasses import replace

from privface.errors import ProtectError
from privface.faces.detect import FaceDetector, MTCNNDetector
from privface.options import DEFAULT_OPTIONS, ProtectOptions
from privface.protect.inputs import InputFile, Source, with_format, within
from privface.protect.manifest import ManifestRow
from privface.protect.protector import ImageProtector
from privface.protect.work import Loaded, Worker, checked


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
    (item,) = with_format([InputFile(name, name)], options.image_format)
    detector = None if options.faces == "aligned" else detector or MTCNNDetector()
    _, row, files = protect_in_memory(data, item, protector, options, detector=detector)
    if row.status != "ok":
        raise ProtectError(f"{name}: {row.reason or row.status}.", hint="Give another photo.")
    return list(files.values())


def protect_in_memory(
    data: bytes,
    item: InputFile,
    protector: ImageProtector,
    options: ProtectOptions,
    *,
    detector: FaceDetector | None,
) -> tuple[Loaded, ManifestRow, dict[str, bytes]]:
    """Protect one photo, and keep what was seen of it on the way.

    Args:
        data: The photo's file.
        item: Its name, and that of its output.
        protector: Model or baseline.
        options: How; the protector is called with one face at a time.
        detector: Finds faces; ``None`` for an aligned face.

    Returns:
        The photo with its faces before and after, its final row, and the protected files by name, the central face first.
    """
    worker = Worker(_OnePhoto(data), None, protector, replace(options, batch_size=1), detector)
    one = checked(worker.compute([worker.load(item)])[0])
    done = worker.finish(one)
    files = {item.face(number).output: file for number, file in enumerate(done.encoded, 1)}
    return one, done.row, files


class _OnePhoto(Source):
    """Bytes, as the protection jobs read photos."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def items(self) -> list[InputFile]:
        """None: the caller has the one there is."""
        return []

    def read(self, item: InputFile, *, limit: int) -> bytes:
        return within(self._data, limit, item.key)

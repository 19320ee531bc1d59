"""What the page does, in words and pictures: paths of uploads in, HTML out. Knows nothing of Gradio."""

from __future__ import annotations

import io
import logging
import queue
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privface.app import markup
from privface.app.auditing import AuditBench
from privface.app.gate import KEPT, upload_token
from privface.app.methods import STRONGEST, WEAKEST, Method
from privface.app.protecting import Faces, Outcome, PhotoDesk
from privface.app.shelf import Shelf
from privface.app.uploads import LIMITS, File, UploadError, check_sizes
from privface.errors import PrivfaceError
from privface.pipeline.faces import Progress

logger = logging.getLogger(__name__)

_TELL_EVERY = 0.4
_BROKEN = "Something went wrong on the server; its log says what."


@dataclass
class Service:
    """The work behind the page."""

    desk: PhotoDesk  # protects photos
    methods: Sequence[Method]  # what it may protect with; the first one is preselected
    bench: AuditBench
    shelf: Shelf  # holds uploads and results
    _stops: dict[tuple[str, str], threading.Event] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The private folder."""
        return self.bench.folder

    def method(self, name: str) -> Method:
        """A method by its name; Gradio has refused names that the page does not offer."""
        return next(method for method in self.methods if method.name == name)

    def protect(
        self, session: str, paths: Sequence[str], *, method: str, strength: float, faces: Faces
    ) -> Iterator[str]:
        """Protect photos; yields how far it is, then the photos or what is wrong."""
        self.shelf.drop(session, "protected")
        if not paths:
            yield markup.part("hint", "Drop photos above, or take one with the camera.")
            return

        def work(tell: Progress) -> str:
            if not WEAKEST <= strength <= STRONGEST:
                raise UploadError(
                    f"The strength {strength:g} is outside {WEAKEST:g}..{STRONGEST:g}.", hint="1 is usual."
                )
            uploads = self._uploads(session, "photos", paths)
            rows = self.desk.protect(
                uploads,
                self.method(method),
                strength=strength,
                faces=faces,
                progress=lambda done, total: tell("photos protected", done, total),
            )
            return self._shown(session, rows)

        yield from self._watched(session, "protected", work)

    def audit(
        self,
        session: str,
        original: str | None,
        protected: str | None,
        labels: str | None,
        **choices: Any,
    ) -> Iterator[str]:
        """Audit two archives, as :meth:`AuditBench.audit`; yields how far it is, then the report or what is wrong."""
        self.shelf.drop(session, "audited")

        def work(tell: Progress) -> str:
            if original is None or protected is None:
                raise UploadError(
                    "An audit needs two zip archives.", hint="Choose the originals and the protected photos."
                )
            first, second = self._uploads(session, "archives", [original, protected])
            table = None if labels is None else self._uploads(session, "archives", [labels])[0]
            headline, files = self.bench.audit(first, second, table, **choices, progress=tell)
            return self._framed(session, "audited", headline, files)

        yield from self._watched(session, "audited", work)

    def trade_off(self, session: str, paths: Sequence[str]) -> str:
        """The comparison of the audits that a user opened, or what is wrong with them."""
        self.shelf.drop(session, "compared")
        if not paths:
            return markup.part("hint", "Open one or more audit.json files of audits of the same photos.")
        try:
            page = self.bench.compare(self._uploads(session, "audits", paths))
            headline = f"Comparison of {len(paths)} {'audit' if len(paths) == 1 else 'audits'}"
            return self._framed(session, "compared", headline, {"comparison.html": page})
        except PrivfaceError as error:
            return markup.part("notice", error.message, error.hint)

    def stop(self, session: str, part: str) -> None:
        """Stop a session's work on what is ``"protected"`` or ``"audited"`` at its next step."""
        if (stop := self._stops.get((session, part))) is not None:
            stop.set()

    def clear(self, session: str) -> None:
        """Let a session's photos go, and what was made of them."""
        self.stop(session, "protected")
        for part in ("photos", "protected"):
            self.shelf.drop(session, part)

    def leave(self, session: str) -> None:
        """A session is over: its work stops, and nothing of it is held."""
        for part in ("protected", "audited"):
            self.stop(session, part)
        self.shelf.drop(session)

    def _uploads(self, session: str, part: str, paths: Sequence[str]) -> list[File]:
        uploads = []
        for path in paths:
            item = self.shelf.get(upload_token(path, self.folder), owner=(session, part))
            if item is None:
                raise UploadError(
                    f"An upload is no longer held: they are let go after {LIMITS.held_seconds / 60:.0f} minutes.",
                    hint="Remove it from the list and choose it again.",
                )
            uploads.append(item)
        check_sizes([u.name for u in uploads], [len(u.data) for u in uploads])
        return uploads

    def _watched(self, session: str, part: str, work: Callable[[Progress], str]) -> Iterator[str]:
        """Run work in a thread of its own; yields how far it is, at last its HTML. Who leaves stops it."""
        stop = self._stops[session, part] = threading.Event()
        stages: queue.SimpleQueue[tuple[str, int, int]] = queue.SimpleQueue()
        answer: list[str] = []

        def tell(stage: str, done: int, total: int) -> None:
            if stop.is_set():
                raise PrivfaceError(
                    "Stopped.", hint="Nothing of it was kept."
                )  # by its user, who may have left
            stages.put((stage, done, total))

        def run() -> None:
            try:
                answer.append(work(tell))
            except PrivfaceError as error:
                answer.append(markup.part("notice", error.message, error.hint))
            except Exception:  # a stranger's upload may raise anything
                logger.exception("A request failed.")
                answer.append(markup.part("notice", _BROKEN, None))

        thread = threading.Thread(target=run, daemon=True)
        started = time.monotonic()
        thread.start()
        told = ("starting", 0, 1)
        try:
            while True:
                thread.join(_TELL_EVERY)
                if not thread.is_alive():
                    break
                while not stages.empty():
                    told = stages.get()
                yield markup.part("progress", *told, int(time.monotonic() - started))
        finally:
            stop.set()
            if self._stops.get((session, part)) is stop:
                del self._stops[session, part]
        yield answer[0]

    def _shown(self, session: str, rows: Sequence[Outcome]) -> str:
        def link(name: str, data: bytes, media: str, saved: bool) -> str:
            return self._link(session, "protected", name, data, media, saved=saved)

        good = [row for row in rows if row.data is not None]
        archive = link("protected.zip", _zipped(good), "application/zip", True) if len(good) > 1 else None
        return markup.part("outcomes", rows, archive, link)

    def _framed(self, session: str, part: str, headline: str, files: Mapping[str, bytes]) -> str:
        """A page, the first of these files, in a frame, and all of them to be saved."""
        name, page = next(iter(files.items()))
        shown = self._link(session, part, name, page, "text/html; charset=utf-8", saved=False)
        media = "application/octet-stream"
        saved = {n: self._link(session, part, n, data, media, saved=True) for n, data in files.items()}
        return markup.part("framed", headline, shown, saved)

    def _link(self, session: str, part: str, name: str, data: bytes, media: str, *, saved: bool) -> str:
        """Put a result on the shelf; gives its address, relative to the page's."""
        (token,) = self.shelf.put(File(name, data, media, saved), owner=(session, part))
        return f"{KEPT}/{token}/{name}"


def _zipped(rows: Sequence[Outcome]) -> bytes:
    """The protected photos as one archive, with dates that say nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for row in rows:
            archive.writestr(zipfile.ZipInfo(row.output), row.data or b"")
    return buffer.getvalue()

"""A protection job apart from how it is computed: what is to do, what is finished, and the manifest at its end."""

from __future__ import annotations

import heapq
import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeAlias

from privface.errors import OutputError, ProtectError
from privface.options import ProtectOptions
from privface.protect.inputs import InputFile
from privface.protect.journal import Entry, Journal
from privface.protect.manifest import (
    CSV_NAME,
    MANIFEST_NAME,
    STATUSES,
    ManifestRow,
    manifest_order,
    write_manifest,
)
from privface.protect.output import Output, unlink
from privface.protect.templates import TEMPLATES_NAMES, MatcherTemplates, write_templates
from privface.protect.work import Known, Loaded, Worker

logger = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[int, int], None]
Finished: TypeAlias = Loaded | Future[Loaded]
Commit: TypeAlias = Callable[[Iterable[Finished]], bool]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Engine(Protocol):
    """Has a worker do a job: in threads here, or on a cluster."""

    def run(self, worker: Worker, items: Sequence[InputFile], known: Known, commit: Commit) -> None:
        """Protect every item, in any order.

        Args:
            worker: Protects one file.
            items: The files.
            known: Says what an earlier run noted of a file.
            commit: Notes a batch, waiting for its writes; after a true answer no more files are begun.

        Raises:
            OutputError: If an output cannot be written.
            ProtectError: If ``commit`` refuses a row.
        """


class Ledger:
    """What is finished of ``total`` files: the journal while the job runs, the manifest at its end.

    Few rows are in memory: they are read back from the journal when the manifest is written. ``progress`` is told
    (finished, total) after each batch. An output that cannot be written is an ``OutputError`` in every method.

    Attributes:
        stopped: The signal that asked the job to stop, if any.
        reused: Files taken over from an earlier run.
    """

    def __init__(
        self,
        journal: Journal,
        output: Output,
        *,
        options: ProtectOptions,
        total: int,
        progress: Progress | None,
    ) -> None:
        self._journal = journal
        self._output = output
        self._options = options
        self._total = total
        self._progress = progress
        self._known = journal.index()
        self._places: dict[str, int] = {}
        self._refused: list[ManifestRow] = []
        self._counts: Counter[str] = Counter()
        self.stopped: int | None = None
        self.reused = 0

    @property
    def done(self) -> int:
        """Files that are finished."""
        return len(self._places) + len(self._refused)

    @property
    def counts(self) -> Mapping[str, int]:
        """Files by status, all statuses present."""
        return {status: self._counts[status] for status in STATUSES}

    def before(self, item: InputFile) -> Entry | None:
        """What an earlier run noted of a file; from any thread."""
        place = self._known.get(item.key)
        return None if place is None or item.fault is not None else self._journal.read(place)

    @contextmanager
    def opened(self, items: Sequence[InputFile], templates: MatcherTemplates | None) -> Iterator[None]:
        """While the items are worked on: whatever stops that, the manifest says what is finished.

        What an earlier run said of the output is deleted first: beside images that it does not describe it would mislead.
        """
        gone = len(self._known.keys() - {item.key for item in items})
        if gone:
            logger.warning(
                "%d outputs of an earlier run have no input any more; they are left as they are.", gone
            )
        for name in (MANIFEST_NAME, CSV_NAME, *TEMPLATES_NAMES):
            unlink(self._output.root / name)
        self._output.begin(items)
        try:
            with self._signals_deferred():
                try:
                    yield
                finally:
                    self._output.close()
        except BaseException as error:
            with suppress(OutputError):  # a full disk has no room for a manifest either; the journal knows
                self.write_results(templates)
            if isinstance(error, OutputError):
                message = f"{error.message} {self.done:,} of {self._total:,} files are finished."
                hint = f"{error.hint or ''} Then run the same command again; it goes on from there.".strip()
                raise OutputError(message, hint=hint) from error
            raise
        self.write_results(templates)

    def commit(self, finished: Iterable[Finished]) -> bool:
        """Wait for a batch's writes, clear outdated outputs, note the batch in the journal; gives whether the job is to stop.

        Raises:
            OutputError: If a write failed; the others of the batch are noted first.
            ProtectError: If a face is demanded and a photo has none.
        """
        entries: list[Entry] = []
        error: OutputError | ProtectError | None = None
        seen = 0
        for one in finished:
            try:
                loaded = one.result() if isinstance(one, Future) else one
                rows = loaded.rows
                earlier = None if loaded.reused else self.before(loaded.item)
                self._output.settle(
                    loaded.item,
                    written=len(rows) if loaded.row.status == "ok" else 0,
                    before=0 if earlier is None else len(earlier.rows),
                )
            except OutputError as caught:
                error = error or caught
                continue
            row = loaded.row
            if row.status == "no_face" and self._options.on_no_face == "fail":
                hint = "Skip such photos with on_no_face='skip'."
                error = error or ProtectError(f"{loaded.item.key}: no face was found.", hint=hint)
            seen += 1
            self._counts[row.status] += 1
            if loaded.item.fault is not None:
                self._refused.append(row)
            elif loaded.reused:
                self._places[row.input] = self._known[row.input]
                self.reused += 1
            else:
                entries.append(Entry(loaded.item.relative, row, loaded.template, loaded.further))
        places = self._journal.append(entries)
        self._places.update((e.row.input, place) for e, place in zip(entries, places, strict=True))
        if error is not None:
            raise error
        if seen and self._progress is not None:
            self._progress(self.done, self._total)
        return self.stopped is not None

    def write_results(self, templates: MatcherTemplates | None) -> Path:
        """Write manifest and templates; gives the manifest's path."""
        rows = heapq.merge(
            (row for entry in self._entries() for row in entry.rows),
            sorted(self._refused, key=manifest_order),
            key=manifest_order,
        )
        shown = (row if self._options.times else replace(row, finished=None) for row in rows)
        path = write_manifest(
            self._output.root, shown, complete=self.done == self._total, as_csv=self._options.as_csv
        )
        if templates is not None:
            made = ((e.row.input, e.template) for e in self._entries() if e.template is not None)
            write_templates(self._output.root, made, maker=templates)
        return path

    def _entries(self) -> Iterator[Entry]:
        return (self._journal.read(self._places[key]) for key in sorted(self._places))

    @contextmanager
    def _signals_deferred(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a request to stop after the batch in flight."""
        if threading.current_thread() is not threading.main_thread():  # only it may handle signals
            yield
            return
        previous = {number: signal.getsignal(number) for number in _SIGNALS}

        def restore() -> None:
            for number, handler in previous.items():
                signal.signal(number, handler)

        def request_stop(number: int, frame: FrameType | None) -> None:
            self.stopped = number
            restore()
            logger.warning("Asked to stop: finishing the batch in flight.")

        for number in _SIGNALS:
            signal.signal(number, request_stop)
        try:
            yield
        finally:
            restore()

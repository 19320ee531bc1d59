"""The engine for a cluster: Ray Data (the extra ``ray``); the only file that imports it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import Any

from privface.errors import ConfigError, MissingExtraError, OutputError, PrivfaceError
from privface.protect.inputs import InputFile
from privface.protect.job import Book, Finished
from privface.protect.journal import Entry, as_record, from_record
from privface.protect.local import LocalEngine
from privface.protect.manifest import ManifestRow
from privface.protect.output import Output, OutputTree
from privface.protect.work import Loaded, Worker
from privface.threads import set_thread_count

logger = logging.getLogger(__name__)


class RayEngine:
    """Runs a job on Ray Data: a pool of actors that each load the model once, fed and drained as a stream.

    Actors read photos themselves and write the tree's files themselves, so inputs and output must be reachable under the
    same name from every node; shards are written by the process that started the job. No original passes through
    Ray's object store, which may spill to disk. A file whose computation fails in an unforeseen way becomes a row
    of the manifest; an actor that dies is replaced and its files are done again.

    Args:
        actors: Actors; by default as many as the cluster has room for.
        cpus: CPUs an actor, also its torch threads.
        gpus: GPUs an actor; the protector itself decides whether it uses one.
        chunk: Files an actor is given at a time.
        address: Of a running cluster; by default the one that the environment names, else one on this machine.

    Raises:
        ConfigError: If a number is out of range.
        MissingExtraError: If Ray is not installed.
    """

    def __init__(
        self,
        *,
        actors: int | None = None,
        cpus: int = 1,
        gpus: float = 0,
        chunk: int = 128,
        address: str | None = None,
    ) -> None:
        for name, value, least in (
            ("actors", 1 if actors is None else actors, 1),
            ("cpus", cpus, 1),
            ("gpus", gpus, 0),
            ("chunk", chunk, 1),
        ):
            if value < least:
                raise ConfigError(
                    f"{name} is {value}; it must be at least {least}.", hint=f"Give {name} >= {least}."
                )
        self._ray = _require_ray()
        self._actors, self._cpus, self._gpus, self._chunk, self._address = actors, cpus, gpus, chunk, address

    def run(self, worker: Worker, items: Sequence[InputFile], ledger: Book) -> None:
        """See :class:`~privface.protect.job.Engine`.

        Raises:
            PrivfaceError: What an actor could not go on after, such as a full disk.
        """
        ray = self._ray
        ours = not ray.is_initialized()
        if ours:
            ray.init(
                address=self._address,
                include_dashboard=False if self._address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        try:
            self._stream(worker, items, ledger)
        finally:
            if ours:
                ray.shutdown()

    def _stream(self, worker: Worker, items: Sequence[InputFile], ledger: Book) -> None:
        from ray.data import ActorPoolStrategy, DataContext, from_items  # noqa: PLC0415

        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        room = max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._cpus)
        actors = self._actors or room
        by_key: dict[str, InputFile] = {}
        waiting: list[dict[str, str]] = []
        for item in items:
            if item.fault is not None:  # of two items with one key, at most one may be read
                ledger.commit([worker.load(item)])
                continue
            by_key[item.key] = item
            waiting.append({"order": _order(item, worker.output, ledger.before(item))})
        if not waiting:
            return
        remote = self._ray.put(_portable(worker))
        results = from_items(waiting, override_num_blocks=-(-len(waiting) // self._chunk)).map_batches(
            _Actor,
            fn_constructor_args=(remote, self._cpus),
            batch_size=self._chunk,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=self._cpus,
            num_gpus=self._gpus or None,
        )
        batch: Any
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            answers = [_Answer(**json.loads(text)) for text in batch["answer"].to_pylist()]
            errors = [answer.error for answer in answers if answer.error]
            data = batch["data"].to_pylist()
            finished = []
            for answer, encoded in zip(answers, data, strict=True):
                item = by_key[answer.key]
                done = from_record(answer.entry)
                if done is None:
                    continue
                start = 0
                for number, row in enumerate(done.rows if encoded else (), 1):
                    end = start + (row.output_bytes or 0)
                    worker.output.write(item.face(number), encoded[start:end])
                    start = end
                finished.append(
                    Loaded(item, done.row, reused=answer.reused, template=done.template, further=done.further)
                )
            ledger.commit(finished)
            if errors:
                raise OutputError(errors[0], hint="Cure it on that node.")
            if ledger.stopped:
                return


def _require_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray  # noqa: PLC0415 - optional and heavy
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs {error.name}, which is not installed.",
            hint="Install the extra: pip install 'privface[ray]'.",
        ) from error
    return ray


@dataclass(frozen=True)
class _Answer:
    """What an actor says of one file: its journal entry, or the error after which it could not go on."""

    key: str
    entry: dict[str, Any] | None
    reused: bool = False
    error: str | None = None


def _order(item: InputFile, output: Output, before: Entry | None) -> str:
    """One file as JSON, which keeps names that are not UTF-8, with what an earlier run left of it."""
    if before is not None and not isinstance(output, OutputTree):  # only we can look into a shard
        written = before.rows if before.row.status == "ok" else ()
        same = all(output.digest(item.face(k)) == row.output_sha256 for k, row in enumerate(written, 1))
        before = before if same else None
    lead = output.place(item).removesuffix(item.output)
    return json.dumps({"item": asdict(item), "lead": lead, "before": as_record(before) if before else None})


def _portable(worker: Worker) -> Worker:
    """The worker for actors: with an output that they can write or hand back."""
    output = worker.output
    return worker if isinstance(output, OutputTree) else replace(worker, output=_Handed(output.root))


class _Handed(Output):
    """Keeps what is written, for the process that started the job."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.leads: dict[str, str] = {}
        self.digests: dict[str, str | None] = {}
        self.data: dict[str, bytes] = {}

    def place(self, item: InputFile) -> str:
        return self.leads[item.key] + item.output

    def write(self, item: InputFile, data: bytes) -> None:
        self.data[self.place(item)] = data

    def digest(self, item: InputFile) -> str | None:
        return self.digests.get(self.place(item))  # found true before the order was sent

    def settle(self, item: InputFile, *, written: int, before: int) -> None:
        """The ledger of the process that started the job does it."""

    def clear(self, paths: Iterable[str]) -> None:
        """As above."""


class _Notes:
    """The book of one chunk."""

    stopped = None

    def __init__(self, before: Mapping[str, Entry]) -> None:
        self._before = before
        self.finished: dict[str, Loaded] = {}
        self.error: PrivfaceError | None = None

    def before(self, item: InputFile) -> Entry | None:
        return self._before.get(item.key)

    def commit(self, finished: Iterable[Finished]) -> None:
        for one in finished:
            try:
                loaded = one.result() if isinstance(one, Future) else one
            except PrivfaceError as error:
                self.error = self.error or error
                continue
            self.finished[loaded.item.key] = loaded
        if self.error is not None:
            raise self.error


class _Actor:
    """Protects chunks of files with one copy of the models."""

    def __init__(self, worker: Any, threads: int) -> None:
        set_thread_count(threads)
        self._worker: Worker = _require_ray().get(worker)  # one copy a node, not one in every call

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
        orders = [json.loads(text) for text in batch["order"]]
        items = [InputFile(**order["item"]) for order in orders]
        found = ((order["item"]["key"], from_record(order["before"])) for order in orders)
        before = {key: entry for key, entry in found if entry is not None}
        output = self._worker.output
        if isinstance(output, _Handed):
            output.leads = {order["item"]["key"]: order["lead"] for order in orders}
            rows = (row for entry in before.values() for row in entry.rows)
            output.digests = {row.output: row.output_sha256 for row in rows if row.output is not None}
            output.data = {}
        notes = _Notes(before)
        fatal, reason = None, ""
        try:
            LocalEngine().run(self._worker, items, notes)
        except (
            PrivfaceError
        ) as error:  # a full disk, a model of the wrong shape: the next file would meet it, too
            fatal = error.message
        except Exception as error:  # one chunk's misfortune is not the job's
            reason = f"unexpected {type(error).__name__}: {error}"
        done = [notes.finished.get(item.key) for item in items]
        answers = [
            _answer(item, one, self._worker, fatal, reason) for item, one in zip(items, done, strict=True)
        ]
        held = output.data if isinstance(output, _Handed) else {}
        return {
            "answer": [json.dumps(asdict(answer)) for answer in answers],
            "data": [
                b"".join(held.get(str(row.output), b"") for row in (one.rows if one else ())) for one in done
            ],
        }


def _answer(item: InputFile, done: Loaded | None, worker: Worker, fatal: str | None, reason: str) -> _Answer:
    if done is None and fatal is not None:
        return _Answer(item.key, None, error=fatal)
    if done is None:
        model = worker.protector.fingerprint
        done = Loaded(item, ManifestRow(input=item.key, status="failed", model=model, reason=reason))
    entry = Entry(item.relative, done.row, done.template, done.further)
    return _Answer(item.key, as_record(entry), done.reused)

"""The engine for a cluster: Ray Data (the extra ``ray``); the only file that imports it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from privface.errors import ConfigError, MissingExtraError, OutputError, PrivfaceError
from privface.protect.inputs import InputFile
from privface.protect.job import Commit, Finished
from privface.protect.journal import Entry
from privface.protect.local import LocalEngine
from privface.protect.manifest import ManifestRow
from privface.protect.output import Output, OutputTree
from privface.protect.work import Known, Loaded, Worker
from privface.threads import set_thread_count

logger = logging.getLogger(__name__)


class RayEngine:
    """Runs a job on Ray Data, on the cluster that ``RAY_ADDRESS`` names, else on this machine: a pool of actors that each load the model once, fed and drained as a stream.

    Actors read photos themselves and write the tree's files themselves, so inputs and output must be reachable under the
    same name from every node; shards are written by the process that started the job. No original passes through
    Ray's object store, which may spill to disk. A file whose computation fails in an unforeseen way becomes a row
    of the manifest; an actor that dies is replaced and its files are done again.

    Args:
        actors: Actors; by default as many as the cluster has room for.
        cpus: CPUs an actor, also its torch threads.
        gpus: GPUs an actor; the protector itself decides whether it uses one.
        chunk: Files an actor is given at a time.

    Raises:
        ConfigError: If a number is out of range.
        MissingExtraError: If Ray is not installed.
    """

    def __init__(
        self, *, actors: int | None = None, cpus: int = 1, gpus: float = 0, chunk: int = 128
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
        self._actors, self._cpus, self._gpus, self._chunk = actors, cpus, gpus, chunk

    def run(self, worker: Worker, items: Sequence[InputFile], known: Known, commit: Commit) -> None:
        """See :class:`~privface.protect.job.Engine`.

        Raises:
            PrivfaceError: What an actor could not go on after, such as a full disk.
        """
        ray = self._ray
        ours = not ray.is_initialized()
        if ours:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            self._stream(worker, items, known, commit)
        finally:
            if ours:
                ray.shutdown()

    def _stream(self, worker: Worker, items: Sequence[InputFile], known: Known, commit: Commit) -> None:
        from ray.data import ActorPoolStrategy, DataContext, from_items  # noqa: PLC0415

        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        pickle = self._ray.cloudpickle
        room = max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._cpus)
        # actors write the tree; only this process can look into shards and write them
        shards = None if worker.output is None or isinstance(worker.output, OutputTree) else worker.output
        waiting: list[dict[str, bytes]] = []
        for item in items:
            if item.fault is not None:  # of two items with one key, at most one may be read
                commit([worker.load(item)])
                continue
            before = known(item)
            if shards is not None and before is not None and before.row.status == "ok":
                before = before if shards.holds(item, before.rows) else None
            waiting.append({"order": pickle.dumps((item, before))})
        if not waiting:
            return
        remote = self._ray.put(worker if shards is None else replace(worker, output=None))
        results = from_items(waiting, override_num_blocks=-(-len(waiting) // self._chunk)).map_batches(
            _Actor,
            fn_constructor_args=(remote, self._cpus),
            batch_size=self._chunk,
            compute=ActorPoolStrategy(size=self._actors or room),
            num_cpus=self._cpus,
            num_gpus=self._gpus or None,
        )
        batch: Any
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            finished: list[Loaded] = []
            error = None
            for answer in map(pickle.loads, batch["answer"].to_pylist()):
                if isinstance(answer, str):
                    error = error or answer
                    continue
                finished.append(answer if shards is None else _stored(answer, shards))
            stop = commit(finished)
            if error is not None:
                raise OutputError(error, hint="Cure it on that node.")
            if stop:
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


def _stored(answer: Loaded, shards: Output) -> Loaded:
    """A finished file, written into shards and named in its rows as it is there."""
    if not answer.encoded:
        return answer
    faces = [answer.item.face(number) for number in range(1, len(answer.encoded) + 1)]
    for face, data in zip(faces, answer.encoded, strict=True):
        shards.write(face, data)
    row, *further = (replace(r, output=shards.place(f)) for r, f in zip(answer.rows, faces, strict=True))
    return replace(answer, row=row, further=tuple(further), encoded=())


class _Actor:
    """Protects chunks of files with one copy of the models."""

    def __init__(self, worker: Any, threads: int) -> None:
        set_thread_count(threads)
        ray = _require_ray()
        self._pickle = ray.cloudpickle
        self._worker: Worker = ray.get(worker)  # one copy a node, not one in every call

    def __call__(self, batch: Mapping[str, Sequence[bytes]]) -> dict[str, list[bytes]]:
        """For each order its finished file, or the message of the error after which no file can be done."""
        orders = [self._pickle.loads(order) for order in batch["order"]]
        before: dict[str, Entry | None] = {item.key: entry for item, entry in orders}
        done: dict[str, Loaded] = {}
        failed: list[PrivfaceError] = []

        def commit(finished: Iterable[Finished]) -> bool:
            for one in finished:
                try:
                    loaded = one.result() if isinstance(one, Future) else one
                    done[loaded.item.key] = loaded
                except PrivfaceError as error:
                    failed.append(error)
            if failed:
                raise failed[0]
            return False

        fatal = reason = ""
        try:
            LocalEngine().run(self._worker, [item for item, _ in orders], lambda i: before[i.key], commit)
        except PrivfaceError as error:
            fatal = error.message  # a full disk, a model of the wrong shape: the next file would meet it, too
        except Exception as error:  # one chunk's misfortune is not the job's
            reason = f"unexpected {type(error).__name__}: {error}"
        row = ManifestRow(input="", status="failed", model=self._worker.protector.fingerprint, reason=reason)
        answers = (
            done.get(item.key) or fatal or Loaded(item, replace(row, input=item.key)) for item, _ in orders
        )
        return {"answer": [self._pickle.dumps(answer) for answer in answers]}

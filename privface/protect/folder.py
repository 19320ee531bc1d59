"""Protect a set of photos: same tree or shards, same names, a manifest row for every file, resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from privface.errors import ConfigError, DataError, OutputError
from privface.faces.detect import FaceDetector, MTCNNDetector
from privface.options import DEFAULT_OPTIONS, ProtectOptions
from privface.protect.inputs import InputFile, Source, with_format, with_possible_names, with_room_for_faces
from privface.protect.job import Engine, Ledger, Progress
from privface.protect.journal import Journal
from privface.protect.local import LocalEngine
from privface.protect.manifest import manifest_of
from privface.protect.output import Output, OutputTree, is_fresh, locked, remove_leftovers, require_apart
from privface.protect.places import as_local, is_url
from privface.protect.protector import ImageProtector
from privface.protect.shards import SHARD_SUFFIXES, ShardedOutput
from privface.protect.sources import open_photos
from privface.protect.templates import MatcherTemplates
from privface.protect.work import PASTED, Worker

logger = logging.getLogger(__name__)


class StoppedError(KeyboardInterrupt):
    """A job that a signal stopped; its manifest is written, and the same call goes on where it ended.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


@dataclass(frozen=True)
class ProtectSummary:
    """Outcome of a protection job.

    Attributes:
        counts: Input files by status, all statuses present.
        manifest: The manifest that says what became of each file.
        images_per_second: Rate over the files that this run worked on; 0 where it had none.
        reused: Files taken over from an earlier run into the same output.
    """

    counts: Mapping[str, int]
    manifest: Path
    images_per_second: float
    reused: int = 0


def protect_folder(
    source: str | Path | Source,
    output: str | Path,
    protector: ImageProtector,
    options: ProtectOptions = DEFAULT_OPTIONS,
    *,
    detector: FaceDetector | None = None,
    templates: MatcherTemplates | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> ProtectSummary:
    """Protect every image of ``source`` into the same tree below ``output``.

    What is written lies under the input's name and in its format, without any metadata. Where faces are looked for, every one
    that is found is written alone, protected, aligned, at ``protector.size``: the most central one under the photo's name, the
    others, from left to right, as ``NAME.face2.jpg`` and so on, each with a manifest row of its own. ``options`` say what else
    is possible.

    An original never passes through: a file that cannot be read, shows no face, or any of whose protected faces
    is undefined, out of range or equal to the original gets a manifest row with the reason and no output. What a detector
    overlooks, and hair, clothes and background, stay as they are in a pasted photo and give gender away.

    Run again with the same arguments after an interruption, it goes on where it stopped and gives the
    same bytes as an uninterrupted run; files are done again where input or output have changed.

    Args:
        source: Folder, ``.txt`` list, ``.zip``, ``.tar`` shards or ``.parquet`` tables, local or as a URL that fsspec
            knows (:func:`~privface.protect.sources.open_photos`); never written to. Or photos that the caller has opened,
            who then keeps ``output`` apart from them.
        output: Local folder for protected images and manifest; must not overlap ``source``.
        protector: Model or baseline.
        options: How, each at its default where it is not said.
        detector: Finds faces; MTCNN by default.
        templates: Also write ``embeddings.parquet``, a template of each photo's central face, under the manifest's input keys.
        engine: Computes the job; by default threads of this process.
        progress: Called with (finished, total) after each batch.

    Returns:
        Counts, manifest path and rate.

    Raises:
        ConfigError: If ``output`` is a URL, or the image format is not written.
        DataError: If ``source`` cannot be read or holds no image.
        OutputError: If ``output`` overlaps ``source``, is in use, cannot be written, or holds other data.
        ModelError: If the protector's answer has the wrong shape.
        ProtectError: If a photo shows no face and ``options`` say to fail then.
        StoppedError: (a ``KeyboardInterrupt``) After SIGINT or SIGTERM, once the batch in flight and the manifest are
            written. A second signal stops at once; the next run repairs what that leaves.
    """
    if is_url(output):
        raise ConfigError(
            f"The output {output} is a URL; outputs are local folders.",
            hint="Locks and atomic renames need one. Copy the finished folder, or its shards, afterwards.",
        )
    output = Path(output).absolute()  # workers elsewhere start in other folders
    if not isinstance(source, Source):
        source = as_local(source)
    if not isinstance(source, Source) and not is_url(source):
        source = Path(source).absolute()
        require_apart(source, output)
    photos = source if isinstance(source, Source) else open_photos(source, videos=options.videos)
    try:
        items = with_format(photos.items(), options.image_format)
        if not items:
            raise DataError(f"{source} holds no image.", hint="Hidden files and other suffixes are left out.")
        _require_outside(photos, output)
        if options.faces == "aligned":
            detector = None
        else:
            detector = detector or MTCNNDetector()
            items = items if options.paste else with_room_for_faces(items)
        items = with_possible_names(items)
        settings = {
            **options.output_settings(),
            "model": protector.fingerprint,
            "size": protector.size,
            "detector": _fingerprint(detector),
            "templates": _fingerprint(templates),
        }
        with locked(output):
            remove_leftovers(output)
            target = _output(output, options.layout, shard_size=options.shard_size)
            journal = _open_journal(target, settings, overwrite=options.overwrite)
            if options.paste:
                logger.warning("In pasted photos, %s.", PASTED)
            ledger = Ledger(journal, target, options=options, total=len(items), progress=progress)
            options = replace(options, batch_size=min(options.batch_size, len(items)))
            worker = Worker(photos, target, protector, options, detector, templates)
            start = time.perf_counter()
            try:
                with ledger.opened(items, templates):
                    (engine or LocalEngine()).run(worker, items, ledger.before, ledger.commit)
            finally:
                journal.close()
                remove_leftovers(output)  # of killed helpers
    finally:
        photos.close()
    if ledger.stopped is not None:
        raise StoppedError(ledger.stopped)
    rate = (len(items) - ledger.reused) / (time.perf_counter() - start)
    return ProtectSummary(ledger.counts, manifest_of(output), rate, ledger.reused)


def _require_outside(photos: Source, output: Path) -> None:
    """Refuse an output that holds a photo that is read, such as one of a list."""
    root = output.resolve()
    for path in photos.originals():
        if root in path.parents:
            raise OutputError(
                f"The output {output} holds the input {path}.",
                hint="Choose an output folder without originals: they are never overwritten.",
            )


def _fingerprint(part: object | None) -> str | None:
    """What a part of a job is, for its journal; a detector need not have one."""
    return None if part is None else str(getattr(part, "fingerprint", type(part).__name__))


def _output(root: Path, layout: object, *, shard_size: int) -> Output:
    if layout in SHARD_SUFFIXES:
        return ShardedOutput(root, str(layout), size=shard_size)
    return OutputTree(root)


def _open_journal(output: Output, settings: Mapping[str, object], *, overwrite: bool) -> Journal:
    """The journal to go on with, or a new one.

    Raises:
        OutputError: If the folder holds something else, or the work of other settings.
    """
    root = output.root
    journal = Journal(root)
    if not journal.exists():
        if not overwrite and not is_fresh(root):
            raise OutputError(
                f"{root} is not empty and was not written by privface.",
                hint="Choose another output folder, or overwrite this one.",
            )
        journal.start(settings)
        return journal
    try:
        before = journal.settings()
    except OutputError:
        if not overwrite:
            raise
        journal.start(settings)  # what it noted is not known
        return journal
    usual = DEFAULT_OPTIONS.output_settings()  # an option that came later had its default before
    before |= {name: usual[name] for name in settings.keys() & usual.keys() - before.keys()}
    changed = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
    if overwrite and changed:
        former = _output(root, before.get("layout"), shard_size=1)
        entries = map(journal.read, journal.index().values())
        files = ((InputFile("", e.path), len(e.rows)) for e in entries)
        former.clear(file.face(k).relative for file, count in files for k in range(1, count + 1))
        journal.start(settings)
        return journal
    if changed:
        changes = "; ".join(f"{k} {before.get(k)!r}, now {settings.get(k)!r}" for k in changed)
        raise OutputError(
            f"{root} was written with other settings: {changes}.",
            hint="Choose another output folder, or overwrite this one.",
        )
    return journal

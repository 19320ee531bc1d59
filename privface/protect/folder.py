"""Protect a set of photos: same tree or shards, same names, a manifest row for every file, resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from privface.errors import ConfigError, DataError, OutputError
from privface.faces.detect import FaceDetector, MTCNNDetector
from privface.images import MAX_PIXELS
from privface.protect.inputs import InputFile, Source, with_format, with_room_for_faces
from privface.protect.job import Engine, Ledger, Progress, Task, TemplateSink
from privface.protect.journal import Journal
from privface.protect.local import LocalEngine
from privface.protect.output import Output, OutputTree, is_fresh, locked, remove_leftovers, require_apart
from privface.protect.places import is_url
from privface.protect.protector import ImageProtector
from privface.protect.shards import ParquetShards, TarShards
from privface.protect.sources import open_photos
from privface.protect.templates import TemplateMaker
from privface.protect.work import PASTED, Work

logger = logging.getLogger(__name__)

FaceMode: TypeAlias = Literal["auto", "aligned", "detect"]
Layout: TypeAlias = Literal["tree", "webdataset", "parquet"]


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
    *,
    faces: FaceMode = "auto",
    paste: bool = False,
    detector: FaceDetector | None = None,
    batch_size: int = 32,
    workers: int = 2,
    quality: int = 95,
    image_format: str | None = None,
    layout: Layout = "tree",
    shard_size: int = 1000,
    max_pixels: int = MAX_PIXELS,
    max_faces: int | None = None,
    videos: bool = False,
    sound: bool = True,
    overwrite: bool = False,
    on_no_face: Literal["skip", "fail"] = "skip",
    as_csv: bool = False,
    times: bool = False,
    templates: TemplateMaker | None = None,
    store: TemplateSink | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> ProtectSummary:
    """Protect every image of ``source`` into the same tree below ``output``.

    What is written lies under the input's name and in its format, without any metadata. In ``"detect"`` mode every face that
    is found is written alone, protected, aligned, at ``protector.size``: the most central one under the photo's name, the
    others, from left to right, as ``NAME.face2.jpg`` and so on, each with a manifest row of its own. With ``paste`` they are
    pasted back into their photo under a soft edge instead; where the protector answers without colour, the photo goes without.
    In ``"aligned"`` mode the inputs are face crops already, and no face is looked for. ``"auto"`` takes photos of exactly
    112 x 112 (the ArcFace frame) or ``protector.size`` for such crops and looks for faces in all others.

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
        faces: ``"auto"``, ``"aligned"`` or ``"detect"``.
        paste: Where faces are looked for, paste them back into their photo; not in ``"aligned"`` mode.
        detector: Finds faces; MTCNN by default.
        batch_size: Images per call of the protector.
        workers: Threads that decode ahead of the model and encode behind it.
        quality: JPEG and WebP quality, 1 to 100.
        image_format: Write all outputs as this, ``"jpg"``, ``"png"`` or ``"webp"``; by default each in its input's format.
        layout: ``"tree"`` writes a file for each photo; ``"webdataset"`` tar shards; ``"parquet"`` tables with ``file``
            and ``image``.
        shard_size: Inputs a shard; a shard is held in memory while it fills.
        max_pixels: Larger inputs are not decoded.
        max_faces: Photos in which more faces are found are refused (``many_faces``); not in ``"aligned"`` mode.
        videos: Protect video files of folders and lists, too (extra ``video``); only with ``paste``.
        sound: Keep the sound of videos; voices tell gender, too.
        overwrite: Discard what an earlier job with other settings wrote, instead of refusing.
        on_no_face: ``"fail"`` stops at the first photo without a face.
        as_csv: Also write ``manifest.csv``.
        times: Note in the manifest when each file was finished; it then differs from run to run.
        templates: Also write ``embeddings.parquet``, a template of each photo's central face, under the manifest's input keys.
        store: Takes the templates, too, once the job is through.
        engine: Computes the job; by default threads of this process (``workers``).
        progress: Called with (finished, total) after each batch.

    Returns:
        Counts, manifest path and rate.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If ``source`` cannot be read or holds no image.
        OutputError: If ``output`` overlaps ``source``, is in use, cannot be written, or holds other data.
        ModelError: If the protector's answer has the wrong shape.
        ProtectError: If ``on_no_face`` is ``"fail"`` and a photo shows no face.
        StoppedError: (a ``KeyboardInterrupt``) After SIGINT or SIGTERM, once the batch in flight and the manifest are
            written. A second signal stops at once; the next run repairs what that leaves.
    """
    work = Work(
        paste=paste,
        batch_size=batch_size,
        quality=quality,
        max_pixels=max_pixels,
        max_faces=max_faces,
        sound=sound,
        sized_crops=faces == "auto",
    )
    _check_settings(work, faces=faces, layout=layout, shard_size=shard_size, videos=videos)
    engine = engine or LocalEngine(workers=workers)
    if is_url(output):
        raise ConfigError(
            f"The output {output} is a URL; outputs are local folders.",
            hint="Locks and atomic renames need one. Copy the finished folder, or its shards, afterwards.",
        )
    output = Path(output).absolute()  # workers elsewhere start in other folders
    if not isinstance(source, Source) and not is_url(source):
        source = Path(source).absolute()
        require_apart(source, output)
    photos = source if isinstance(source, Source) else open_photos(source, videos=videos)
    try:
        items = with_format(photos.items(), image_format)
        if not items:
            raise DataError(f"{source} holds no image.", hint="Hidden files and other suffixes are left out.")
        searched = faces != "aligned"
        if searched and not paste:
            items = with_room_for_faces(items)
        if searched and detector is None:
            detector = MTCNNDetector()
        # What changes an output's bytes; what is not used is left out, so that a new option disturbs no old folder.
        settings = {
            "model": protector.fingerprint,
            "size": protector.size,
            "quality": quality,
            **({} if image_format is None else {"format": image_format.lower().lstrip(".")}),
            "faces": faces,
            **({"paste": paste} if searched else {}),
            "detector": _detector_name(detector) if searched else None,
            **({} if max_faces is None else {"max_faces": max_faces}),
            **({} if sound else {"sound": False}),
            **({} if layout == "tree" else {"layout": layout, "shard_size": shard_size}),
            **({} if templates is None else {"templates": templates.fingerprint}),
        }
        with locked(output):
            remove_leftovers(output)
            target = _output(output, layout=layout, shard_size=shard_size)
            journal = _open_journal(target, settings, overwrite=overwrite)
            if paste:
                logger.warning("In pasted photos, %s.", PASTED)
            ledger = Ledger(
                journal,
                target,
                total=len(items),
                fail_without_face=on_no_face == "fail",
                progress=progress,
            )
            task = Task(
                items=items,
                photos=photos,
                output=target,
                protector=protector,
                detector=detector if searched else None,
                work=replace(work, batch_size=min(batch_size, len(items))),
                templates=templates,
            )
            try:
                return _run(engine, task, ledger, as_csv=as_csv, times=times, store=store)
            finally:
                journal.close()
                remove_leftovers(output)  # of killed helpers
    finally:
        photos.close()


def _run(
    engine: Engine, task: Task, ledger: Ledger, *, as_csv: bool, times: bool, store: TemplateSink | None
) -> ProtectSummary:
    """Work through the items; whatever stops it, the manifest says what is finished."""
    ledger.warn_of_orphans(task.items)
    ledger.clear_results()
    task.output.begin(task.items)
    start = time.perf_counter()
    whole = len(task.items)
    try:
        with ledger.signals_deferred():
            try:
                engine.run(task, ledger)
            finally:
                task.output.close()
    except BaseException as error:
        with suppress(
            OutputError
        ):  # on a full disk there is no room for a manifest either; the journal knows
            ledger.write_results(as_csv=as_csv, times=times, templates=task.templates, store=None)
        if isinstance(error, OutputError):
            message = f"{error.message} {ledger.done:,} of {whole:,} files are finished."
            hint = f"{error.hint or ''} Then run the same command again; it goes on from there.".strip()
            raise OutputError(message, hint=hint) from error
        raise
    through = ledger.done == whole
    manifest = ledger.write_results(
        as_csv=as_csv, times=times, templates=task.templates, store=store if through else None
    )
    if ledger.stopped is not None:
        raise StoppedError(ledger.stopped)
    rate = (whole - ledger.reused) / (time.perf_counter() - start)
    return ProtectSummary(ledger.counts, manifest, rate, ledger.reused)


def _check_settings(work: Work, *, faces: str, layout: str, shard_size: int, videos: bool) -> None:
    if faces not in {"auto", "aligned", "detect"}:
        raise ConfigError(f"faces is {faces!r}.", hint="Choose 'auto', 'aligned' or 'detect'.")
    if layout not in {"tree", "webdataset", "parquet"}:
        raise ConfigError(f"layout is {layout!r}.", hint="Choose 'tree', 'webdataset' or 'parquet'.")
    least: dict[str, int | None] = {
        "batch_size": work.batch_size,
        "max_pixels": work.max_pixels,
        "max_faces": work.max_faces,
        "shard_size": shard_size,
    }
    for name, value in least.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.", hint=f"Give {name} >= 1.")
    if not 1 <= work.quality <= 100:
        raise ConfigError(
            f"quality is {work.quality}; it must be from 1 to 100.", hint="95 is a good choice."
        )
    if faces == "aligned" and (work.paste or work.max_faces is not None):
        raise ConfigError(
            "Pasting and a limit of faces need a detector, and the faces are said to be aligned.",
            hint="Use faces='auto' or 'detect'.",
        )
    if videos and not work.paste:
        raise ConfigError(
            "A video is written whole, its faces pasted back into every frame, and pasting is not asked for.",
            hint="Add --paste (paste=True), or leave videos out.",
        )


def _output(root: Path, *, layout: Layout, shard_size: int) -> Output:
    if layout == "webdataset":
        return TarShards(root, size=shard_size)
    if layout == "parquet":
        return ParquetShards(root, size=shard_size)
    return OutputTree(root)


def _detector_name(detector: FaceDetector | None) -> str:
    name = getattr(detector, "fingerprint", None)
    return name if isinstance(name, str) else type(detector).__name__


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
    before = journal.settings()
    if overwrite:
        size, layout = before.get("shard_size"), before.get("layout")
        former: Output = OutputTree(root)
        if layout in {"webdataset", "parquet"} and isinstance(size, int):
            former = _output(root, layout=layout, shard_size=size)
        entries = map(journal.read, journal.index().values())
        files = ((InputFile("", e.path, ""), len(e.rows)) for e in entries)
        former.clear(file.face(k).relative for file, count in files for k in range(1, count + 1))
        journal.start(settings)
        return journal
    changed = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
    if changed:
        changes = "; ".join(f"{k} {before.get(k)!r}, now {settings.get(k)!r}" for k in changed)
        raise OutputError(
            f"{root} was written with other settings: {changes}.",
            hint="Choose another output folder, or overwrite this one.",
        )
    return journal

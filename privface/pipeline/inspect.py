"""Auditing folders of photos, and embedding them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privface.attributes import column, labelled, parse_attributes
from privface.audit import AuditData, AuditResult, Draws
from privface.audit.comparison import changes
from privface.data import FoldedPairs, LoadedFaces, open_source, read_pairs_file
from privface.device import Device
from privface.errors import AuditError, DataError
from privface.images import encode_image, to_pixels, to_unit, write_atomic
from privface.models import GenderProbe, Matcher, Protector, load_gender_probe, load_matcher
from privface.models.bundled import model_folder
from privface.models.checkpoint import CARD, load_network
from privface.models.erased_code import ErasedCode
from privface.options import DEFAULT_AUDIT, Alignment, AuditOptions
from privface.pipeline.battery import averaging, build_auditor
from privface.pipeline.faces import Progress, load_aligned, require_folder, take_split
from privface.pipeline.provenance import person_digest, read_provenance
from privface.protect.manifest import ManifestRow, manifest_of, read_manifest
from privface.records import FRAME, Embeddings, FaceRecord, FaceTable
from privface.report import contact_sheet, write_report

logger = logging.getLogger(__name__)

_SHEET_FACES = 20
_HIDDEN = re.compile(r"\+hide:([^+@]+)")  # in a protector's fingerprint

ModelT = TypeVar("ModelT", Matcher, GenderProbe)


@dataclass(frozen=True)
class AttackerSet:
    """Labelled photos, or a table of embeddings, of other people, for attackers to learn from.

    ``labels``, ``split`` and what is ``protected`` are as for :func:`audit`; by default the model, or the eraser, protects them.
    """

    original: Path
    protected: Path | None = None
    labels: Path | None = None
    split: str | None = None

    def open(self, attributes: Sequence[str]) -> FaceTable:
        """Their photos, as :func:`open_labelled` gives them."""
        return open_labelled(self.original, labels=self.labels, split=self.split, attributes=attributes)


def audit(  # many arguments and lines: each argument is a file or option of the command, said once, here
    original: Path,
    protected: Path,
    *,
    labels: Path | None = None,
    split: str | None = None,
    matchers: Sequence[str],
    probes: Sequence[str] = (),
    model: Path | None = None,
    pairs: Path | None = None,
    draws: Sequence[Path] = (),
    second: Path | None = None,
    attackers: AttackerSet | None = None,
    out: Path,
    options: AuditOptions = DEFAULT_AUDIT,
    images: bool = False,
    baseline: AuditResult | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Audit a protected folder against its originals; writes ``audit.json`` and ``report.html`` into ``out``.

    Args:
        original: Face set with labels, any form :func:`privface.data.open_source` reads.
        protected: Same relative paths (another image suffix is allowed), from any tool.
        labels: CSV or Parquet with file, identity, gender.
        split: Take only rows of this split.
        matchers: Matcher specifications.
        probes: Gender classifier specifications.
        model: Run folder of the protector, or ``bundled:erased``: refuses its training people, where it lists them, and marks
            seen and unseen models. If it draws faces from a code, attackers read that of the originals, too.
        pairs: LFW-style pairs file over the originals.
        draws: Further draws of a randomised protection, folders as ``protected``: they are averaged.
        second: A second protection of the same photos, a folder as ``protected``: can the two be linked?
        attackers: Other people whom the attackers know, instead of half of the audited.
        out: Folder for the results.
        options: Seeds and effort.
        images: Put a contact sheet of 20 people into the report.
        baseline: An earlier audit to compare with in the report.
        progress: Told about every stage.

    Raises:
        PrivfaceError: If sets, labels or models do not fit.
    """
    require_folder(out)
    models, rows = _load_models(matchers, probes, model), _manifest(protected)
    made_by = {row.model for row in rows.values()}
    coder = _load_coder(model, made_by, Device.choose(options.device, options.precision))
    look = _Look(options, progress, coder, _code_name(coder, made_by))
    table = open_labelled(original, labels=labels, split=split, attributes=options.attributes)
    others = [] if attackers is None else [attackers.open(options.attributes)]
    require_classes(options.attributes, [table, *others])  # now, and not after hours

    faces = look.originals(table, rows, "align originals")
    after, found, paths = load_protected(faces.table, protected, options, progress)
    data = audit_data(faces, after, enrolled_protected=found)
    drawn = [load_protected(faces.table, folder, options, progress) for folder in draws]
    enrolled = [there for _, there, _ in drawn]
    data = replace(
        data,
        draws=Draws.of([one for one, _, _ in drawn], ok=np.logical_and.reduce(enrolled)) if drawn else None,
        second=None if second is None else load_protected(faces.table, second, options, progress)[:2],
        bytes_original=_file_sizes([record.path for record in faces.table]),
        bytes_protected=_file_sizes(paths),
    )
    data = look.with_codes(data, faces, table, rows)
    if attackers is not None:
        data = replace(data, attackers=_attackers(attackers, others[0], rows, look, model))
    listed = None if pairs is None else read_pairs_file(pairs, faces.table)
    result = _run(data, models, options, progress, pairs=listed)
    write_results(result, out, sheet=_sheet(data) if images else None, baseline=baseline)
    return result


@dataclass(frozen=True)
class _Look:
    """How originals are read: aligned as asked, and as codes where the model draws faces from a code."""

    options: AuditOptions
    progress: Progress | None
    coder: Protector | None
    code: str

    def originals(
        self, table: FaceTable, rows: Mapping[str, ManifestRow], stage: str, *, size: int | None = None
    ) -> LoadedFaces:
        """Aligned originals; what `protect` took for an aligned face is one here, too."""

        def mode(_: NDArray[np.uint8], record: FaceRecord) -> Alignment:
            row = rows.get(record.file)
            crop = row is not None and row.status == "ok" and row.faces is None
            return "aligned" if crop and self.options.faces == "auto" else self.options.faces

        return load_aligned(
            table, mode=mode, size=size or self.options.size, progress=self.progress, stage=stage
        )

    def with_codes(
        self, data: AuditData, faces: LoadedFaces, table: FaceTable, rows: Mapping[str, ManifestRow]
    ) -> AuditData:
        """The same with the model's codes, if it has any; a model looks at faces of its own size."""
        if self.coder is None:
            return data
        if self.coder.size != self.options.size:
            faces = self.originals(table, rows, "align for the code", size=self.coder.size)
        return replace(data, codes=_codes(self.coder, faces.pixels, self.progress, self.code))


def _attackers(
    given: AttackerSet, table: FaceTable, rows: Mapping[str, ManifestRow], look: _Look, model: Path | None
) -> AuditData:
    """The attackers' people, their photos before and after; ``rows`` are those of the audited."""
    options, progress = look.options, look.progress
    if given.protected is not None:
        rows = _manifest(given.protected)
    elif options.faces == "auto" and rows and all(row.faces is None for row in rows.values()):
        look = replace(
            look, options=replace(options, faces="aligned")
        )  # the audited are crops, so theirs are
    faces = look.originals(table, rows, "align the attackers' people")
    if given.protected is not None:
        after, found, _ = load_protected(faces.table, given.protected, options, progress)
    elif model is None:
        raise AuditError(
            "The attackers' photos have no protected version.",
            hint="Give the folder of their protected photos (--attackers-protected), or the model (--model).",
        )
    else:
        by = look.coder or Protector.load(model, device=Device.choose(options.device, options.precision))
        if by.size != options.size:
            raise AuditError(
                f"The model protects faces of {by.size} pixels, the audit looks at {options.size}.",
                hint="Protect the attackers' photos with `privface protect` and give --attackers-protected.",
            )
        after, found = protected_pixels(by, faces.pixels, progress), np.ones(len(faces), bool)
    return look.with_codes(audit_data(faces, after, enrolled_protected=found), faces, table, rows)


def protected_pixels(
    by: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    progress: Progress | None,
) -> NDArray[np.uint8]:
    """Aligned faces ``(N, S, S, 3)`` protected and rounded to 8 bits, as a file would be."""
    return np.concatenate(_in_parts(lambda part: to_pixels(by(part)), pixels, progress, "protect"))


def _in_parts(
    work: Callable[[NDArray[np.float32]], Any],
    pixels: NDArray[np.uint8],
    progress: Progress | None,
    stage: str,
) -> list[Any]:
    """What some work gives for aligned faces, 64 at a time."""
    found: list[Any] = []
    parts = np.array_split(pixels, max(1, len(pixels) // 64))
    for part in parts:
        found.append(work(to_unit(part)))
        if progress is not None:
            progress(stage, len(found), len(parts))
    return found


def open_labelled(
    original: Path,
    *,
    labels: Path | None = None,
    split: str | None = None,
    attributes: Sequence[str] = (),
) -> FaceTable:
    """The photos of a set, or of one of its splits, that an audit of these attributes looks at.

    Raises:
        DataError: If there is none.
        LabelError: If the labels cannot be read, or lack one of ``attributes``.
    """
    table = open_source(str(original), labels=labels)
    if split is not None:
        table = take_split(table, split, where=str(original))
    asked = parse_attributes(attributes)
    table = labelled(table, asked)
    if not len(table):
        raise DataError(
            f"{original} has no photo with a gender label.",
            hint="Give --labels with a gender column, or name another one with --attribute.",
        )
    for attribute in asked:
        column(table, attribute.name)
    return table


def require_classes(attributes: Sequence[str], tables: Sequence[FaceTable]) -> None:
    """Refuse attributes that cannot be attacked with the labels of all tables together.

    Raises:
        LabelError: As for :meth:`~privface.attributes.Attribute.read`.
    """
    for attribute in parse_attributes(attributes):
        attribute.read(np.concatenate([column(table, attribute.name) for table in tables]))


def audit_protector(
    faces: LoadedFaces,
    protector: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    *,
    matchers: Sequence[str],
    probes: Sequence[str],
    model: Path | None,
    options: AuditOptions,
    attackers: LoadedFaces | None = None,
    progress: Progress | None = None,
) -> tuple[AuditResult, NDArray[np.uint8]]:
    """Protect aligned faces in memory (rounded to 8 bits as a file would be) and audit them.

    A randomised :class:`~privface.models.Protector` is asked for further draws, which an attacker averages; one that draws
    faces from a code for the codes of the originals, which attackers read. With ``attackers`` these learn from other people.

    Returns:
        The audit, and the protected pixels ``(N, S, S, 3)``.
    """

    def seen(people: LoadedFaces) -> AuditData:
        data = audit_data(people, protected_pixels(protector, people.pixels, progress))
        coded = getattr(protector, "has_code", False)
        return replace(data, codes=_codes(protector, people.pixels, progress)) if coded else data

    data = seen(faces)
    if attackers is not None:
        data = replace(data, attackers=seen(attackers))
    if isinstance(protector, Protector) and protector.draw is not None:
        redrawn, first = protector.redrawn, protector.number
        further = Draws(
            lambda k: protected_pixels(redrawn(first + k), faces.pixels, progress),
            max(averaging(options).counts),
        )
        data = replace(data, draws=further)
    return _run(data, _load_models(matchers, probes, model), options, progress), data.protected


def audit_data(
    faces: LoadedFaces, protected: NDArray[np.uint8], *, enrolled_protected: NDArray[np.bool_] | None = None
) -> AuditData:
    """Lay out aligned originals and their protected versions, row by row, for the auditor.

    Args:
        faces: Labelled aligned originals.
        protected: uint8 ``(N, S, S, 3)``; rows without a protected face are ignored.
        enrolled_protected: Which rows have one; all by default.
    """
    table = faces.table
    columns = sorted({name for record in table for name in record.cohorts})
    return AuditData(
        original=faces.pixels,
        protected=protected,
        enrolled_original=np.ones(len(table), bool),
        enrolled_protected=np.ones(len(table), bool) if enrolled_protected is None else enrolled_protected,
        files=tuple(table.files),
        identities=table.identities,
        genders=table.genders,
        cohorts={name: np.array([record.cohorts.get(name, "") for record in table]) for name in columns},
        name=table.name,
    )


@dataclass(frozen=True)
class _Models:
    """What an audit looks with, and what the protector has met."""

    matchers: Sequence[Matcher]
    probes: Sequence[GenderProbe]
    provenance: Mapping[str, Any] | None


def _load_models(matchers: Sequence[str], probes: Sequence[str], model: Path | None) -> _Models:
    if not matchers:
        raise AuditError(
            "An audit without a matcher would not show what protection cost.",
            hint="Give at least one --matcher; bundled:matcher comes with privface, but it is small and makes the code of bundled:erased.",
        )
    provenance = read_provenance(model) if model is not None else None
    if provenance is not None and ("people" not in provenance or "people_not_listed" in provenance):
        logger.warning(
            "%s keeps no list of %s people it learnt from, so these are not refused: audit people of other sets (%s).",
            model,
            f"{provenance['people_not_listed']:,} of the" if "people" in provenance else "the",
            provenance.get("data", {}).get("name", "its data are not known"),
        )
    found = _Models(
        [_marked(load_matcher(spec), provenance) for spec in matchers],
        [_marked(load_gender_probe(spec), provenance) for spec in probes],
        provenance,
    )
    blank = np.full((1, 3, FRAME, FRAME), 0.5, np.float32)
    for matcher in found.matchers:  # a file that cannot be opened should show before photos are aligned
        matcher.embed(blank)
    for probe in found.probes:
        probe.male_scores(blank)
    return found


def _load_coder(model: Path | None, made_by: Collection[str], device: Device) -> Protector | None:
    """The protector of a run, if it is one that draws faces from a code alone, as those that the fingerprints name."""
    if model is None or not (model_folder(model) / CARD).is_file():
        return None
    # by its kind: some others cannot be loaded without more, such as true genders
    if load_network(model_folder(model)).kind != ErasedCode.kind:
        return None
    sizes = {int(size) for name in made_by for size in re.findall(r"\+code:(\d+)", name)}
    hidden = {names for name in made_by for names in _HIDDEN.findall(name)}
    if len(hidden) > 1:
        raise AuditError(
            f"The folder holds photos of {len(hidden)} choices of what to hide: {'; '.join(sorted(hidden))}.",
            hint="Audit photos of one choice at a time.",
        )
    hide = hidden.pop().split(",") if hidden else None
    return Protector.load(model, code_size=max(sizes, default=None), hide=hide, device=device)


def _code_name(coder: Any, made_by: Collection[str]) -> str:
    """Name of a code; it says so where no fingerprint tells what was hidden and the model's default choice is assumed."""
    chosen = _HIDDEN.search(getattr(coder, "fingerprint", ""))
    told = any(map(_HIDDEN.search, made_by))
    return f"code assumed to hide {chosen[1]}" if chosen and not told else "code"


def _codes(
    coder: Any, pixels: NDArray[np.uint8], progress: Progress | None, name: str = "code"
) -> dict[str, tuple[Embeddings, Embeddings]]:
    """Codes of aligned faces ``(N, S, S, 3)`` before and after the eraser."""
    found = _in_parts(coder.codes, pixels, progress, "read the model's code")
    before, after = zip(*found, strict=True)
    return {name: (np.concatenate(before), np.concatenate(after))}


def _run(
    data: AuditData,
    models: _Models,
    options: AuditOptions,
    progress: Progress | None,
    *,
    pairs: FoldedPairs | None = None,
) -> AuditResult:
    few = to_unit(data.original[np.linspace(0, len(data.files) - 1, min(8, len(data.files))).astype(int)])
    for matcher in models.matchers:
        if not np.isfinite(matcher.embed(few)).all(axis=1).any():
            raise AuditError(
                f"Matcher {matcher.name} gave no finite embedding for {len(few)} original photos.",
                hint="Check its weights and the input range in its sidecar or input_spec.",
            )
    trained = set((models.provenance or {}).get("people", ()))
    met = [str(person) for person in np.unique(data.identities) if person_digest(str(person)) in trained]
    return build_auditor(
        options,
        matchers=models.matchers,
        probes=models.probes,
        exclude_people=met,
        pairs=pairs,
        progress=progress,
    ).run(data)


def write_results(
    result: AuditResult, out: Path, *, sheet: bytes | None = None, baseline: AuditResult | None = None
) -> None:
    """Write ``audit.json`` and ``report.html``."""
    result.save(out / "audit.json")
    rows = None if baseline is None else changes(baseline, result)
    write_report(result.to_dict(), out / "report.html", contact_sheet=sheet, baseline=rows)


def embed(
    images: Path,
    out: Path,
    *,
    matcher: str,
    labels: Path | None = None,
    faces: Alignment = "auto",
    device: Device = Device(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Write embeddings of a face set to Parquet: file, identity, gender, cohorts, embedding; one row a photo.

    ``images`` has any form that :func:`privface.data.open_source` reads; labels are optional. Photos that cannot be read or show no face
    keep their row, with an empty embedding and the reason.

    Raises:
        PrivfaceError: If the set or the matcher cannot be used, or ``out`` not be written.
    """
    require_folder(out.parent)
    model = load_matcher(matcher).on(device)
    table = open_source(str(images), labels=labels)
    loaded = load_aligned(table, mode=faces, size=FRAME, progress=progress)
    vectors = np.concatenate(_in_parts(model.embed, loaded.pixels, progress, "embed"))
    rows_out: list[dict[str, Any]] = []
    for r, vector in zip(loaded.table, vectors, strict=True):
        known = {"file": r.file, "identity": r.identity, "gender": r.gender, **r.cohorts}
        rows_out.append({**known, "embedding": vector, "reason": None})
    rows_out += [{"file": r.file, "embedding": None, "reason": r.reason} for r in loaded.table.rejects]
    frame = pd.DataFrame(rows_out)
    write_atomic(out, frame.to_parquet(index=False))
    return frame


def load_protected(
    table: FaceTable, folder: Path, options: AuditOptions, progress: Progress | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[Path]]:
    """Protected faces in the originals' order, and where they were looked for; a missing one fails to enrol."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder.", hint="Give the folder of protected images.")
    rows = _manifest(folder)
    outputs = {key: row.output for key, row in rows.items() if row.output}

    def mode(_: NDArray[np.uint8], record: FaceRecord) -> Alignment:
        """A photo of ours with faces pasted back has them where they were; everything else of ours is an aligned face."""
        if options.protected_faces != "auto":
            return options.protected_faces
        row = rows.get(record.file)
        pasted = row is None or (row.faces is not None and row.face is None)
        return options.faces if pasted else "aligned"

    paths = [folder / outputs.get(record.file, record.file) for record in table]
    records = [
        replace(record, path=path) for record, path in zip(table, paths, strict=True) if path.is_file()
    ]
    if not records:
        raise AuditError(
            f"None of the {len(table)} originals has a protected photo of the same relative path in {folder}; looked for {table.files[0]!r}.",
            hint="Keep the tree and the file names when protecting, or give the folder that matches --original.",
        )
    loaded = load_aligned(
        FaceTable(tuple(records)), mode=mode, size=options.size, progress=progress, stage="align protected"
    )
    found = np.isin(table.files, loaded.table.files)
    after = np.zeros((len(table), options.size, options.size, 3), np.uint8)
    after[found] = loaded.pixels  # in the order of the originals
    return after, found, paths


def _manifest(folder: Path) -> Mapping[str, ManifestRow]:
    """What `privface protect` says of each input, or of its central face, where it wrote the folder."""
    file = manifest_of(folder)
    return {row.input: row for row in read_manifest(file) if row.face in {None, 1}} if file.is_file() else {}


def _file_sizes(paths: Sequence[Path]) -> NDArray[np.float64]:
    """Bytes of each file; NaN where there is none."""
    return np.array([path.stat().st_size if path.is_file() else np.nan for path in paths], np.float64)


def _marked(model: ModelT, provenance: Mapping[str, Any] | None) -> ModelT:
    if provenance is not None:
        seen = {entry["sha256"] for key in ("matchers", "classifiers") for entry in provenance.get(key, ())}
        model.seen = model.weights_sha256 in seen
    return model


def _sheet(data: AuditData) -> bytes:
    rows = np.flatnonzero(data.enrolled_protected)
    pick = rows[:: max(1, len(rows) // _SHEET_FACES)][:_SHEET_FACES]
    return encode_image(contact_sheet(data.original[pick], data.protected[pick]), ".jpg", quality=90)

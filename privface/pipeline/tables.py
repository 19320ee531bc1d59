"""Auditing tables of embeddings, ours or a vendor's, without a single photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privface.attributes import GENDER, Attribute, missing_column, parse_attributes
from privface.audit import AuditResult, EmbeddingData
from privface.data import EmbeddingTable, LabelFile, gender_codes, read_embeddings
from privface.erasers import SavedEraser, load_eraser
from privface.errors import AuditError, DataError, LabelError
from privface.options import DEFAULT_AUDIT, AuditOptions
from privface.pipeline.battery import build_auditor
from privface.pipeline.erase import erased_table, of_split
from privface.pipeline.faces import Progress, require_folder
from privface.pipeline.inspect import AttackerSet, write_results
from privface.pipeline.provenance import person_digest
from privface.records import Embeddings

_UNNAMED = "file:"
"""Before the key of a photo without an identity, which counts as a person."""


def audit_tables(  # many arguments, as audit
    original: Path,
    protected: Path,
    *,
    labels: Path | None = None,
    split: str | None = None,
    second: Path | None = None,
    attackers: AttackerSet | None = None,
    out: Path,
    options: AuditOptions = DEFAULT_AUDIT,
    eraser: Path | None = None,
    baseline: AuditResult | None = None,
    progress: Progress | None = None,
) -> AuditResult:
    """Audit a table of protected embeddings against the originals'; writes ``audit.json`` and ``report.html``.

    Args:
        original: Parquet, NPZ or CSV, any form :func:`privface.data.read_embeddings` reads.
        protected: The same keys protected; a missing key counts as failure to enrol. The dimension may differ.
        labels: CSV or Parquet with file, identity, gender; by default the original table's own columns.
        split: Take only rows whose label ``split`` has this value.
        second: A second protection of the same keys, a table as ``protected``: can the two be linked?
        attackers: Tables of other people whom the attackers know, instead of half of the audited; the eraser protects them, or
            a table of theirs is given.
        out: Folder for the results.
        options: Seeds and effort.
        eraser: Folder of the eraser that protected the table: its people are refused, and its matcher counts as seen.
        baseline: An earlier audit to compare with in the report.
        progress: Told about every stage.

    Raises:
        PrivfaceError: If tables and labels do not fit.
    """
    require_folder(out)
    saved = None if eraser is None else load_eraser(eraser)
    before, asked = read_embeddings(original), parse_attributes(options.attributes)
    data = pair_tables(before, read_embeddings(protected), labels=labels, split=split, attributes=asked)
    if second is not None:
        other = pair_tables(before, read_embeddings(second), labels=labels, split=split, attributes=asked)
        data = replace(data, second={name: table for name, (_, table) in other.embeddings.items()})
    if attackers is not None:
        data = replace(data, attackers=_attackers(attackers, saved, asked, data, before))
        data.check()
    met: list[str] = []
    if saved is not None:
        fitted, single = saved.meta.get("matcher"), len(data.embeddings) == 1
        seen = {name: fitted is None or name == fitted or single for name in data.embeddings}
        data = replace(data, seen=seen)
        people = np.unique([*data.identities, *([] if data.attackers is None else data.attackers.identities)])
        digests = np.array([int(person_digest(str(name)), 16) for name in people], np.uint64)
        met = people[np.isin(digests, saved.people)].tolist()
    result = build_auditor(options, exclude_people=met, progress=progress).run(data)
    write_results(result, out, baseline=baseline)
    return result


def _attackers(
    given: AttackerSet,
    saved: SavedEraser | None,
    asked: Sequence[Attribute],
    audited: EmbeddingData,
    audited_table: EmbeddingTable,
) -> EmbeddingData:
    """The attackers' people, their templates before and after."""
    before = read_embeddings(given.original)
    _require_same_matchers(audited_table, before)
    if given.protected is not None:
        after = read_embeddings(given.protected)
    elif saved is not None:
        after = erased_table(saved, before)
    else:
        raise AuditError(
            "The attackers' embeddings have no protected version.",
            hint="Give the table of their protected embeddings (--attackers-protected), or the eraser (--eraser).",
        )
    name = next(iter(audited.embeddings))
    try:
        found = pair_tables(
            before, after, labels=given.labels, split=given.split, attributes=asked, name=name
        )
        for attribute in asked:
            if attribute.name != GENDER and attribute.name not in found.cohorts:
                raise missing_column(attribute.name, found.cohorts, where=f"{given.labels or given.original}")
    except (AuditError, LabelError) as error:
        raise AuditError(
            f"The attackers' people: {error.message}",
            hint="Check --attackers, --attackers-labels and --attackers-split.",
        ) from error
    if _named(found) != _named(audited):
        raise AuditError(
            "One of the audited table and the attackers' table names people (column identity), the other one does not. So nobody"
            " can say whether they share people.",
            hint="Give the identities of both (--labels, --attackers-labels), or of neither.",
        )
    return found


def _named(data: EmbeddingData) -> bool:
    """Whether any row says who it is of."""
    return any(not name.startswith(_UNNAMED) for name in data.identities.tolist())


def pair_tables(
    original: EmbeddingTable,
    protected: EmbeddingTable,
    *,
    labels: Path | None = None,
    split: str | None = None,
    attributes: Sequence[Attribute] = (),
    name: str | None = None,
) -> EmbeddingData:
    """Lay two tables out row by row, by matcher where they have a column ``matcher``.

    Rows without a gender label are left out, unless no row has one and ``attributes`` ask for others alone. Without an identity,
    a photo counts as a person of its own. With ``split``, only rows whose label of that name has this value count. Without a
    column ``matcher``, the matcher is called ``name``; by default, by the name of the originals' file.

    Raises:
        AuditError: If the tables share no key, or no row has a gender or is of the split.
        LabelError: If labels cannot be read, or have no column ``split`` where one is asked for.
    """
    if labels is not None:
        original = LabelFile(labels).join(original)
    _require_same_matchers(original, protected)
    names = original.matchers or (name or original.path.stem,)
    parts = {
        one: (original.of_matcher(one), protected.of_matcher(one))
        if original.matchers
        else (original, protected)
        for one in names
    }
    first = parts[names[0]][0]
    gender_asked = not attributes or GENDER in {attribute.name for attribute in attributes}
    genders = np.full(len(first), -1)
    if GENDER in first.labels or gender_asked:
        genders = gender_codes(first.labels, labels or original.path)
    chosen = np.ones(len(first), bool)
    if split is not None:
        chosen = of_split(first.labels, split, labels or original.path)
    labelled = chosen & (genders >= 0)
    if labelled.any() or gender_asked:
        chosen = labelled
    kept = first.labels[chosen].reset_index(drop=True)
    if kept.empty:
        where = f"{original.path}" if split is None else f"the split {split!r}"
        raise AuditError(
            f"No row of {where} has a gender label.",
            hint="Give --labels with a gender column, or name another one with --attribute; check --split.",
        )
    files = kept["file"]
    return EmbeddingData(
        embeddings={one: (_rows(a, files), _rows(b, files, required=True)) for one, (a, b) in parts.items()},
        seen=dict.fromkeys(names),
        files=tuple(files),
        identities=_identities(kept),
        genders=genders[chosen],
        cohorts={
            str(column): kept[column].to_numpy(str)
            for column in kept.columns
            if column not in {"file", "identity", "gender", "matcher", "split"}
        },
        name=original.path.stem,
    )


def _require_same_matchers(first: EmbeddingTable, second: EmbeddingTable) -> None:
    if first.matchers != second.matchers:
        raise AuditError(
            f"{first.path} has the matchers {list(first.matchers)}, {second.path} {list(second.matchers)}.",
            hint="Give the same column 'matcher' in both tables, or in neither.",
        )


def _rows(table: EmbeddingTable, files: pd.Series[str], *, required: bool = False) -> Embeddings:
    """Vectors in the order of ``files``; NaN where the table has none."""
    rows = pd.Index(table.labels["file"]).get_indexer(files)
    known = rows >= 0
    if required and not known.any():
        raise DataError(
            f"None of the {len(files)} files of the originals is in {table.path}; looked for {files.iloc[0]!r}.",
            hint="Use the same keys in both tables.",
        )
    out = np.full((len(files), table.vectors.shape[1]), np.nan, np.float32)
    out[known] = table.vectors[rows[known]]
    return out


def _identities(labels: pd.DataFrame) -> NDArray[np.str_]:
    own = _UNNAMED + labels["file"]
    if "identity" not in labels:
        return own.to_numpy(str)
    return labels["identity"].where(labels["identity"] != "", own).to_numpy(str)

"""Fitting erasers on tables of embeddings and applying them, part by part, to tables larger than memory."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from privface.attributes import BY_GENDER, GENDER, MAX_CLASSES, MIN_ROWS, Attribute, missing_column
from privface.data import EmbeddingTable, LabelFile, gender_codes, stream_embeddings
from privface.data.embeddings import has_embedding
from privface.erasers import CARD, METHODS, Eraser, SavedEraser, load_eraser, save_eraser
from privface.errors import ConfigError, DataError, LabelError, OutputError
from privface.images import atomic_file
from privface.models.bundled import file_sha256
from privface.pipeline.faces import Progress
from privface.pipeline.provenance import person_digest

PartT = TypeVar("PartT")

PART = 8_192
"""Rows of a part. 16 MB of 512-d float32 are still reused by malloc; larger parts are mapped anew each time, at twice the cost."""

FIT_PART = 65_536
"""Rows of a part while fitting: methods that stream solve anew after each."""

NEEDS_MEMORY_ROWS = 200_000
"""Rows that methods without ``partial_fit`` learn from; of a longer table a random choice."""


@dataclass(frozen=True)
class EraserSource:
    """A labelled table of embeddings: Parquet, NPZ or CSV.

    ``labels`` is CSV or Parquet with file, gender (or another attribute) and, better, identity; by default the table's own columns. Only rows
    of this ``split``, and of this ``matcher`` where there is such a column, are taken.
    """

    table: Path
    labels: Path | None = None
    split: str | None = None
    matcher: str | None = None


@dataclass(frozen=True)
class FitSummary:
    """What a fit did: embeddings learnt from, people they show (0 without identities), and rows left out.

    These have no embedding (empty, not finite or zero), no label, or, ``capped``, a person who had enough others.
    """

    eraser: Eraser
    rows: int
    people: int
    skipped: int
    unlabelled: int
    capped: int


@dataclass(frozen=True)
class ApplySummary:
    """Embeddings written, rows without one, written empty, and the rate over the whole run, reading and writing included."""

    erased: int
    skipped: int
    rows_per_second: float


def fit_eraser(  # many arguments: those of the command
    source: EraserSource,
    out: Path,
    *,
    method: str,
    attributes: Sequence[Attribute] = (),
    settings: Mapping[str, Any] | None = None,
    more: Sequence[EraserSource] = (),
    max_per_person: int = 5,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FitSummary:
    """Fit an eraser on a labelled table and write its folder ``out``.

    Methods with ``partial_fit`` stream; others hold at most :data:`NEEDS_MEMORY_ROWS` rows, a random choice of longer tables. The classes of
    ``attributes`` (none means gender) are found in the labels; more than two of them, and ``more`` sets of the same matcher, are
    for methods that can use them. Several attributes are erased jointly: each combination of their classes that occurs is a
    class. Of each person the first ``max_per_person`` embeddings count (0: all); few people with hundreds of photos would else
    decide the fit.

    Raises:
        ConfigError: If method or settings do not exist, or the method cannot use ``more``.
        DataError: If tables cannot be read or hold nothing to learn from.
        LabelError: If labels do not fit.
        OutputError: If ``out`` is taken or cannot be written.
    """
    eraser = make_eraser(method, settings or {})
    if (out / CARD).exists() and not overwrite:
        raise OutputError(f"{out} holds an eraser.", hint="Choose another folder, or give --overwrite.")
    labels = _Labels.of(attributes, source)
    _require_able(eraser, method, labels.joint, further=bool(more))
    reader = _Reader(labels, max_per_person, progress)
    tell = None if progress is None else partial(progress, f"fit {method}")
    try:
        _learn(eraser, reader, [source, *more], tell)
    except ValueError as error:
        raise DataError(f"{source.table}: {error}", hint="See `privface erase methods`.") from error
    save_eraser(
        out,
        eraser,
        meta={
            "table": source.table.name,
            "sha256": file_sha256(source.table),
            "matcher": source.matcher or reader.matcher,
            "rows": reader.rows,
            **({} if labels.joint == BY_GENDER else {"attribute": labels.joint.to_dict()}),
            **({"columns": [one.name for one in labels.parts]} if labels.places else {}),
        },
        people=np.array([int(person_digest(name), 16) for name in reader.people], np.uint64),
    )
    return FitSummary(
        eraser, reader.rows, len(reader.people), reader.skipped, reader.unlabelled, reader.capped
    )


def _learn(
    eraser: Eraser,
    reader: _Reader,
    sources: Sequence[EraserSource],
    tell: Callable[[int, int], None] | None,
) -> None:
    """Fit on the rows of one set, and on further ones where the method takes them."""
    attribute = reader.labels.joint
    if hasattr(eraser, "partial_fit"):
        for rows, labels in reader.parts(sources[0]):
            eraser.partial_fit(rows, labels, classes=range(len(attribute.classes)))
        reader.require()
        return
    own, *further = (_sample(reader.parts(source), NEEDS_MEMORY_ROWS) for source in sources)
    keywords: dict[str, Any] = {"more": further} if further else {}
    if tell is not None and "progress" in inspect.signature(eraser.fit).parameters:
        keywords["progress"] = tell
    reader.require()
    if len(np.unique(own[1])) < len(attribute.classes):
        raise DataError(
            f"A class of {attribute.name!r} is so rare that none of {NEEDS_MEMORY_ROWS} chosen rows has it.",
            hint="Choose a method that streams (`privface erase methods`), or put small classes together.",
        )
    eraser.fit(*own, **keywords)


def _require_able(eraser: Eraser, method: str, attribute: Attribute, *, further: bool) -> None:
    """Refuse further sets, or more than two classes, where the method cannot use them."""
    if further and "more" not in inspect.signature(eraser.fit).parameters:
        able = [name for name, kind in METHODS.items() if "more" in inspect.signature(kind.fit).parameters]
        raise ConfigError(f"{method} cannot use further sets.", hint=f"These can: {', '.join(able)}.")
    if len(attribute.classes) > 2 and not eraser.several:
        able = [name for name, kind in METHODS.items() if kind.several]
        raise ConfigError(
            f"{method} erases two classes; {attribute.name!r} has {len(attribute.classes)}.",
            hint=f"These take more: {', '.join(able)}.",
        )


def make_eraser(method: str, settings: Mapping[str, Any]) -> Eraser:
    """An eraser that is not fitted yet."""
    kind = METHODS.get(method)
    if kind is None:
        raise ConfigError(
            f"The method {method!r} does not exist.", hint=f"Choose one of {', '.join(METHODS)}."
        )
    known = kind().get_params()
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(
            f"{method} has no setting {unknown[0]!r}.", hint=f"It has {', '.join(sorted(known)) or 'none'}."
        )
    for name, value in settings.items():
        # YAML's 1 is a fine float; a word where a number belongs is not
        wanted = type(known[name])
        if not isinstance(value, (int, float) if wanted is float else wanted):
            raise ConfigError(
                f"{name}={value!r} is no {wanted.__name__}.", hint=f"The default is {known[name]!r}."
            )
    return kind(**settings)


def apply_eraser(
    eraser: SavedEraser | Path,
    table: Path,
    out: Path,
    *,
    keep_labels: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ApplySummary:
    """Erase a table of embeddings, part by part, into a Parquet file, which appears when it is whole.

    Rows keep their order and columns, but for ``gender``, or the attributes that are erased, unless ``keep_labels``: a protected
    template beside the label that it hides protects nothing. A row without an embedding stays empty.

    Raises:
        DataError: If the table cannot be read, has another dimension or belongs to another matcher.
        OutputError: If ``out`` is taken, is the table itself or cannot be written.
    """
    saved = load_eraser(eraser) if isinstance(eraser, Path) else eraser
    _require_output(out, table, overwrite=overwrite)
    hidden = saved.meta.get("columns") or [saved.meta.get("attribute", {}).get("name", GENDER)]
    dropped = () if keep_labels else hidden
    total, done, skipped, begun = count_rows(table), 0, 0, time.perf_counter()
    writer: pq.ParquetWriter | None = None
    with atomic_file(out, mode=0o600) as file, ExitStack() as stack:
        for part in ahead(stream_embeddings(table, rows=PART)):
            _require_matcher(saved, part)
            kept = has_embedding(part.vectors)
            batch = _erased_batch(saved.eraser, part, kept, dropped)
            if writer is None:
                names = [name for name in batch.schema.names if name != "embedding"]
                writer = pq.ParquetWriter(
                    file, batch.schema, compression="none", use_dictionary=names, write_statistics=names
                )
                stack.enter_context(writer)
            writer.write_batch(batch)
            done += len(part)
            skipped += int((~kept).sum())
            if progress is not None:
                progress("erase", done, total or done + 1)  # an unknown total is never reached
        if not done:
            raise _without_rows(table)
    return ApplySummary(done - skipped, skipped, done / max(time.perf_counter() - begun, 1e-9))


def erased_table(saved: SavedEraser, table: EmbeddingTable) -> EmbeddingTable:
    """A table at hand erased, with all of its labels; a row without an embedding stays so.

    Raises:
        DataError: If it has another dimension or belongs to another matcher.
    """
    _require_matcher(saved, table)
    kept = has_embedding(table.vectors)
    if not kept.any():
        return table
    erased = np.asarray(saved.eraser.transform(table.vectors[kept]), np.float32)
    vectors = np.full((len(table), erased.shape[1]), np.nan, np.float32)
    vectors[kept] = erased
    return replace(table, vectors=vectors)


def ahead(parts: Iterator[PartT]) -> Iterator[PartT]:
    """The same parts, the next one read while the last one is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="privface-read") as pool:
        coming = pool.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = pool.submit(next, parts, None)
            yield part


def count_rows(table: Path) -> int:
    """Rows of a Parquet file, from its footer; 0 for other formats, which tell only when read."""
    if table.suffix.lower() != ".parquet" or not table.is_file():
        return 0
    try:
        return int(pq.read_metadata(table).num_rows)
    except (pa.ArrowException, OSError):
        return 0  # reading it will say what is wrong


@dataclass(frozen=True)
class _Labels:
    """What is erased: the attributes with their classes.

    ``joint`` has combinations of these as its classes, ``places`` each one's class of each part; of one part it is that part.
    """

    parts: Sequence[Attribute] = (BY_GENDER,)
    joint: Attribute = BY_GENDER
    places: Sequence[tuple[int, ...]] = ()

    @classmethod
    def of(cls, attributes: Sequence[Attribute], source: EraserSource) -> _Labels:
        """With the classes that a source has; those of gender are known."""
        if tuple(attributes) in {(), (BY_GENDER,)}:
            return cls()
        labels = _all_labels(source, attributes)
        parts = [a.with_classes(_column(labels, a.name, source)) for a in attributes]
        if len(parts) == 1:
            return cls(parts, parts[0])
        rows = np.stack([_codes(labels, attribute, source) for attribute in parts], axis=1)
        places, counts = np.unique(rows[rows.min(axis=1) >= 0], axis=0, return_counts=True)
        for attribute, there in zip(parts, places.T, strict=True):
            for code in set(range(len(attribute.classes))) - set(there.tolist()):
                raise LabelError(
                    f"No row of the class {attribute.classes[code]!r} of {attribute.name!r} has a label of each attribute.",
                    hint="Give labels with every class, or erase one attribute after the other.",
                )
        names = [" and ".join(a.classes[c] for a, c in zip(parts, row, strict=True)) for row in places]
        if len(names) > MAX_CLASSES or counts.min() < MIN_ROWS:
            raise LabelError(
                f"The attributes have {len(names)} combinations of classes; the rarest, {names[counts.argmin()]!r}, has "
                f"{counts.min()} rows. At most {MAX_CLASSES} are possible, of {MIN_ROWS} rows each.",
                hint="Erase one attribute after the other: fit the next eraser on the output of the first.",
            )
        joint = Attribute("-and-".join(attribute.name for attribute in parts), classes=tuple(names))
        return cls(parts, joint, tuple(tuple(row) for row in places.tolist()))

    def codes(self, labels: pd.DataFrame, source: EraserSource) -> NDArray[np.int64]:
        """Labels as places in the classes of :attr:`joint`, -1 where one is missing."""
        if len(self.parts) == 1:
            return _codes(labels, self.joint, source)
        rows = zip(*(_codes(labels, attribute, source).tolist() for attribute in self.parts), strict=True)
        number = {place: k for k, place in enumerate(self.places)}
        return np.array([number.get(row, -1) for row in rows], np.int64)


def _all_labels(source: EraserSource, attributes: Sequence[Attribute]) -> pd.DataFrame:
    """Columns of the labels of all rows that are learnt from."""
    parts = []
    for _, part in _labelled(source):
        if BY_GENDER in attributes:
            gender_codes(part.labels, source.labels or source.table)  # its error names the cure
        parts.append(pd.DataFrame({a.name: _column(part.labels, a.name, source) for a in attributes}))
    if not parts:
        raise _without_rows(source.table)
    return pd.concat(parts, ignore_index=True)


def _labelled(source: EraserSource) -> Iterator[tuple[int, EmbeddingTable]]:
    """The table part by part: rows read, and those of the split and of the matcher, with the columns of their labels."""
    labels = None if source.labels is None else LabelFile(source.labels)
    for part in stream_embeddings(source.table, rows=FIT_PART):
        whole = part if labels is None else labels.join(part, required=False)
        rows = np.ones(len(whole), bool)
        if source.split is not None:
            rows &= of_split(whole.labels, source.split, source.labels or source.table)
        if source.matcher is not None and whole.matchers:
            rows &= (whole.labels["matcher"] == source.matcher).to_numpy()
        yield (
            len(whole),
            replace(whole, vectors=whole.vectors[rows], labels=whole.labels[rows].reset_index(drop=True)),
        )


def of_split(labels: pd.DataFrame, split: str, path: Path) -> NDArray[np.bool_]:
    """Which rows of a table's labels, read from ``path``, are of a split."""
    if "split" not in labels:
        raise LabelError(
            f"{path} has no column 'split'; it has {', '.join(map(str, labels.columns))}.",
            hint="Leave --split out, or add the column.",
        )
    return (labels["split"] == split).to_numpy()


def _without_rows(table: Path) -> DataError:
    return DataError(f"{table} has no rows.", hint="It needs one row per photo.")


def _column(labels: pd.DataFrame, name: str, source: EraserSource) -> NDArray[Any]:
    if name not in labels:
        raise missing_column(name, labels.columns, where=f"The labels of {source.labels or source.table}")
    return np.asarray(labels[name])


def _codes(labels: pd.DataFrame, attribute: Attribute, source: EraserSource) -> NDArray[np.int64]:
    """Labels as places in the attribute's classes, -1 where there is none."""
    if attribute.name == GENDER:
        return gender_codes(labels, source.labels or source.table)
    return attribute.codes(_column(labels, attribute.name, source))


class _Reader:
    """Labelled embeddings of one or more tables, counting what is left out."""

    def __init__(self, labels: _Labels, max_per_person: int, progress: Progress | None) -> None:
        self.labels = labels
        if max_per_person < 0:
            raise ConfigError(f"max_per_person={max_per_person} is negative.", hint="0 takes all.")
        self._cap, self._progress = max_per_person, progress
        self.people: Counter[str] = Counter()
        self._classes: set[int] = set()
        self.matcher: str | None = None
        self.rows = self.skipped = self.unlabelled = self.capped = 0

    def parts(self, source: EraserSource) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        total, done, before = count_rows(source.table), 0, self.rows
        for read, part in ahead(_labelled(source)):
            done += read
            names = {*part.matchers, *filter(None, [self.matcher])}
            if len(names) > 1:
                raise DataError(
                    f"{source.table} holds embeddings of {len(names)} matchers: {', '.join(sorted(names))}.",
                    hint="An eraser belongs to one matcher: choose it with --matcher.",
                )
            self.matcher = next(iter(names), None)
            codes = self.labels.codes(part.labels, source)
            kept = has_embedding(part.vectors)
            self.skipped += int((~kept).sum())
            self.unlabelled += int((kept & (codes < 0)).sum())
            kept &= codes >= 0
            kept &= self._within_cap(part, kept)
            self.rows += int(kept.sum())
            if self._progress is not None:
                self._progress("read", done, total or done + 1)
            if kept.any():
                self._classes |= set(codes[kept].tolist())
                yield part.vectors[kept], codes[kept]
        if not done:
            raise _without_rows(source.table)
        if self.rows == before:
            split = f", split {source.split!r}" if source.split else ""
            raise DataError(
                f"{source.table}: none of {done} rows can be learnt from: {self.skipped} without an embedding,"
                f" {self.unlabelled} without a label ({self.labels.joint.name}){split}.",
                hint="Check the embedding column, the keys in --labels and --split.",
            )

    def require(self) -> None:
        joint = self.labels.joint
        lacking = [name for code, name in enumerate(joint.classes) if code not in self._classes]
        if lacking:
            raise DataError(
                f"None of {self.rows} labelled embeddings is {lacking[0]!r} ({joint.name}); every class is needed.",
                hint="Give labels with every class, or another --split.",
            )

    def _within_cap(self, part: EmbeddingTable, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        inside = np.ones(len(part), bool)
        if "identity" not in part.labels:
            return inside
        names = part.labels["identity"].astype(str)[kept]
        names = names[names != ""]
        if self._cap and len(names):
            number = names.groupby(names).cumcount() + names.map(lambda name: self.people[name])
            late = names.index[number >= self._cap]
            inside[late] = False
            self.capped += len(late)
        self.people.update(names)
        return inside


def _sample(
    parts: Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]], limit: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All rows, or a uniform choice of ``limit`` of them, in their order; there is at least one part."""
    rng = np.random.default_rng(0)
    held: list[NDArray[Any]] = []
    for rows, labels in parts:
        read: list[NDArray[Any]] = [rng.random(len(rows)), rows, labels]
        held = [np.concatenate(both) for both in zip(held, read, strict=True)] if held else read
        if len(held[0]) > limit:
            # every row has drawn a number; those with the smallest stay
            kept = np.sort(np.argpartition(held[0], limit - 1)[:limit])
            held = [column[kept] for column in held]
    _, rows, labels = held
    return rows, labels


def _require_output(out: Path, table: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() != ".parquet":
        raise OutputError(
            f"The output {out} ends in {out.suffix or 'nothing'!r}.",
            hint="Erased tables are Parquet: name it so.",
        )
    if out.exists() and table.exists() and out.samefile(table):
        raise OutputError(
            f"{out} is the input.", hint="Originals are never overwritten; choose another name."
        )
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists.", hint="Choose another name, or give --overwrite.")


def _require_matcher(saved: SavedEraser, part: EmbeddingTable) -> None:
    size, wanted = part.vectors.shape[1], saved.eraser.n_features_in_
    fitted, own = saved.meta.get("matcher"), set(part.matchers)
    fault = None
    if size != wanted:
        fault = f"{size} values, the eraser was fitted on {wanted}"
    elif fitted and own and own != {fitted}:
        fault = f"{sorted(own)}, the eraser was fitted on {fitted!r}"
    if fault is not None:
        raise DataError(
            f"{part.path} holds embeddings of {fault}.",
            hint="An eraser belongs to one matcher; fit one for this table.",
        )


def _erased_batch(
    eraser: Eraser, part: EmbeddingTable, kept: NDArray[np.bool_], dropped: Sequence[str]
) -> pa.RecordBatch:
    erased = np.asarray(part.vectors[kept], np.float32)
    if len(erased):
        erased = np.ascontiguousarray(eraser.transform(erased), np.float32)
    lengths = np.where(kept, erased.shape[1], 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    vectors = pa.ListArray.from_arrays(pa.array(offsets), pa.array(erased.ravel()), mask=pa.array(~kept))
    labels = part.labels.drop(columns=list(dropped), errors="ignore")
    columns = {str(name): pa.array(labels[name].to_numpy(object), pa.string()) for name in labels.columns}
    return pa.RecordBatch.from_pydict({**columns, "embedding": vectors})

"""The manifest: a row for every input file of a job, and for every further face of one.

Parquet, and CSV on request; CSV alone where pyarrow is not installed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, get_args

from privface.errors import DataError
from privface.images import atomic_file
from privface.lazy import has_parquet

Status: TypeAlias = Literal["ok", "no_face", "many_faces", "unreadable", "too_large", "failed"]
"""What became of an input file; only ``ok`` has an output."""

STATUSES: tuple[Status, ...] = get_args(Status)
"""Every status that a manifest row may have."""

MANIFEST_NAME = "manifest.parquet"
CSV_NAME = "manifest.csv"
FORMAT = "privface.manifest/3"
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """What became of one input file, or of one further face of it. The fields are the manifest's columns.

    Attributes:
        input: Key of the input: POSIX path below the input root (``privface.images.file_key``).
        output: Key of the protected image below the output root; ``None`` unless ``status`` is ``ok``.
        status: See ``Status``.
        reason: Why there is no output, in words; beside an output, what is to be known of it.
        faces: Faces that the detector found, in a video over all frames; ``None`` where none was run (aligned input).
        face: Which of them the output shows, alone: 1 is the central one, the others follow from left to right, each in a row
            of its own. ``None`` where the output is not one face of several that were looked for.
        box_x1: Left edge of that face, else of the central one, in pixels of the input; ``None`` for aligned input.
        box_y1: Top edge.
        box_x2: Right edge.
        box_y2: Bottom edge.
        model: Fingerprint of the protector.
        input_sha256: Digest of the input's bytes; ``None`` where they were not read.
        output_sha256: Digest of the output's bytes.
        width: Width of the input in pixels, upright; ``None`` where it could not be decoded.
        height: Height of the input in pixels.
        input_bytes: Size of the input.
        output_bytes: Size of the output.
        finished: When the file was finished (ISO 8601, UTC); written on request only, as it differs from run to run.
    """

    input: str
    output: str | None = None
    status: Status
    reason: str | None = None
    faces: int | None = None
    face: int | None = None
    box_x1: float | None = None
    box_y1: float | None = None
    box_x2: float | None = None
    box_y2: float | None = None
    model: str
    input_sha256: str | None = None
    output_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    finished: str | None = None


_KINDS = {column.name: str(column.type) for column in fields(ManifestRow)}


def manifest_order(row: ManifestRow) -> tuple[str, str, int, str]:
    """Sort key of a manifest's rows."""
    return row.input, row.status, row.face or 0, row.reason or ""


def write_manifest(
    root: Path, rows: Iterable[ManifestRow], *, complete: bool = True, as_csv: bool = False
) -> Path:
    """Write ``manifest.parquet`` at an output root, atomically, or ``manifest.csv`` where pyarrow is not installed.

    Args:
        root: Output root.
        rows: Those of every input file in :func:`manifest_order`; few are in memory at a time.
        complete: Whether the job went through; ``False`` marks a Parquet manifest of an interrupted job in the
            file's metadata (``privface.complete``).
        as_csv: Also write ``manifest.csv``.

    Returns:
        Path of the Parquet file, else of the CSV file. Same rows, same bytes.

    Raises:
        OutputError: If it cannot be written.
    """
    parquet = has_parquet()
    with ExitStack() as stack:
        sinks: list[Callable[[list[ManifestRow]], object]] = []
        if parquet:
            file = stack.enter_context(atomic_file(root / MANIFEST_NAME))
            sinks.append(stack.enter_context(_parquet_sink(file, complete=complete)))
        if as_csv or not parquet:
            text = stack.enter_context(atomic_file(root / CSV_NAME))
            text.write(_csv_lines([_KINDS]))
            sinks.append(lambda part: text.write(_csv_lines(map(astuple, part))))
        waiting = iter(rows)
        while part := list(islice(waiting, _ROWS_AT_ONCE)):
            for sink in sinks:
                sink(part)
    return root / (MANIFEST_NAME if parquet else CSV_NAME)


@contextmanager
def _parquet_sink(file: IO[bytes], *, complete: bool) -> Iterator[Callable[[list[ManifestRow]], object]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    numbers = {"int | None": pa.int32(), "float | None": pa.float64()}
    columns = []
    for name, kind in _KINDS.items():
        stored = pa.int64() if name.endswith("_bytes") else numbers.get(kind, pa.string())
        columns.append(pa.field(name, stored, nullable="None" in kind))
    metadata = {"privface.format": FORMAT, "privface.complete": str(complete).lower()}
    schema = pa.schema(columns, metadata=metadata)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda part: writer.write_table(
            pa.table({name: [getattr(row, name) for row in part] for name in _KINDS}, schema=schema)
        )


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Rows of a manifest, in file order.

    Args:
        path: ``manifest.parquet`` or ``manifest.csv``, or the output root that holds it.

    Raises:
        DataError: If it is missing, damaged or no privface manifest.
    """
    file = manifest_of(path) if path.is_dir() else path
    try:
        rows = _read_csv(file) if file.suffix == ".csv" else _read_parquet(file)
        return tuple(ManifestRow(**row) for row in rows)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(
            f"{file} cannot be read as a privface manifest ({error}).",
            hint="Run the protection job again; finished images are not computed twice.",
        ) from error


def manifest_of(root: Path) -> Path:
    """The manifest at an output root: the Parquet file, unless only the CSV file is there."""
    path, text = root / MANIFEST_NAME, root / CSV_NAME
    return text if text.is_file() and not path.is_file() else path


def _read_parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    # `read_table` always starts a thread of Arrow's, and a process that ends while that thread lets go of our bytes aborts
    # (apache/arrow issue 34314); `ParquetFile` starts none.
    try:
        with pq.ParquetFile(pa.BufferReader(file.read_bytes()), pre_buffer=False) as table:
            known = [name for name in _KINDS if name in table.schema_arrow.names]
            found: list[dict[str, Any]] = table.read(known, use_threads=False).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(error) from error
    return found


def _read_csv(file: Path) -> list[dict[str, Any]]:
    def value(name: str, text: str) -> object:
        if not text:
            return None
        kind = _KINDS[name]
        return int(text) if kind.startswith("int") else float(text) if kind.startswith("float") else text

    with file.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        known = [name for name in _KINDS if name in (table.fieldnames or ())]
        if "input" not in known:
            raise ValueError("it has no column 'input'")
        return [{name: value(name, row[name]) for name in known} for row in table]


def _csv_lines(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:  # Python quotes a carriage return by itself only since 3.13
        values = list(row)
        (quoted if any("\r" in str(value) for value in values) else plain).writerow(values)
    return text.getvalue().encode("utf-8")

"""The manifest: one row for every input file of a protection job, written as Parquet (and CSV on request)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from privface.errors import DataError
from privface.images import write_atomic

Status: TypeAlias = Literal["ok", "no_face", "unreadable", "too_large", "failed"]
"""What became of an input file; only ``ok`` has an output."""

STATUSES: tuple[Status, ...] = get_args(Status)
MANIFEST_NAME = "manifest.parquet"
CSV_NAME = "manifest.csv"
FORMAT = "privface.manifest/1"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What became of one input file.

    Attributes:
        input: Key of the input: POSIX path below the input root (``privface.images.file_key``).
        output: Key of the protected image below the output root; ``None`` unless ``status`` is ``ok``.
        status: See ``Status``.
        reason: Why there is no output, in words; ``None`` where there is one.
        faces: Faces that the detector found; ``None`` where none was run (aligned input).
        box_x1: Left edge of the protected face in pixels of the input; ``None`` for aligned input.
        box_y1: Top edge.
        box_x2: Right edge.
        box_y2: Bottom edge.
        model: Fingerprint of the protector.
        input_sha256: Digest of the input's bytes; ``None`` where they were not read.
        output_sha256: Digest of the output's bytes.
        width: Width of the input in pixels, upright; ``None`` where it could not be decoded.
        height: Height of the input in pixels.
    """

    input: str
    status: Status
    model: str
    output: str | None = None
    reason: str | None = None
    faces: int | None = None
    box_x1: float | None = None
    box_y1: float | None = None
    box_x2: float | None = None
    box_y2: float | None = None
    input_sha256: str | None = None
    output_sha256: str | None = None
    width: int | None = None
    height: int | None = None


_SCHEMA = pa.schema(
    [
        pa.field("input", pa.string(), nullable=False),
        pa.field("output", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("faces", pa.int32()),
        *(pa.field(f"box_{edge}", pa.float64()) for edge in ("x1", "y1", "x2", "y2")),
        pa.field("model", pa.string(), nullable=False),
        pa.field("input_sha256", pa.string()),
        pa.field("output_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
    ]
)


def write_manifest(
    root: Path, rows: Iterable[ManifestRow], *, complete: bool = True, as_csv: bool = False
) -> Path:
    """Write ``manifest.parquet`` at an output root, atomically, rows sorted by input key.

    Args:
        root: Output root.
        rows: One row per input file.
        complete: Whether the job went through; ``False`` marks a manifest of an interrupted job in the
            file's metadata (``privface.complete``).
        as_csv: Also write ``manifest.csv``.

    Returns:
        Path of the Parquet file. Same rows, same bytes.

    Raises:
        OutputError: If it cannot be written.
    """
    ordered = sorted(rows, key=lambda row: (row.input, row.status, row.reason or ""))
    metadata = {"privface.format": FORMAT, "privface.complete": str(complete).lower()}
    schema = _SCHEMA.with_metadata(metadata)
    columns = {name: [getattr(row, name) for row in ordered] for name in schema.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd")
    path = root / MANIFEST_NAME
    write_atomic(path, buffer.getvalue())
    if as_csv:
        write_atomic(root / CSV_NAME, _csv_bytes(ordered, schema.names))
    return path


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Rows of a manifest, in file order.

    Args:
        path: ``manifest.parquet``, or the output root that holds it.

    Raises:
        DataError: If it is missing, damaged or no privface manifest.
    """
    file = path / MANIFEST_NAME if path.is_dir() else path
    names = [field.name for field in fields(ManifestRow)]
    try:
        table = pq.read_table(pa.BufferReader(file.read_bytes()))
        rows = table.select(names).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(
            f"{file} cannot be read as a privface manifest ({error}).",
            hint="Run the protection job again; finished images are not computed twice.",
        ) from error
    return tuple(ManifestRow(**row) for row in rows)


def _csv_bytes(rows: Sequence[ManifestRow], names: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return text.getvalue().encode("utf-8")

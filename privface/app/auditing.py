"""Audits two uploaded archives of photos in a folder that is wiped afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from privface.app.folder import work_folder
from privface.app.uploads import Limits, Upload, UploadError, unpack_photos
from privface.errors import PrivfaceError
from privface.options import AuditOptions, Effort
from privface.pipeline import audit

Progress: TypeAlias = Callable[[str, int, int], None]

RESAMPLES: dict[Effort, int] = {"quick": 200, "standard": 1000, "full": 1000}
"""Bootstrap resamples by effort; fewer make the intervals of a first look rougher."""

_PARQUET = b"PAR1"
"""Begins such a file. A stranger's could grow to any size in memory, and its footer cannot be believed."""


@dataclass(frozen=True)
class AuditBench:
    """The models that audit, as the command line names them.

    Attributes:
        matchers: Specifications of face matchers.
        probes: Specifications of gender classifiers.
        model: Run folder of the protector that this server offers; an exported file does not tell whom it has met.
    """

    matchers: Sequence[str] = ()
    probes: Sequence[str] = ()
    model: Path | None = None


def audit_uploads(
    original: Upload,
    protected: Upload,
    labels: Upload | None,
    *,
    bench: AuditBench,
    folder: Path,
    effort: Effort = "quick",
    aligned: bool = False,
    ours: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> tuple[str, dict[str, bytes]]:
    """Unpack, audit, take the results into memory, wipe.

    Args:
        original: Zip of original photos, a folder a person.
        protected: Zip of protected photos with the same paths, from any tool.
        labels: CSV table with ``gender`` and ``file`` or ``identity``; by default ``labels.csv`` in the zip of originals.
        bench: Models.
        folder: Private folder to work in.
        effort: Which attackers are sent.
        aligned: The photos are aligned face crops.
        ours: They were protected with this server's model: its training people are refused, models it met are marked.
        limits: Of the archives.
        progress: Told about every stage; what it raises stops the audit.

    Returns:
        The verdict in one sentence, and ``report.html`` (no script, no other file) and ``audit.json``.

    Raises:
        PrivfaceError: If an upload breaks a limit, or the sets do not fit; messages name no path of this machine.
    """
    limits = limits or Limits()
    if not bench.matchers:
        raise UploadError(
            "This server was started without a face matcher, and an audit without one would not show what protection cost.",
            hint="Start it with `privface app --matcher SPEC`.",
        )
    if labels is not None and labels.data.startswith(_PARQUET):
        raise UploadError(
            f"{labels.name} is a Parquet table; this page reads labels from CSV alone.",
            hint="Save it as CSV, or run `privface audit` on the command line, which reads both.",
        )
    with work_folder(folder) as work:
        originals, copies, table = work / "originals", work / "protected", work / "labels.csv"
        tell = progress or (lambda _stage, _done, _total: None)
        try:
            for number, (upload, place) in enumerate(((original, originals), (protected, copies))):
                stop = partial(tell, "unpack", number, 2)
                stop()
                unpack_photos(upload.data, place, limits=limits, name=upload.name, stop=stop)
            if labels is not None:
                table.write_bytes(labels.data)
            result = audit(
                originals,
                copies,
                labels=None if labels is None else table,
                matchers=bench.matchers,
                probes=bench.probes,
                model=bench.model if ours else None,
                out=work / "out",
                options=AuditOptions(
                    effort=effort, resamples=RESAMPLES[effort], faces="aligned" if aligned else "auto"
                ),
                progress=progress,
            )
            report = (work / "out" / "report.html").read_bytes()
        except PrivfaceError as error:
            _leave_paths_out(error, work)
            raise
        headline = str(result.document["verdict"]["headline"])
        return headline, {"report.html": report, "audit.json": result.to_bytes()}


def _leave_paths_out(error: PrivfaceError, work: Path) -> None:
    """Change an error for a reader who does not see this machine; in place, as its kind may be built in its own way."""

    def plain(text: str) -> str:
        for place in (work.resolve(), work):
            text = text.replace(f"{place}/originals", "the originals")
            text = text.replace(f"{place}/protected", "the protected photos").replace(f"{place}/", "")
        return text

    error.message = plain(error.message)
    error.hint = None if error.hint is None else plain(error.hint)

"""Audits two uploaded archives of photos, and puts audits side by side, in folders that are wiped afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from privface.app.uploads import File, UploadError, megabytes, unpack_photos, untaken
from privface.audit import AuditResult
from privface.errors import PrivfaceError
from privface.options import AuditOptions, Effort
from privface.pipeline import audit
from privface.pipeline.faces import Progress
from privface.report.compare import write_comparison
from privface.report.reading import plain_text

MAX_AUDIT_BYTES = 10_000_000
"""An audit.json has about a tenth of this; text of this size takes a tenth of a gigabyte once it is read."""

_PARQUET = b"PAR1"
"""Begins such a file. A stranger's could grow to any size in memory, and its footer cannot be believed."""


@dataclass(frozen=True)
class AuditBench:
    """Audits in a private folder, with the models that the command line names."""

    folder: Path
    matchers: Sequence[str] = ()
    probes: Sequence[str] = ()
    device: str = "auto"
    model: Path | None = None  # run folder of the protector; an exported file does not tell whom it has met

    def audit(
        self,
        original: File,
        protected: File,
        labels: File | None,
        *,
        effort: Effort = "quick",
        aligned: bool = False,
        ours: bool = False,
        progress: Progress = lambda _stage, _done, _total: None,
    ) -> tuple[str, dict[str, bytes]]:
        """Unpack two zips of photos, audit, take the results into memory, wipe.

        ``labels`` are by default those in the zip of originals. Of photos protected with this server's model (``ours``) its
        training people are refused, and models it met are marked. What ``progress`` raises stops the audit.

        Returns:
            The verdict in one sentence, and ``report.html`` (one file) and ``audit.json``.

        Raises:
            PrivfaceError: If an upload breaks a limit, or the sets do not fit; messages name no path of this machine.
        """
        self._refuse(labels)
        options = AuditOptions(
            effort=effort,
            resamples=200 if effort == "quick" else 1000,  # fewer make the intervals of a first look rougher
            device=self.device,
            faces="aligned" if aligned else "auto",
        )
        with TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
            work = Path(name)
            try:
                for number, (upload, part) in enumerate(((original, "originals"), (protected, "protected"))):
                    stop = partial(progress, "unpack", number, 2)
                    stop()
                    unpack_photos(upload.data, work / part, name=upload.name, stop=stop)
                if labels is not None:
                    (work / "labels.csv").write_bytes(labels.data)
                result = audit(
                    work / "originals",
                    work / "protected",
                    labels=None if labels is None else work / "labels.csv",
                    matchers=self.matchers,
                    probes=self.probes,
                    model=self.model if ours else None,
                    out=work / "out",
                    options=options,
                    progress=progress,
                )
                report = (work / "out" / "report.html").read_bytes()
            except PrivfaceError as error:
                _leave_paths_out(error, work)
                raise
        headline = str(result.document["verdict"]["headline"])
        return headline, {"report.html": report, "audit.json": result.to_bytes()}

    def _refuse(self, labels: File | None) -> None:
        if not self.matchers:
            raise UploadError(
                "This server was started without a face matcher, and an audit without one would not show what protection cost.",
                hint="Start it with `privface app --matcher SPEC`.",
            )
        if labels is not None and labels.data.startswith(_PARQUET):
            raise UploadError(
                f"{labels.name} is a Parquet table; this page reads labels from CSV alone.",
                hint="Save it as CSV, or run `privface audit` on the command line, which reads both.",
            )

    def compare(self, uploads: Sequence[File]) -> bytes:
        """The comparison of ``audit.json`` files as an HTML page; those with equal names get numbers.

        Raises:
            UploadError: If one is no audit.
            AuditError: If they are not of the same originals.
        """
        taken: set[str] = set()
        stems = [plain_text(upload.name.removesuffix(".json"))[:60] or "audit" for upload in uploads]
        named = [
            (untaken(stem, taken), _document(upload)) for stem, upload in zip(stems, uploads, strict=True)
        ]
        with TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as work:
            try:
                return write_comparison(named, Path(work) / "comparison.html").read_bytes()
            except PrivfaceError:
                raise
            except Exception as error:  # a document that anyone may have written lacks anything
                raise UploadError(
                    f"An audit of these is incomplete ({type(error).__name__}: {error}).",
                    hint="Give audit.json files as `privface audit` wrote them.",
                ) from error


def _leave_paths_out(error: PrivfaceError, work: Path) -> None:
    """Change an error for a reader who does not see this machine; in place, as its kind may be built in its own way."""

    def plain(text: str) -> str:
        for place in (work.resolve(), work):
            text = text.replace(f"{place}/originals", "the originals")
            text = text.replace(f"{place}/protected", "the protected photos").replace(f"{place}/", "")
        return text

    error.message = plain(error.message)
    error.hint = None if error.hint is None else plain(error.hint)


def _document(upload: File) -> Mapping[str, Any]:
    if len(upload.data) > MAX_AUDIT_BYTES:
        raise UploadError(
            f"{upload.name}: {megabytes(len(upload.data))}; the limit is {megabytes(MAX_AUDIT_BYTES)} an audit.",
            hint="Give the audit.json that `privface audit` wrote.",
        )
    try:
        return AuditResult.parse(upload.data, name=upload.name).to_dict()
    except PrivfaceError as error:
        message = error.message if upload.name in error.message else f"{upload.name}: {error.message}"
        raise UploadError(message, hint=error.hint) from error

"""Audits that a user opens, side by side on the page that ``privface compare`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from privface.app.folder import work_folder
from privface.app.uploads import Upload, UploadError, megabytes
from privface.audit import AuditResult
from privface.errors import PrivfaceError
from privface.report.compare import write_comparison
from privface.report.reading import plain_text

MAX_AUDIT_BYTES = 10_000_000
"""An audit.json has about a tenth of this; text of this size takes a tenth of a gigabyte once it is read."""


def compare_uploads(uploads: Sequence[Upload], folder: Path) -> bytes:
    """The comparison of some audits as an HTML page.

    Args:
        uploads: ``audit.json`` files of audits of the same photos; those with equal names get numbers.
        folder: Private folder to work in.

    Raises:
        UploadError: If one is no audit.
        AuditError: If they are not of the same originals.
    """
    named = list(zip(_names(uploads), map(_document, uploads), strict=True))
    with work_folder(folder) as work:
        try:
            return write_comparison(named, work / "comparison.html").read_bytes()
        except PrivfaceError:
            raise
        except Exception as error:  # a document that anyone may have written lacks anything
            raise UploadError(
                f"An audit of these is incomplete ({type(error).__name__}: {error}).",
                hint="Give audit.json files as `privface audit` wrote them.",
            ) from error


def _document(upload: Upload) -> Mapping[str, Any]:
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


def _names(uploads: Sequence[Upload]) -> list[str]:
    """Names without ``.json``, told apart where they are equal."""
    found: list[str] = []
    for upload in uploads:
        stem = plain_text(upload.name.removesuffix(".json"))[:60] or "audit"
        name, number = stem, 1
        while name in found:
            number += 1
            name = f"{stem} {number}"
        found.append(name)
    return found

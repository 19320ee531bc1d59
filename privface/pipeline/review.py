"""Looking at audits again: several side by side, and the attackers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privface.audit import AuditResult
from privface.audit.comparison import trade_off
from privface.errors import AuditError
from privface.report.compare import write_comparison


def compare_audits(specs: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """Write one page that compares audits of the same photos.

    Args:
        specs: Paths of ``audit.json`` files, or ``NAME=PATH``; without a name, the file's folder or stem.
        out: HTML file.

    Returns:
        The points of the trade-off, as :func:`privface.audit.comparison.trade_off` gives them.

    Raises:
        AuditError: If there are fewer than two, a name occurs twice, or the audits cannot be compared.
    """
    if len(specs) < 2:
        raise AuditError(
            f"{len(specs)} audit was given; a comparison needs two or more.",
            hint="Name them: privface compare blur=a/audit.json ours=b/audit.json",
        )
    named = [_named(spec) for spec in specs]
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AuditError(f"Two audits are called {twice[0]!r}.", hint="Name them: NAME=FILE.")
    documents = [(name, AuditResult.load(path).to_dict()) for name, path in named]
    points = trade_off(documents)
    write_comparison(documents, out)
    return points


def _named(spec: str) -> tuple[str, Path]:
    name, separator, path = spec.partition("=")
    if separator and not Path(spec).exists():
        return name, Path(path)
    file = Path(spec)
    return (file.parent.name if file.stem == "audit" else file.stem) or file.stem, file

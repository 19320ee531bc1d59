"""Writes a comparison of several audits: one HTML file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from privface.audit.comparison import trade_off
from privface.audit.result import AuditResult
from privface.report.figures import sweep_figure
from privface.report.html import inline_svg, script_json, write_page
from privface.report.reading import Reading, Row

Named = tuple[str, Row]

COLUMNS: tuple[tuple[str, str, str, str | None], ...] = (
    ("worst_frozen_seen", "Frozen, seen", "pretrained classifier the method was built against", "frozen"),
    ("worst_frozen_unseen", "Frozen, unseen", "pretrained classifier it never met", None),
    (
        "worst_image",
        "Retrained on images",
        "attacker who learns from protected photos of other people",
        "retrained",
    ),
    ("worst_embedding", "Retrained on embeddings", "the same on a matcher's embeddings", None),
    ("illusion_gap_unseen", "Illusion gap", "worst retrained minus worst unseen frozen", "gap"),
    ("tmr_p_p", "TMR, P-P", "protected with protected, FMR 1 %, all impostors", "tmr"),
    ("tmr_p_p_same", "TMR, same gender", "the same, impostors of the same gender", None),
    ("tmr_p_o", "TMR, P-O", "protected gallery, live original", "modes"),
    ("ssim", "SSIM", "likeness to the original; no measure of privacy", "ssim"),
)
"""Columns of the tables: figure, heading, meaning, and the term that explains it. Matching is that of the unseen matcher that suffers most."""


def write_comparison(
    named: Sequence[Named],
    out: Path,
    *,
    matchers: Collection[str] | None = None,
    figure: str | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write one self-contained page: trade-off, which methods another one beats, all figures.

    Args:
        named: Names and audit documents of the same originals.
        out: HTML file, written atomically.
        matchers: Names of the matchers that count, see :func:`privface.audit.comparison.trade_off`.
        figure: SVG to show instead of :func:`privface.report.figures.sweep_figure`.
        notes: Sentences below the figure.

    Returns:
        ``out``. Same audits, same bytes.

    Raises:
        AuditError: If the audits cannot be compared.
        OutputError: If ``out`` cannot be written.
    """
    points = trade_off(named, matchers=matchers)
    rows = compared(named, points)
    drawn = figure or sweep_figure(points, title="Recognition against gender leakage, by method")
    return write_page(
        "compare.html.j2",
        out,
        rows=rows,
        columns=COLUMNS,
        embedded=script_json(_document(rows)),
        figure=inline_svg(drawn),
        notes=notes,
        data=named[0][1].get("data", {}),
    )


def _document(rows: Sequence[Row]) -> dict[str, Any]:
    """The page's figures for programs."""

    def figure(reading: Reading) -> dict[str, Any]:
        found: dict[str, Any] = {"value": reading.value, "low": reading.low, "high": reading.high}
        return found if reading.known else {**found, "reason": reading.reason}

    return {
        "schema": "privface.comparison/1",
        "methods": [
            {
                **{key: row[key] for key in ("name", "probe", "input", "dominated_by", "differs")},
                "worst_retrained": figure(row["worst"]),
                **{key: figure(row["figures"][key]) for key, *_ in COLUMNS},
            }
            for row in rows
        ],
    }


def compared(named: Sequence[Named], points: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of :data:`COLUMNS`, lowest leakage of a retrained attacker first."""
    rows = []
    for (name, document), point in zip(named, points, strict=True):
        found = {key: Reading.of(vars(figure)) for key, figure in AuditResult(document).figures.items()}
        found["tmr_p_p"] = _tmr(document, point["matcher"], "P-P", "all")
        found["tmr_p_p_same"] = _tmr(document, point["matcher"], "P-P", "same-gender")
        found["tmr_p_o"] = _tmr(document, point["matcher"], "P-O", "all")
        worst = document["worst_retrained"]
        rows.append(
            {
                **{key: point[key] for key in ("dominated_by", "differs")},
                **{key: worst[key] for key in ("probe", "input")},
                "name": name,
                "figures": found,
                "worst": Reading.of(worst["leakage"]),
            }
        )
    return sorted(rows, key=lambda row: row["worst"].value if row["worst"].known else 2.0)


def _tmr(document: Row, matcher: str | None, mode: str, impostors: str) -> Reading:
    for row in document["matching"]:
        if (row["matcher"], row["mode"], row["impostors"]) == (matcher, mode, impostors):
            return Reading.of(row["tmr"]["0.01"])
    return Reading()

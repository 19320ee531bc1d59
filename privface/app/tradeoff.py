"""Audits that a user opens, as points of a trade-off: how much is recognised against how much leaks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from privface.app.uploads import Upload, UploadError, megabytes
from privface.audit import AuditResult
from privface.audit.comparison import trade_off
from privface.errors import PrivfaceError
from privface.report.reading import Reading, plain_text

MAX_AUDIT_BYTES = 10_000_000
"""An audit.json has about a tenth of this; text of this size takes a tenth of a gigabyte once it is read."""

_WIDTH, _HEIGHT = 640.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 18.0, 18.0, 56.0


@dataclass(frozen=True)
class Point:
    """One audit.

    Attributes:
        name: As the user knows it; to be escaped wherever it is shown.
        leakage: Of the worst retrained attacker, in [0.5, 1].
        tmr: Same-person pairs that the unseen matcher which suffers most accepts at FMR 1 %, protected with protected.
        probe: The worst attacker.
        matcher: That matcher.
        dominated_by: An audit that leaks no more and matches no less; ``None`` if there is none.
        differs: What was measured otherwise than in the first audit.
    """

    name: str
    leakage: Reading
    tmr: Reading
    probe: str
    matcher: str
    dominated_by: str | None
    differs: tuple[str, ...]


def read_points(uploads: Sequence[Upload]) -> list[Point]:
    """Read audits and lay them out as points, lowest leakage first.

    Args:
        uploads: ``audit.json`` files of audits of the same photos; those with equal names get numbers.

    Raises:
        UploadError: If there is none, or one is no audit.
        AuditError: If they are not of the same originals.
    """
    if not uploads:
        raise UploadError("No audit was given.", hint="Choose one or more audit.json files.")
    named = [(name, _document(upload)) for name, upload in zip(_names(uploads), uploads, strict=True)]
    try:
        points = [
            Point(
                name=row["name"],
                leakage=Reading.of(row["leakage"]),
                tmr=Reading.of(row["tmr"]),
                probe=plain_text(document["worst_retrained"].get("probe") or "none"),
                matcher=plain_text(row["matcher"] or "none"),
                dominated_by=row["dominated_by"],
                differs=tuple(plain_text(word) for word in row["differs"]),
            )
            for row, (_, document) in zip(trade_off(named), named, strict=True)
        ]
    except PrivfaceError:
        raise
    except Exception as error:  # a document that anyone may have written lacks anything
        raise UploadError(
            f"An audit of these is incomplete ({type(error).__name__}: {error}).",
            hint="Give audit.json files as `privface audit` wrote them.",
        ) from error
    return sorted(points, key=lambda point: point.leakage.value if point.leakage.known else 2.0)


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


def figure(points: Sequence[Point]) -> str:
    """The plot as SVG without any script: figures appear where the mouse or the keyboard rests on a point.

    Args:
        points: Those that lack a figure are left out; the table beside the plot says why.
    """
    known = [point for point in points if point.leakage.known and point.tmr.known]
    low = min([p.tmr.low if p.tmr.has_interval else p.tmr.value for p in known], default=0.9)
    bottom = max(0.0, math.floor((low - 0.02) * 10) / 10)
    parts = [_axes(bottom), *(_mark(point, number, bottom) for number, point in enumerate(known, 1))]
    return (
        f'<svg class="pf-plot" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="group" '
        'aria-label="Same person recognised against gender leakage of the worst retrained attacker">'
        f"{''.join(parts)}</svg>"
    )


def _x(leakage: float) -> float:
    return _LEFT + (leakage - 0.48) / 0.54 * (_WIDTH - _LEFT - _RIGHT)


def _y(tmr: float, bottom: float) -> float:
    return _TOP + (1.02 - tmr) / (1.02 - bottom) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(bottom: float) -> str:
    foot = _HEIGHT - _BOTTOM
    lines = []
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        x = _x(tick)
        dash = ' class="pf-chance"' if tick == 0.5 else ' class="pf-grid"'
        lines.append(f'<line{dash} x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP:g}" y2="{foot:g}"/>')
        lines.append(f'<text x="{x:.1f}" y="{foot + 20:g}" text-anchor="middle">{tick:.1f}</text>')
    steps = max(1, round((1.0 - bottom) * 10))
    every = 1 if steps <= 5 else 2
    for step in range(0, steps + 1, every):
        tmr = 1.0 - step / 10
        y = _y(tmr, bottom)
        lines.append(
            f'<line class="pf-grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        lines.append(f'<text x="{_LEFT - 8:g}" y="{y + 5:.1f}" text-anchor="end">{tmr:.0%}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    lines.append(
        f'<text x="{middle:.1f}" y="{_HEIGHT - 10:g}" text-anchor="middle">gender leakage, worst retrained attacker '
        "(0.5 is guessing)</text>"
    )
    y = (_TOP + foot) / 2
    lines.append(
        f'<text x="14" y="{y:.1f}" text-anchor="middle" transform="rotate(-90 14 {y:.1f})">same person recognised (TMR)</text>'
    )
    return "".join(lines)


def _mark(point: Point, number: int, bottom: float) -> str:
    x, y = _x(point.leakage.value), _y(point.tmr.value, bottom)
    lines = ""
    if point.leakage.has_interval:
        lines += f'<line x1="{_x(point.leakage.low):.1f}" x2="{_x(point.leakage.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    if point.tmr.has_interval:
        ends = _y(point.tmr.low, bottom), _y(point.tmr.high, bottom)
        lines += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>'
    told = escape(describe(point))
    beaten = " pf-beaten" if point.dominated_by is not None else ""
    return (
        f'<g class="pf-point{beaten}" tabindex="0" role="img" aria-label="{told}"><title>{told}</title>{lines}'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11"/>'
        f'<text class="pf-number" x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle">{number}</text>'
        f"{_label(point, x, y)}</g>"
    )


def _label(point: Point, x: float, y: float) -> str:
    """A box with the figures, shown by the page's style while the point has the mouse or the focus."""
    lines = [
        point.name if len(point.name) <= 36 else point.name[:35] + "…",
        f"leakage {in_words(point.leakage)}",
        f"TMR {in_words(point.tmr)}",
        f"attacker: {point.probe}"[:40],
    ]
    width, height = 12.0 + 7.4 * max(len(line) for line in lines), 14.0 + 19.0 * len(lines)
    left = min(max(x - width / 2, 2.0), _WIDTH - width - 2.0)
    top = y + 20.0 if y + 20.0 + height < _HEIGHT else y - 20.0 - height
    texts = "".join(
        f'<text x="{left + 8:.1f}" y="{top + 21 + 19 * k:.1f}">{escape(line)}</text>'
        for k, line in enumerate(lines)
    )
    return (
        f'<g class="pf-tip" aria-hidden="true"><rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="6"/>{texts}</g>'
    )


def describe(point: Point) -> str:
    """A point in one sentence, for those who hear the page."""
    beaten = "" if point.dominated_by is None else f"; {point.dominated_by} leaks no more and matches no less"
    return (
        f"{point.name}: leakage {in_words(point.leakage)} by {point.probe}; TMR {in_words(point.tmr)} "
        f"with {point.matcher}{beaten}"
    )


def in_words(reading: Reading) -> str:
    """A figure with its interval, or why there is none."""
    if not reading.known:
        return f"not measurable ({reading.reason})"
    ends = f" [{reading.low:.3f}, {reading.high:.3f}]" if reading.has_interval else ""
    return f"{reading.value:.3f}{ends}"

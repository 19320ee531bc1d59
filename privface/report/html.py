"""Writes the audit report: one HTML file that needs no network and no other file; its own script sorts tables."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privface.attributes import GENDER
from privface.audit import auditor
from privface.audit.result import AuditResult, to_json_data
from privface.audit.subjects import WHITE_BOX
from privface.audit.verdict import FNMR_GROWTH
from privface.errors import ImageError
from privface.images import write_atomic
from privface.report.figures import (
    det_figure,
    growth_figure,
    leakage_figure,
    score_figure,
    tradeoff_figure,
)
from privface.report.reading import NOT_MEASURABLE, Reading, Row, part_of, plain_text, rows_of
from privface.report.words import Glossary

HEADLINE_FMR = "0.01"

_TONES = {"no-leak-found": "good", "inconclusive": "fair", "matching-lost": "bad", "leaks": "bad"}
_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def write_report(
    audit: Row | Path,
    out: Path,
    *,
    contact_sheet: bytes | None = None,
    baseline: Sequence[Row] | None = None,
) -> Path:
    """Write one self-contained HTML report of an audit.

    Args:
        audit: The document of ``audit.json``, or its path. Missing parts and unmeasured figures are
            said to be so, with the reason.
        out: Where the report goes; written atomically.
        contact_sheet: A PNG or JPEG of original and protected photos. It shows real people, so it is
            in the report only where it is given.
        baseline: Rows of :func:`privface.audit.comparison.changes`, if it was compared with an earlier audit.

    Returns:
        ``out``. Same audit, same bytes.

    Raises:
        AuditError: If it is no audit of this version.
        ImageError: If the contact sheet is neither PNG nor JPEG.
        OutputError: If ``out`` cannot be written.
    """
    result = AuditResult.load(audit) if isinstance(audit, Path) else AuditResult(audit)
    sheet = None if contact_sheet is None else _data_address(contact_sheet)
    return write_page("report.html.j2", out, **_view(result.document), contact_sheet=sheet, baseline=baseline)


def write_page(template: str, out: Path, **content: Any) -> Path:
    """Fill in a page of ours, in which terms are explained, and write it atomically; gives ``out``."""
    page = environment().get_template(template).render(**content, words=Glossary())
    write_atomic(out, page.encode("utf-8"))
    return out


@cache
def environment(package: str = "privface.report", *, text: Callable[[str], str] = plain_text) -> Environment:
    """Where pages of a package are filled in: everything is escaped, and control characters are dropped."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text(value) if type(value) is str else value,
    )
    # a script ends where "</script" stands, and ours has none; its hash is what the page's policy lets run
    script = (Path(__file__).parent / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment.globals.update(
        decimal=_decimal,
        percent=_percent,
        count=_count,
        reading=Reading.of,
        where=_where,
        script=Markup(script),  # noqa: S704  # our own file
        script_hash=f"sha256-{digest}",
    )
    return environment


# one long body: a line for each thing that the template shows
def _view(document: Row) -> dict[str, Any]:
    """What the template shows; readings are made there of the rows' figures."""
    rows, leakage = _rows(document, "matching"), _rows(document, "leakage")
    # people are recognised by faces; how well the code would do stands with the code
    matching = [row for row in rows if not row["white_box"]]
    verdict, data, battery = (part_of(document, name) for name in ("verdict", "data", "battery"))
    status = str(verdict.get("status", "unknown"))
    worst_retrained = _worst(document, "worst_retrained")
    sets, budget = _rows(document, "set_attack"), _rows(document, "label_budget")
    return {
        "status": status.replace("-", " "),
        "tone": _TONES.get(status, "none"),
        # an audit of a set without gender labels speaks of other attributes
        "gender": bool(data.get("female", 1) or data.get("male", 1)),
        "attributes": [
            row
            for row in _rows(document, "attributes")
            if row["medium"] == "any" and row["attribute"] != GENDER
        ],
        "headline": verdict.get("headline") or "This audit states no verdict.",
        "sentences": list(verdict.get("sentences") or []),
        "data": data,
        "attacker_people": part_of(data, "attacker_people"),
        **{key: _rows(document, key) for key in ("cohorts", "recovery", "pairs_protocol")},
        "worst_retrained": worst_retrained,
        "worst_frozen": _worst(document, "worst_frozen"),
        "worst_upper": Reading.of(part_of(document, "worst_upper").get("leakage")),
        "gap": Reading.of(document.get("illusion_gap")),
        "gaps": part_of(document, "frozen_gaps"),
        "recognition": _least_recognised(matching),
        "matching": matching,
        "leakage": [_leakage_view(row) for row in sorted(leakage, key=_leakage_order)],
        "code_recognition": _least_recognised([row for row in rows if row["white_box"]]),
        "quality": part_of(document, "quality"),
        "cohort_limit": FNMR_GROWTH,
        "averaging": _averaging_view(_rows(document, "averaging")),
        "set_attack": sets,
        "battery": battery and {**battery, **{key: rows_of(battery, key) for key in ("leaks", "nulls")}},
        "parts": [
            (section.part, list(map(section.part.line, found)))
            for section in auditor.SECTIONS
            if section.part and (found := rows_of(document, section.part.key))
        ],
        "figures": {
            "det": _by_matcher(document, "det", det_figure, "Recognition errors of"),
            "scores": _by_matcher(document, "scores", score_figure, "Scores of"),
            "leakage": _drawn(
                leakage_figure, leakage, "Gender leakage of every probe, before and after protection"
            ),
            "tradeoff": _drawn(
                tradeoff_figure,
                _tradeoff_points(matching, leakage, worst_retrained),
                "Recognition against gender leakage",
            ),
            "sets": _drawn(
                partial(growth_figure, single=True), sets, "Leakage of several photos of one person"
            ),
            "budget": _drawn(partial(growth_figure, single=False), budget, "Leakage by labelled people"),
        },
        "provenance": [(key, _flat(value)) for key, value in sorted(part_of(document, "provenance").items())],
        "embedded": script_json(document),
    }


def _rows(document: Row, key: str) -> list[defaultdict[str, Any]]:
    """The rows under a key; what a row lacks is ``None``."""
    return [defaultdict(lambda: None, row) for row in rows_of(document, key)]


def _where(row: Row) -> str:
    """What an attacker looks at, in words."""
    medium = str(row.get("input") or "image")
    if medium.startswith(f"{WHITE_BOX}:"):
        return f"the {medium.removeprefix(f'{WHITE_BOX}:')} itself (white box)"
    return "photos" if medium == "image" else f"embeddings of {medium.removeprefix('embedding:')}"


def _worst(document: Row, name: str) -> Row:
    part = part_of(document, name)
    return {
        "probe": part.get("probe") or "no probe",
        "input": part.get("input"),
        "white_box": part.get("white_box") is True,
        "leakage": Reading.of(part.get("leakage")),
    }


def _recognition(matching: Sequence[Row]) -> list[dict[str, Any]]:
    """TMR of each matcher before and after protection."""
    found = []
    for name in dict.fromkeys(row.get("matcher") for row in matching):
        mine = {
            row.get("mode"): row
            for row in matching
            if row.get("matcher") == name and row.get("impostors") == "all"
        }
        if "P-P" in mine:
            before, after = (
                Reading.of(part_of(mine.get(mode, {}), "tmr").get(HEADLINE_FMR)) for mode in ("O-O", "P-P")
            )
            found.append({"matcher": name, "seen": mine["P-P"].get("seen"), "before": before, "after": after})
    return found


def _least_recognised(matching: Sequence[Row]) -> dict[str, Any] | None:
    """The matcher that recognises protected photos worst; one that could not be measured is no better."""
    found = _recognition(matching)
    return min(found, key=lambda m: m["after"].value if m["after"].known else -1.0, default=None)


def _leakage_view(row: defaultdict[str, Any]) -> Row:
    leakage = Reading.of(row["leakage"])
    measurable = row["measurable"] is not False and leakage.known
    reason = str(row["reason"] or leakage.reason or "no reason given").removeprefix("not measurable: ")
    return row | {
        "white_box": row["white_box"] is True,
        "original": Reading.of(row["original_auc"]).leakage,
        "measurable": measurable,
        # What a probe fails to read proves nothing where it cannot read originals either; yet what it
        # does read is a finding, so the figure is kept beside the reason.
        "leakage": leakage if measurable else Reading(reason=plain_text(reason)),
        "uncounted": Reading() if measurable else leakage,
    }


def _leakage_order(row: Row) -> tuple[bool, float, str, str]:
    value = Reading.of(row.get("leakage")).value
    rank = math.inf if math.isnan(value) else -value
    return (str(row.get("kind")) != "retrained", rank, str(row.get("probe")), str(row.get("input")))


def _averaging_view(rows: Sequence[Row]) -> dict[str, Any] | None:
    """One line for each attacker and way to average, one column for each number of draws."""
    counts = sorted({int(row["draws"]) for row in rows})
    if not counts:
        return None
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in ("probe", "kind", "input", "combined")), []).append(row)
    found = []
    for mine in lines.values():
        read = {int(row["draws"]): row["leakage"] for row in mine}
        found.append({**mine[-1], "by_draws": [read.get(count) for count in counts]})
    return {"counts": counts, "rows": found}


def _tradeoff_points(matching: Sequence[Row], leakage: Sequence[Row], worst: Row) -> list[dict[str, Any]]:
    """One point per matcher, for the worst retrained probe; none where a figure is missing."""
    same = [
        row
        for row in leakage
        if row["kind"] != "frozen" and (row["probe"], row["input"]) == (worst["probe"], worst["input"])
    ]
    before = Reading.of(same[0]["original_auc"]).leakage if same else Reading()
    after: Reading = worst["leakage"]
    return [
        {
            "matcher": kept["matcher"],
            "leakage_before": before.value,
            "leakage_after": after.value,
            "tmr_before": kept["before"].value,
            "tmr_after": kept["after"].value,
        }
        for kept in _recognition(matching)
        if before.known and after.known and kept["before"].known and kept["after"].known
    ]


def _drawn(draw: Callable[..., str], rows: Sequence[Row], title: str) -> Markup | None:
    return inline_svg(draw(rows, title=title)) if rows else None


def _by_matcher(document: Row, kind: str, draw: Callable[..., str], title: str) -> list[dict[str, Any]]:
    """A figure for each matcher of its curves against all impostors."""
    curves = [c for c in rows_of(part_of(document, "curves"), kind) if c.get("impostors", "all") == "all"]
    found = []
    for name in dict.fromkeys(curve.get("matcher") for curve in curves):
        whole = f"{title} {plain_text(name)}"
        mine = [curve for curve in curves if curve.get("matcher") == name]
        found.append({"title": whole, "svg": _drawn(draw, mine, whole)})
    return found


def inline_svg(svg: str) -> Markup:
    """An SVG of our own making for use inside HTML, which needs no namespace addresses."""
    return Markup(re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg))  # noqa: S704  # labels were escaped by Matplotlib


def script_json(document: Row) -> Markup:
    """A document as JSON that cannot end its script element, NaN as null."""
    text = json.dumps(to_json_data(document), sort_keys=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # no markup character is left


def _data_address(image: bytes) -> str:
    for magic, kind in _TYPES.items():
        if image.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
    raise ImageError("The contact sheet is neither PNG nor JPEG.", hint="Encode it with encode_image.")


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _decimal(value: float, digits: int = 2, *, sign: bool = False) -> str:
    if not math.isfinite(value):
        return NOT_MEASURABLE
    text = f"{abs(value):.{digits}f}"
    negative = value < 0 and float(text) != 0
    return ("\u2212" if negative else "+" if sign and float(text) else "") + text


def _count(value: object) -> str:
    """A whole number with separators; a dash where there is none."""
    return f"{value:,}" if isinstance(value, int) else "\u2013"


def _percent(value: float, digits: int = 1) -> str:
    return f"{_decimal(value * 100, digits)} %" if math.isfinite(value) else NOT_MEASURABLE

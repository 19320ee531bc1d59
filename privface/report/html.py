"""Writes the audit report: one HTML file that needs no network and no other file; its own script sorts tables."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privface.attributes import GENDER
from privface.audit import auditor
from privface.audit.part import Part
from privface.audit.subjects import WHITE_BOX
from privface.audit.verdict import FNMR_GROWTH
from privface.errors import AuditError, ImageError
from privface.images import write_atomic
from privface.report.figures import (
    budget_figure,
    det_figure,
    leakage_figure,
    score_figure,
    set_figure,
    tradeoff_figure,
)
from privface.report.reading import NOT_MEASURABLE, Reading, plain_text, rows_of
from privface.report.words import Glossary

SCHEMA = "privface.audit/2"
HEADLINE_FMR = "0.01"

_TONES = {
    "no-leak-found": "good",
    "inconclusive": "fair",
    "matching-lost": "bad",
    "leaks": "bad",
}
_TYPES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_MODES = {
    "O-O": "original with original",
    "P-P": "protected with protected",
    "P-O": "protected gallery, live original",
}
_SEEN = {True: "seen in training", False: "unseen", None: "unknown"}


def write_report(
    audit: Mapping[str, Any] | Path,
    out: Path,
    *,
    contact_sheet: bytes | None = None,
    baseline: Sequence[Mapping[str, Any]] | None = None,
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
        AuditError: If the file is no JSON, or not an audit of schema ``privface.audit/2``.
        ImageError: If the contact sheet is neither PNG nor JPEG.
        OutputError: If ``out`` cannot be written.
    """
    document = _load(audit)
    sheet = _data_address(contact_sheet) if contact_sheet is not None else None
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            **_view(document),
            contact_sheet=sheet,
            baseline=[
                _row(row, "figure", "verdict", figures=("old", "new", "difference")) for row in baseline or ()
            ],
            words=Glossary(),
        )
    )
    write_atomic(out, page.encode("utf-8"))
    return out


@functools.cache
def environment() -> Environment:
    """Where this room's pages are filled in: everything is escaped, and control characters are dropped."""
    environment = Environment(
        loader=PackageLoader("privface.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain_text(value) if type(value) is str else value,
    )
    # a script ends where "</script" stands, and ours has none; its hash is what the page's policy lets run
    script = (Path(__file__).parent / "templates" / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment.globals.update(
        decimal=_decimal,
        percent=_percent,
        count=_count,
        modes=_MODES,
        seen_word=_seen_word,
        script=Markup(script),  # noqa: S704  # our own file
        script_hash=f"sha256-{digest}",
    )
    return environment


def _load(audit: Mapping[str, Any] | Path) -> Mapping[str, Any]:
    if isinstance(audit, Path):
        try:
            document = json.loads(audit.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AuditError(
                f"{audit} cannot be read as an audit ({error}).", hint="Give an audit.json file."
            ) from error
    else:
        document = audit
    schema = document.get("schema") if isinstance(document, Mapping) else None
    if schema != SCHEMA:
        raise AuditError(
            f"Expected an audit of schema {SCHEMA!r}, got {schema!r}.", hint="Run the audit again."
        )
    return dict(document)


def _view(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows."""
    rows, leakage = rows_of(document, "matching"), rows_of(document, "leakage")
    # people are recognised by faces; how well the code would do stands with the code
    matching = [row for row in rows if not row.get("white_box")]
    verdict = _part(document, "verdict")
    status = str(verdict.get("status", "unknown"))
    data = _part(document, "data")
    quality = _part(document, "quality")
    worst_retrained = _worst(document, "worst_retrained")
    return {
        "status": status.replace("-", " "),
        "tone": _TONES.get(status, "none"),
        "gender": _has_gender(document),
        "attributes": [
            _attribute_view(row)
            for row in rows_of(document, "attributes")
            if row.get("medium") == "any" and row.get("attribute") != GENDER
        ],
        "headline": verdict.get("headline") or "This audit states no verdict.",
        "sentences": list(verdict.get("sentences") or []),
        "data": data,
        "attacker_people": _part(data, "attacker_people"),
        "worst_retrained": worst_retrained,
        "worst_frozen": _worst(document, "worst_frozen"),
        "worst_upper": Reading.of(_part(document, "worst_upper").get("leakage")),
        "gap": Reading.of(document.get("illusion_gap")),
        "recognition": _recognition(matching),
        "matching": [_matching_view(row) for row in matching],
        "leakage": [_leakage_view(row) for row in sorted(leakage, key=_leakage_order)],
        "code_recognition": _recognition([row for row in rows if row.get("white_box")]),
        "quality": _row(quality, figures=("psnr", "ssim", "bytes_original", "bytes_protected")),
        "cohorts": [_cohort_view(row) for row in rows_of(document, "cohorts")],
        "cohort_limit": FNMR_GROWTH,
        "figures": _figures(document, matching, leakage, worst_retrained),
        "provenance": [(key, _flat(value)) for key, value in sorted(_part(document, "provenance").items())],
        "embedded": script_json(document),
        "parts": [
            _part_view(part, rows)
            for part in (section.part for section in auditor.SECTIONS)
            if part and (rows := rows_of(document, part.key))
        ],
        **_attack_views(document),
    }


def _row(row: Mapping[str, Any], *keys: str, figures: Sequence[str] = ()) -> dict[str, Any]:
    """Some entries of a row as they are, and some of its figures."""
    return {key: row.get(key) for key in keys} | {key: Reading.of(row.get(key)) for key in figures}


def _where(row: Mapping[str, Any]) -> str:
    """What an attacker looks at, in words."""
    return _medium(str(row.get("input") or "image"))


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = document.get(name)
    return part if isinstance(part, Mapping) else {}


def _part_view(part: Part, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    lines = [part.line(row) for row in rows]
    return {
        "part": part,
        "rows": [(name, note, [Reading.of(figure) for figure in figures]) for name, note, figures in lines],
    }


def _worst(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = _part(document, name)
    return {
        "probe": part.get("probe") or "no probe",
        "input": part.get("input"),
        "where": _where(part),
        "white_box": part.get("white_box") is True,
        "leakage": Reading.of(part.get("leakage")),
    }


def _has_gender(document: Mapping[str, Any]) -> bool:
    """Whether the audit measured gender; one of a set without gender labels speaks of other attributes."""
    data = _part(document, "data")
    return bool(data.get("female", 1) or data.get("male", 1))


def _attribute_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """The worst attacker on an attribute, for the switch at the top."""
    return {
        **_row(row, "attribute", "probe", figures=("original", "protected", "chance")),
        "classes": len(row.get("classes") or ()),
        "where": _where(row),
    }


def _medium(medium: str) -> str:
    if medium.startswith(f"{WHITE_BOX}:"):
        return f"the {medium.removeprefix(f'{WHITE_BOX}:')} itself (white box)"
    return "photos" if medium == "image" else f"embeddings of {medium.removeprefix('embedding:')}"


def _recognition(matching: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """TMR before and after of the matcher that recognises protected photos worst, if there is one."""
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(row.get("matcher") for row in matching):
        mine = {
            row.get("mode"): row
            for row in matching
            if row.get("matcher") == name and row.get("impostors") == "all"
        }
        if "P-P" in mine:
            before, after = (_tmr(mine.get(mode, {})) for mode in ("O-O", "P-P"))
            found.append({"matcher": name, "seen": mine["P-P"].get("seen"), "before": before, "after": after})
    # one that could not be measured is no better than the worst
    return min(found, key=lambda m: m["after"].value if m["after"].known else -1.0, default=None)


def _tmr(row: Mapping[str, Any]) -> Reading:
    return Reading.of(_part(row, "tmr").get(HEADLINE_FMR))


def _matching_view(row: Mapping[str, Any]) -> dict[str, Any]:
    tmr = _part(row, "tmr")
    return {
        **_row(row, "matcher", "seen", "mode", "impostors", "genuine_pairs", "impostor_pairs"),
        **_row(row, figures=("eer", "auc", "d_prime", "fte")),
        "tmr": [Reading.of(tmr.get(rate)) for rate in ("0.01", "0.001", "0.0001")],
    }


def _leakage_view(row: Mapping[str, Any]) -> dict[str, Any]:
    leakage = Reading.of(row.get("leakage"))
    measurable = row.get("measurable", True) is not False and leakage.known
    reason = str(row.get("reason") or leakage.reason or "no reason given").removeprefix("not measurable: ")
    return {
        **_row(row, "probe", "kind", "seen"),
        "where": _where(row),
        "white_box": row.get("white_box") is True,
        "original": Reading.of(row.get("original_auc")).leakage,
        "measurable": measurable,
        # What a probe fails to read proves nothing where it cannot read originals either; yet what it
        # does read is a finding, so the figure is kept beside the reason.
        "leakage": leakage if measurable else Reading(reason=plain_text(reason)),
        "uncounted": Reading() if measurable else leakage,
        **_row(
            row,
            figures=("auc", "balanced_accuracy", "eer", "bits", "privacy_gain", "pic", "suppression_rate"),
        ),
        "setting": row.get("setting") or "",
    }


def _leakage_order(row: Mapping[str, Any]) -> tuple[bool, float, str, str]:
    value = Reading.of(row.get("leakage")).value
    rank = math.inf if math.isnan(value) else -value
    return (str(row.get("kind")) != "retrained", rank, str(row.get("probe")), str(row.get("input")))


def _attack_views(document: Mapping[str, Any]) -> dict[str, Any]:
    """What more was tried against the protection, and what the attackers themselves were tested on."""
    gaps = _part(document, "frozen_gaps")
    battery = _part(document, "battery")
    sets, budget = rows_of(document, "set_attack"), rows_of(document, "label_budget")
    curves = rows_of(_part(document, "curves"), "scores")
    spread = []
    for name in dict.fromkeys(c.get("matcher") for c in curves if c.get("impostors", "all") == "all"):
        mine = [c for c in curves if c.get("matcher") == name and c.get("impostors", "all") == "all"]
        title = f"Scores of {plain_text(name)}"
        spread.append({"title": title, "svg": inline_svg(score_figure(mine, title=title))})
    return {
        "gaps": {
            side: _row(_part(gaps, side), "probe", figures=("leakage", "gap"))
            for side in ("seen", "unseen")
            if gaps.get(side)
        },
        "recovery": [
            {
                **_row(row, "recoverer", "probe", figures=("plain", "recovered", "gain")),
                "where": _where(row),
            }
            for row in rows_of(document, "recovery")
        ],
        "averaging": _averaging_view(rows_of(document, "averaging")),
        "growth": {
            "sets": inline_svg(set_figure(sets, title="Leakage of several photos of one person"))
            if sets
            else None,
            "budget": inline_svg(budget_figure(budget, title="Leakage by labelled people"))
            if budget
            else None,
        },
        "set_attack": [_growth_view(row, "photos") for row in sets],
        "label_budget": [_growth_view(row, "people") for row in budget],
        "battery": {
            "made": battery.get("made"),
            "same": battery.get("same_libraries"),
            "leaks": rows_of(battery, "leaks"),
            "nulls": rows_of(battery, "nulls"),
        }
        if battery
        else None,
        "pairs_protocol": [
            {**row, "accuracy": Reading.of(row.get("accuracy"))}
            for row in rows_of(document, "pairs_protocol")
        ],
        "scores": spread,
    }


def _averaging_view(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One line for each attacker and way to average, one column for each number of draws."""
    counts = sorted({int(row["draws"]) for row in rows})
    if not counts:
        return None
    lines: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(row.get(key) for key in ("probe", "kind", "input", "combined")), []).append(
            row
        )
    found = []
    for (probe, kind, medium, combined), mine in lines.items():
        read = {int(row["draws"]): Reading.of(row.get("leakage")) for row in mine}
        found.append(
            {
                "probe": probe,
                "kind": kind,
                "where": _medium(str(medium)),
                "combined": combined,
                "measurable": mine[-1].get("measurable") is not False,
                "leakage": [read.get(count, Reading()) for count in counts],
                "gain": Reading.of(mine[-1].get("gain")),
            }
        )
    return {"counts": counts, "rows": found}


def _growth_view(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    shown = _row(row, "probe", "people", figures=("leakage", "single"))
    return {**shown, "where": _where(row), "count": row.get(key)}


def _cohort_view(row: Mapping[str, Any]) -> dict[str, Any]:
    figures = ("fnmr_before", "fnmr_after", "ratio", "leakage")
    view = _row(row, "cohort", "value", "n", figures=figures)
    return {**view, "over": view["ratio"].known and view["ratio"].value > FNMR_GROWTH}


def _figures(
    document: Mapping[str, Any],
    matching: Sequence[Mapping[str, Any]],
    leakage: Sequence[Mapping[str, Any]],
    worst: Mapping[str, Any],
) -> dict[str, Any]:
    curves = [c for c in rows_of(_part(document, "curves"), "det") if c.get("impostors", "all") == "all"]
    det = []
    for name in dict.fromkeys(curve.get("matcher") for curve in curves):
        mine = [curve for curve in curves if curve.get("matcher") == name]
        title = f"Recognition errors of {plain_text(name)}"
        det.append({"title": title, "svg": inline_svg(det_figure(mine, title=title))})
    title = "Gender leakage of every probe, before and after protection"
    points = _tradeoff_points(matching, leakage, worst)
    trade = "Recognition against gender leakage"
    return {
        "det": det,
        "leakage": inline_svg(leakage_figure(leakage, title=title)) if leakage else None,
        "tradeoff": inline_svg(tradeoff_figure(points, title=trade)) if points else None,
    }


def _tradeoff_points(
    matching: Sequence[Mapping[str, Any]], leakage: Sequence[Mapping[str, Any]], worst: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One point per matcher, for the worst retrained probe; none where a figure is missing."""
    same = [
        row
        for row in leakage
        if row.get("kind") != "frozen"
        and (row.get("probe"), row.get("input")) == (worst["probe"], worst["input"])
    ]
    before = Reading.of(same[0].get("original_auc")).leakage if same else Reading()
    after: Reading = worst["leakage"]
    points = []
    for name in dict.fromkeys(row.get("matcher") for row in matching):
        mine = {
            r.get("mode"): r for r in matching if r.get("matcher") == name and r.get("impostors") == "all"
        }
        old, new = _tmr(mine.get("O-O", {})), _tmr(mine.get("P-P", {}))
        if before.known and after.known and old.known and new.known:
            points.append(
                {
                    "matcher": name,
                    "leakage_before": before.value,
                    "leakage_after": after.value,
                    "tmr_before": old.value,
                    "tmr_after": new.value,
                }
            )
    return points


def inline_svg(svg: str) -> Markup:
    """An SVG of our own making for use inside HTML, which needs no namespace addresses."""
    return Markup(re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg))  # noqa: S704  # labels were escaped by Matplotlib


def script_json(document: Mapping[str, Any]) -> Markup:
    """A document as JSON that cannot end its script element, NaN as null."""
    text = json.dumps(_finite(document), sort_keys=True, ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # no markup character is left


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _data_address(image: bytes) -> str:
    for magic, kind in _TYPES.items():
        if image.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
    raise ImageError("The contact sheet is neither PNG nor JPEG.", hint="Encode it with encode_image.")


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_finite(value), sort_keys=True, ensure_ascii=False)


def _seen_word(seen: Any) -> str:
    return _SEEN.get(seen, "unknown") if isinstance(seen, bool) or seen is None else "unknown"


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
